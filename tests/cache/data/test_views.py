"""Every view has one name, and erased squares have their exact size, at places that no machine draws otherwise."""

import numpy as np
import pytest

from orsanet_cache import OrsanetError
from orsanet_cache.data.images import ERASED_COLOUR, IMAGE_SIZE, Pixels, view_pixels
from orsanet_cache.data.views import AUGMENTED, ERASED, PLACED, UNSEEDED, View, view_names

# round(224 * sqrt(share)): 30 % of 50176 pixels are 15053, a square of 123 has 15129.
SIDES = {"erase-10": 71, "erase-20": 100, "erase-30": 123}
# Top and left per plain picture of level 10, 100 and 200, as numpy 2.4 draws them from SHA-256 of the pixels on x86-64.
PLACES = {
    "erase-10": [(137, 132), (30, 127), (132, 46)],
    "erase-20": [(23, 27), (46, 4), (82, 61)],
    "erase-30": [(95, 2), (6, 93), (66, 61)],
    "erase-30-seed1": [(60, 82), (1, 34), (97, 91)],
    "erase-30-seed2": [(37, 90), (46, 15), (72, 30)],
}


def plain(level: int) -> Pixels:
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), level, np.uint8)


def place(name: str, level: int) -> tuple[int, int]:
    """Top and left of what a view changes in a plain picture."""
    rows, columns = np.nonzero((view_pixels(plain(level), name) != level).any(axis=2))
    return int(rows.min()), int(columns.min())


@pytest.mark.parametrize("kind", [*UNSEEDED, AUGMENTED, *ERASED, *PLACED])
def test_a_name_is_read_back_from_the_view_that_it_names(kind: str) -> None:
    assert View.parse(kind) == View(kind)
    assert str(View(kind)) == kind
    assert View.parse(kind).is_placed == (kind in PLACED)


@pytest.mark.parametrize("kind", [AUGMENTED, *ERASED, *PLACED])
@pytest.mark.parametrize("seed", [1, 2, 10, 999_999_999])
def test_a_seed_is_part_of_the_name(kind: str, seed: int) -> None:
    assert View.parse(f"{kind}-seed{seed}") == View(kind, seed)
    assert str(View(kind, seed)) == f"{kind}-seed{seed}"


@pytest.mark.parametrize(
    "name",
    ["", "mirror", "erase-40", "erase", "Mask", "mask ", "mask-seed", "mask-seed0", "mask-seed01", "mask-seed-1", "mask-seed1.0", "mask-seed1 ",
     "mask-seed١", "mask-seed1-seed2", "mask-seed1234567890", "maskseed1", "-seed1", "clean-seed1", "hflip-seed2", "clean-seed"],
)  # fmt: skip
def test_no_view_has_a_second_name_and_a_wrong_one_hears_what_there_is(name: str) -> None:
    with pytest.raises(OrsanetError) as raised:
        View.parse(name)
    said = str(raised.value)
    assert repr(name) in said
    assert all(kind in said for kind in (*UNSEEDED, AUGMENTED, *ERASED, *PLACED, "-seedN", "mask-seed1", "augmented-K"))
    assert "\n" not in said


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["clean", "hflip"], ("clean", "hflip")),
        (["augmented-1"], ("augmented",)),
        (["mask", "augmented-3"], ("mask", "augmented", "augmented-seed1", "augmented-seed2")),
        (["augmented-seed3", "augmented-2"], ("augmented-seed3", "augmented", "augmented-seed1")),
    ],
)
def test_a_number_of_draws_stands_for_the_first_ones_so_that_more_keep_those_that_are_there(
    given: list[str], meant: tuple[str, ...]
) -> None:
    assert view_names(given) == meant
    assert set(view_names(["augmented-2"])) < set(view_names(["augmented-3"]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["clean", "clean"], "^clean,clean: name each view once; clean is there twice$"),
        (["augmented", "augmented-2"], "augmented is there twice"),
        (["augmented-0"], "unknown view 'augmented-0'"),
        (["augmented-01"], "unknown view 'augmented-01'"),
        (["augmented-1001"], "augmented-1001: a picture has at most 1,000 stored draws"),
        (["augmented-99999999999999999999"], "at most 1,000 stored draws"),
        (["mask-4"], "unknown view 'mask-4'"),
    ],
)
def test_a_wrong_list_of_views_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(OrsanetError, match=said):
        view_names(given)


@pytest.mark.parametrize("kind", PLACED)
def test_pixels_of_a_view_that_needs_landmarks_are_refused(kind: str) -> None:
    with pytest.raises(OrsanetError, match=f"view '{kind}-seed1' is placed by the landmarks of the clean view"):
        view_pixels(plain(0), f"{kind}-seed1")


@pytest.mark.parametrize("name", PLACES)
def test_the_erased_square_covers_its_share_to_the_pixel_at_the_recorded_place(name: str) -> None:
    side = SIDES[View.parse(name).kind]
    assert side == round((int(name.split("-")[1]) / 100) ** 0.5 * IMAGE_SIZE)
    for level, (top, left) in zip((10, 100, 200), PLACES[name], strict=True):
        expected = plain(level)
        expected[top : top + side, left : left + side] = ERASED_COLOUR
        seen = view_pixels(plain(level), name)
        assert (seen != level).any(axis=2).sum() == side**2
        assert np.array_equal(seen, expected), place(name, level)


def test_thirty_per_cent_are_met_to_within_the_rounding_of_the_side() -> None:
    side = SIDES["erase-30"]
    assert (side - 0.5) ** 2 <= 0.30 * IMAGE_SIZE**2 <= (side + 0.5) ** 2


@pytest.mark.parametrize("kind", ERASED)
def test_seeds_erase_squares_of_one_size_at_other_places(kind: str) -> None:
    names = [kind, *(f"{kind}-seed{seed}" for seed in range(1, 6))]
    assert len({place(name, 50) for name in names}) == len(names)
