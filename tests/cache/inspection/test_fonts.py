"""Names of any script are drawn with installed fonts, or stand as numbers that are explained; boxes never appear."""

import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_fonts import MakeFont, bare_home
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orsanet_cache.inspection.fonts import Typeface, fallback_fonts, legend, notice, numbered, printable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fonts of other systems are in other folders")
NAMES = ("anger", "生气", "高兴")


@pytest.fixture
def make_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFont:
    return bare_home(tmp_path, monkeypatch)


def drawn(text: str) -> NDArray[np.uint8]:
    typeface = Typeface(24, [text])
    picture = Image.new("L", (400, 40), 255)
    typeface.write(ImageDraw.Draw(picture), 4, 4, text)
    ink = np.asarray(picture)
    assert ink[:, 4 + round(typeface.length(text)) + 2 :].min() == 255, "wider than its length"
    return ink


def test_without_a_font_a_name_is_a_number_that_the_legend_explains(make_font: MakeFont) -> None:
    assert numbered(NAMES) == ["anger", "#1", "#2"]
    assert numbered(NAMES, first=1) == ["anger", "#2", "#3"]
    assert legend(NAMES) == "#1 生气, #2 高兴"
    said = notice([legend(NAMES), "", legend(NAMES)])
    assert said.startswith("no installed font has the letters of some names, so pictures have numbers in their place: ")
    assert said.count("#1 生气, #2 高兴") == 1
    assert legend(["anger"]) == notice([""]) == notice([]) == ""


def test_a_text_that_no_font_has_is_never_a_box(make_font: MakeFont) -> None:
    assert np.array_equal(drawn("a 生气 b"), drawn("a ?? b"))


def test_the_installed_font_with_the_letters_is_used(make_font: MakeFont) -> None:
    make_font("Latin.ttf", "abc")
    font = make_font("Chinese.ttf", "生气高")
    assert fallback_fonts(["生气"]) == (font,)
    assert numbered(NAMES) == ["anger", "生气", "#2"]
    assert legend(NAMES) == "#2 高兴"
    with_font = drawn("生气 90 %")
    assert not np.array_equal(with_font, drawn("?? 90 %"))
    assert not np.array_equal(with_font, drawn("气生 90 %"))  # each letter has its own shape


def test_letters_of_several_fonts_may_stand_in_one_name(make_font: MakeFont) -> None:
    one, other = make_font("One.ttf", "生"), make_font("Other.ttf", "高気")
    assert set(fallback_fonts(["生気"])) == {one, other}
    assert numbered(["生気"]) == ["生気"]
    assert not np.array_equal(drawn("生気"), drawn("気生"))


def test_plain_fonts_come_before_bold_ones(make_font: MakeFont) -> None:
    make_font("A-Bold.ttf", "生")
    plain = make_font("B.ttf", "生")
    assert fallback_fonts(["生"]) == (plain,)


def test_what_is_no_font_is_passed_over(make_font: MakeFont) -> None:
    font = make_font("B.ttf", "生")
    (font.parent / "A.ttf").write_bytes(b"not a font")
    (font.parent / "LastResort.ttf").write_bytes(font.read_bytes())
    assert fallback_fonts(["生"]) == (font,)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("two\nlines\t\x1b", "two?lines??"), ("\ud800", "?"), ("e\u0301", "é"), ("中\u3000性", "中 性"),
        ("مى\u200cشود", "مىشود"), ("❤\ufe0f", "❤"), ("\u202eabc", "?abc"), ("$x_1$", "$x_1$"), ("", ""),
    ],
)  # fmt: skip
def test_a_name_is_one_line_of_letters_with_a_shape(name: str, line: str) -> None:
    assert printable(name) == line


@pytest.mark.parametrize("name", ["злость", "θυμός", "غضب", "כעס", "colère", "$\\frac{", "a_b"])
def test_letters_of_matplotlibs_own_font_need_no_other(name: str, make_font: MakeFont) -> None:
    assert numbered([name]) == [name]
    assert not np.array_equal(drawn(name), drawn("?" * len(name)))
