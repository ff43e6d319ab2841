"""Cells of CSV tables that a spreadsheet would compute, and the mark that makes them text.

A spreadsheet takes a cell that begins with = + - or @ for a formula, which may run programs or send
the table elsewhere. File, class and tag names come from outside, so every table that people open
has `'` before such a name, as a spreadsheet itself marks text. `unmarked` gives the name back.
"""

import re

MARK = "'"  # of a cell that is text
# Also the wide forms, which spreadsheets take for the same, and blanks that they pass over.
_MARKED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_COMPUTED = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def marked(text: str) -> str:
    """The cell for a text. Any two texts have different cells."""
    return f"{MARK}{text}" if _COMPUTED.match(text) else text


def unmarked(cell: str) -> str:
    """The text of a cell. A cell that nobody marked is its own text, unless it begins with '= or the like."""
    return cell[1:] if cell[:1] == MARK and _MARKED.match(cell) else cell
