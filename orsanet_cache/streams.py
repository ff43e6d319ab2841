"""The standard streams of a command: it works without them, and what it prints cannot control a terminal.

- A stream that is closed when the command starts is replaced by one that drops everything.
- A reader that goes away, as `head` does, ends neither the command nor its result.
- Control characters, which file and class names may contain, are printed as \\x1b.
- Columns of a table stay below each other whatever the script of its names.
"""

import errno
import io
import os
import re
import sys
import unicodedata
from typing import Any

# Control characters except tab and end of line; line separators; changes of the writing direction; halves of
# surrogate pairs, by which Python stands for bytes that are not UTF-8.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINES_UP = re.compile("\n*(\x1b\\[A)*")  # tqdm's move to the line of a bar


def printable(text: str, *, one_line: bool = False) -> str:
    """The text with \\xNN or \\uNNNN for every control character.

    Ends of lines and tabs are kept, unless the text is a name inside one line.
    """
    text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if one_line else text


def padded(text: str, width: int) -> str:
    """The text with spaces at its end, so that it takes `width` columns of a terminal."""
    return text + " " * (width - terminal_width(text))


def terminal_width(text: str) -> int:
    """The columns that a text takes in a terminal: two for a Chinese letter, none for a mark on a letter."""
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def prepare_streams() -> None:
    """Replace the standard streams as described above. Streams that a caller replaced are left as they are."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        _occupy(descriptor)
        stream = getattr(sys, name)
        if stream is None:  # Python found it closed; another file may have its descriptor by now
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, "w" if descriptor else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115
        elif descriptor and stream is getattr(sys, f"__{name}__") and not isinstance(stream, _Text):
            stream.flush()
            buffer = io.BufferedWriter(_Forgiving(descriptor, "wb", closefd=False))
            in_lines = stream.line_buffering or descriptor == 2  # errors and progress bars are printed at once
            setattr(sys, name, _Text(buffer, stream.encoding, "backslashreplace", line_buffering=in_lines))
            setattr(sys, f"__{name}__", getattr(sys, name))


def _occupy(descriptor: int) -> None:
    """Open the descriptor if it is closed: the next file would get it, and a library's messages with it."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)


class _Forgiving(io.FileIO):
    """A pipe or terminal that may lose its reader. From then on everything is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE and not (error.errno == errno.EIO and self.isatty()):
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return memoryview(data).nbytes


class _Text(io.TextIOWrapper):
    """Text without control characters, except those of progress bars."""

    def write(self, text: str) -> int:
        if not _LINES_UP.fullmatch(text):
            bar = text.startswith("\r")  # tqdm returns to the beginning of its line first
            text = "\r" * bar + printable(text[bar:])
        return super().write(text)
