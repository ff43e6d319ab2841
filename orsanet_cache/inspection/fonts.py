"""Text of any script in pictures: fonts that have its letters, or a number in place of a name.

Pillow's own font has Latin letters only. A letter that it lacks is drawn with an installed font. A
name with letters that no font has is drawn as its number, `#3`, and `legend` returns the names of
such numbers for the text beside the picture. No picture shows the box of a missing letter.

Fonts are looked for where the system keeps them; matplotlib's DejaVu Sans, where it is installed,
is the first of them.
"""

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from orsanet_cache.streams import printable as escaped

PROBE = 32  # pixels: size at which a letter is compared with the sign for a missing one
NO_LETTER = "\U0010ffff"  # no font has it, now or later
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
# Fonts with one of these words in their file names come last: of most families, the one without is the plain font.
STYLES = (
    "bold", "italic", "oblique", "black", "light", "thin", "medium", "condensed", "narrow", "mono", "serif", "math", "symbol",
)  # fmt: skip
NO_FONT = Path()
NOT_LETTERS = "lastresort"  # its glyphs show the block of a character


def printable(text: str) -> str:
    """The text as one line that can be drawn.

    Joiners and variation selectors, which have no shape, are left out. Every other character that
    cannot be drawn becomes a question mark: file names may have any.
    """
    shown = []
    for letter in unicodedata.normalize("NFC", text):
        if letter in "\u200c\u200d" or "\ufe00" <= letter <= "\ufe0f":
            continue
        shown.append(" " if unicodedata.category(letter) == "Zs" else letter if letter.isprintable() else "?")
    return "".join(shown)


def numbered(names: Sequence[str], first: int = 0) -> list[str]:
    """The names, with `#n` for each that no font can draw; n is its place, counted from `first`."""
    unreadable = _unreadable(names)
    return [f"#{n}" if name in unreadable else name for n, name in enumerate(names, first)]


def legend(names: Sequence[str], first: int = 0) -> str:
    """The names that `numbered` replaces, with their numbers; empty if there are none."""
    unreadable = _unreadable(names)
    return ", ".join(
        f"#{n} {escaped(name, one_line=True)}" for n, name in enumerate(names, first) if name in unreadable
    )


def notice(legends: Iterable[str]) -> str:
    """The sentence about the numbers in pictures for the terminal; empty if all legends are."""
    several = "; ".join(dict.fromkeys(text for text in legends if text))
    return several and (
        f"no installed font has the letters of some names, so pictures have numbers in their place: {several} "
        "(to have the names drawn, install a font with these letters, for example Noto)"
    )


def fallback_fonts(texts: Iterable[str]) -> tuple[Path, ...]:
    """Installed fonts with the letters that Pillow's own font lacks; few, the best first."""
    letters = frozenset(letter for text in texts for letter in printable(text))
    lacking = frozenset(letter for letter in letters if not _has(None, letter))
    return _chosen(lacking, _installed(_folders())) if lacking else ()


class Typeface:
    """Draws text in one size, each letter with a font that has it; a letter of no font as `?`.

    `texts` are all texts that will be drawn.
    """

    def __init__(self, size: int, texts: Iterable[str]) -> None:
        self.size = size
        self._fonts = (None, *fallback_fonts(texts))

    def length(self, text: str) -> float:
        """The width of a text in pixels."""
        return sum(_font(font, self.size).getlength(part) for font, part in self._parts(text))

    def write(
        self, draw: ImageDraw.ImageDraw, left: float, top: float, text: str, fill: str | tuple[int, int, int] = "black"
    ) -> None:
        """Draw a text whose line begins at (left, top)."""
        baseline = top + _font(None, self.size).getmetrics()[0]
        for font, part in self._parts(text):
            drawn = _font(font, self.size)
            draw.text((left, baseline), part, fill=fill, font=drawn, anchor="ls")
            left += drawn.getlength(part)

    def _parts(self, text: str) -> list[tuple[Path | None, str]]:
        """The text in parts of one font each. A mark stays with its letter, a space with its word."""
        clusters: list[str] = []
        for letter in printable(text):
            if clusters and unicodedata.category(letter).startswith("M"):
                clusters[-1] += letter
            else:
                clusters.append(letter)
        parts: list[tuple[Path | None, str]] = []
        for cluster in clusters:
            font = parts[-1][0] if cluster == " " and parts else self._font_of(cluster)
            if font is NO_FONT:
                font, cluster = None, "?"
            if parts and parts[-1][0] == font:
                parts[-1] = font, parts[-1][1] + cluster
            else:
                parts.append((font, cluster))
        return parts

    def _font_of(self, cluster: str) -> Path | None:
        """The first font with all letters of the cluster."""
        return next((font for font in self._fonts if all(_has(font, letter) for letter in cluster)), NO_FONT)


def _unreadable(names: Sequence[str]) -> set[str]:
    """The names with letters that no font has."""
    fonts = (None, *fallback_fonts(names))
    return {name for name in names if not all(any(_has(font, letter) for font in fonts) for letter in printable(name))}


@lru_cache(maxsize=64)
def _font(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """A font of Pillow; None: its own."""
    if path is not None:
        return ImageFont.truetype(path, size)
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
    return own


@lru_cache(maxsize=64)
def _probe(path: Path | None) -> tuple[ImageFont.FreeTypeFont, bytes] | None:
    """A font that draws letter by letter, and its sign for a missing letter; None: it cannot be used."""
    try:
        font = _font(path, PROBE).font_variant(layout_engine=ImageFont.Layout.BASIC)
        return font, _ink(font, NO_LETTER)
    except OSError:  # damaged, or a font of coloured pictures in one size only
        return None


@lru_cache(maxsize=2**16)
def _has(path: Path | None, letter: str) -> bool:
    """Whether a font draws a letter, and not its sign for a missing one."""
    if letter == " ":
        return True
    probe = _probe(path)
    if probe is None:
        return False
    font, missing = probe
    drawn = _ink(font, letter)
    return any(drawn) and drawn != missing


def _ink(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    picture = Image.new("L", (3 * PROBE, 3 * PROBE))
    ImageDraw.Draw(picture).text((PROBE, PROBE), letter, fill=255, font=font)
    return picture.tobytes()


@lru_cache(maxsize=256)
def _chosen(lacking: frozenset[str], installed: tuple[Path, ...]) -> tuple[Path, ...]:
    """The fonts for some letters: one with all of them, otherwise again and again the one with most."""
    chosen: list[Path] = []
    while lacking:
        best, most = None, frozenset[str]()
        for path in installed:
            found = frozenset(letter for letter in lacking if _has(path, letter))
            if len(found) > len(most):
                best, most = path, found
            if found == lacking:
                break
        if best is None:
            break
        chosen.append(best)
        lacking -= most
    return tuple(chosen)


def _folders() -> tuple[Path, ...]:
    """Where the system keeps fonts."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")
    own = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    shared = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    return own / "fonts", home / ".fonts", *(Path(folder, "fonts") for folder in shared)


@cache
def _installed(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """The font files, matplotlib's and plain fonts first."""
    found = [
        Path(where, name)
        for folder in folders
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and NOT_LETTERS not in name.lower()
    ]
    spec = find_spec("matplotlib")  # not imported
    bundled = [Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"] if spec and spec.origin else []
    return (*(path for path in bundled if path.is_file()), *sorted(found, key=_plainness))


def _plainness(path: Path) -> tuple[int, str]:
    name = path.name.lower()
    return sum(style in name.replace("sansserif", "") for style in STYLES), str(path)
