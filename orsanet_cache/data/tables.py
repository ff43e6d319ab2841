"""Rows of CSV tables as spreadsheets save them.

A spreadsheet writes a rectangle: columns without a name behind the last one, and rows without any
content. Both are passed over. Content in a column without a name has no meaning here, so it is
reported by the column's number.
"""

from collections.abc import Sequence


def is_blank(cells: Sequence[str]) -> bool:
    """Return whether no cell of a row has content."""
    return not "".join(cells).strip()


def without_blank_end(cells: Sequence[str]) -> list[str]:
    """The cells up to the last one with content."""
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return list(cells[:end])


class Header:
    """The named columns of a table. `names` are stripped of blanks, in their order."""

    def __init__(self, cells: Sequence[str]) -> None:
        stripped = [cell.strip() for cell in without_blank_end(cells)]
        self.width = len(stripped)
        self._place = [(name, at) for at, name in enumerate(stripped) if name]
        self._further = len(cells)  # columns without a name at the end have a place too
        nameless = (at for at, name in enumerate(stripped) if not name)
        self._without_name = (*nameless, *range(self.width, self._further))
        self.names = [name for name, _ in self._place]
        self._is_plain = self.width == len(self._place)  # no column without a name between the others

    def row(self, cells: Sequence[str]) -> dict[str, str]:
        """Column -> cell. Raises ValueError if the row has fewer or more cells with content than columns."""
        if len(cells) < self.width or (len(cells) > self._further and not is_blank(cells[self._further :])):
            raise ValueError(f"{len(cells)} cells, but the header has {self.width}")
        if self._is_plain:  # in half the time
            return dict(zip(self.names, cells, strict=False))
        return {name: cells[at] for name, at in self._place}

    def nameless_content(self, cells: Sequence[str]) -> list[int]:
        """Numbers of columns without a name, counted from 1, in which this row has content."""
        if not self._without_name:
            return []
        return [at + 1 for at in self._without_name if at < len(cells) and cells[at].strip()]


def nameless(column: int) -> str:
    """What is wrong with a column without a name that has content."""
    return f"column {column} has content but no name in line 1; name it, or delete it"
