"""Fonts with a few letters, each a pattern of its own, in a home where no other fonts are installed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

UNITS = 1000
MakeFont = Callable[[str, str], Path]  # file name and letters -> the installed font


def write_font(path: Path, letters: str) -> Path:
    """A TrueType font: the letters are bars of different widths, and a missing one is a large box."""
    names = {ord(letter): f"letter{number}" for number, letter in enumerate(letters)}
    builder = FontBuilder(UNITS, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    widths = {".notdef": 900, **{name: 100 + 37 * number for number, name in enumerate(names.values())}}
    builder.setupGlyf({name: _bar(width) for name, width in widths.items()})
    builder.setupHorizontalMetrics(dict.fromkeys(widths, (UNITS, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=200)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def bare_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFont:
    """Make a folder the only place of installed fonts; the function that is returned installs one."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_DATA_DIRS", str(home / "none"))
    return lambda name, letters: write_font(home / "data" / "fonts" / name, letters)


def _bar(width: int) -> object:
    pen = TTGlyphPen(None)
    for move, *point in (
        ("moveTo", 50, 0),
        ("lineTo", 50, 700),
        ("lineTo", 50 + width, 700),
        ("lineTo", 50 + width, 0),
    ):
        getattr(pen, move)(tuple(point))
    pen.closePath()
    return pen.glyph()
