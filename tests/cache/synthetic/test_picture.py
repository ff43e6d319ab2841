"""Pictures and their truth agree: landmarks on visible parts, nothing hidden is labelled, every tag is true of its picture."""

import cv2
import numpy as np
import pytest

from orsanet_cache.data.images import decode
from orsanet_cache.synthetic.expression import CLASSES
from orsanet_cache.synthetic.occluders import TAGS
from orsanet_cache.synthetic.picture import SyntheticFace, draw

# LaPa labels that the landmarks of a part may lie on; "left" is the subject's, the picture's right.
PARTS = {
    "right brow": (slice(17, 22), [3]), "left brow": (slice(22, 27), [2]), "right eye": (slice(36, 42), [5]),
    "left eye": (slice(42, 48), [4]), "nose": (slice(27, 36), [6]), "mouth": (slice(48, 68), [7, 8, 9]),
}  # fmt: skip
HAIR = 10
LIPS, EYES = [7, 8, 9], [4, 5]


def grown(region: np.ndarray, pixels: int) -> np.ndarray:
    size = 2 * pixels + 1
    return cv2.dilate(region.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


def visible(face: SyntheticFace) -> np.ndarray:
    """Which landmarks are in the picture and in front of them is neither occluder nor hair."""
    hidden = grown(face.covered | (face.segmentation_map == HAIR), 2)
    columns, rows = np.floor(face.landmarks * 224).astype(int).T
    inside = (columns >= 0) & (columns < 224) & (rows >= 0) & (rows < 224)
    return inside & ~hidden[rows.clip(0, 223), columns.clip(0, 223)]


@pytest.mark.parametrize("part", PARTS)
def test_visible_landmarks_lie_on_their_part(faces: list[SyntheticFace], part: str) -> None:
    """Within two pixels of 224 of the part's label."""
    which, labels = PARTS[part]
    checked = 0
    for face in faces:
        near = grown(np.isin(face.segmentation_map, labels), 2)
        points = face.landmarks[which][visible(face)[which]]
        columns, rows = np.floor(points * 224).astype(int).T
        assert near[rows, columns].all()
        checked += len(points)
    assert checked > 0.6 * len(faces) * (which.stop - which.start)


def test_the_jaw_line_borders_the_face(faces: list[SyntheticFace]) -> None:
    checked = 0
    for face in faces:
        skin = np.isin(face.segmentation_map, range(1, 10))
        border = grown(skin, 3) & grown(~skin, 3)
        points = face.landmarks[:17][visible(face)[:17]]
        points = points[points[:, 1] < 0.97]  # a chin at the picture's edge has no border in it
        columns, rows = np.floor(points * 224).astype(int).T
        assert border[rows, columns].all()
        checked += len(points)
    assert checked > 8 * len(faces)


def test_landmarks_are_in_the_picture(faces: list[SyntheticFace]) -> None:
    points = np.stack([face.landmarks for face in faces])
    assert points.dtype == np.float32
    assert ((points > 0) & (points < 1)).mean() > 0.995
    assert points.min() > -0.05
    assert points.max() < 1.05


def test_an_occluder_hides_what_it_covers_and_nothing_else(faces: list[SyntheticFace]) -> None:
    for index, face in enumerate(faces[:60]):
        assert (face.segmentation_map[face.covered] == 0).all()
        assert ("occluded" in face.tags) == bool(face.covered.any())
        if "occluded" in face.tags:
            free = draw(20, index, ())
            assert not free.covered.any()
            assert np.array_equal(face.segmentation_map, np.where(face.covered, 0, free.segmentation_map))
            assert np.array_equal(face.landmarks, free.landmarks)


@pytest.mark.parametrize("tag", TAGS)
def test_every_tag_is_true_of_its_picture(tag: str) -> None:
    for index in range(12):
        free, hidden = draw(5, index, ()), draw(5, index, (tag,))
        assert hidden.tags == ("occluded", tag)
        covered = hidden.covered
        assert 0.008 < covered.mean() < 0.6
        small = cv2.resize(covered.astype(np.uint8), (160, 160), interpolation=cv2.INTER_NEAREST) > 0
        change = np.abs(hidden.image.astype(int) - free.image.astype(int)).max(axis=2)
        assert (change[small] > 8).mean() > 0.4
        # Beyond the occluder and its shadow the picture is the same, but for what JPEG makes of it.
        assert np.median(change[~small]) <= 8
        assert region_is_hidden(tag, free, hidden), index


def region_is_hidden(tag: str, free: SyntheticFace, hidden: SyntheticFace) -> bool:
    """What this occluder does to the parts of a face."""

    def left(labels: list[int]) -> float:
        return np.isin(hidden.segmentation_map, labels).sum() / np.isin(free.segmentation_map, labels).sum()

    rows, columns = np.nonzero(hidden.covered)
    brows, mouth = free.landmarks[17:27, 1].mean() * 224, free.landmarks[48:68, 1].mean() * 224
    match tag:
        case "mask":
            return left(LIPS) < 0.02 and left(EYES) > 0.9
        case "sunglasses":
            return left(EYES) < 0.1 and left(LIPS) > 0.95
        case "glasses":
            return left(EYES) > 0.6 and left(LIPS) > 0.95
        case "cap":
            return bool(rows.mean() < brows) and left(EYES) > 0.6 and left(LIPS) > 0.95
        case "face":
            return bool(columns.min() == 0 or columns.max() == 223) and left(list(range(1, 11))) < 1
        case _:  # hand, microphone: from below, over the mouth's surroundings
            return bool(rows.max() == 223 and rows.min() < mouth + 12) and left([1, 6, *LIPS]) < 0.97


def test_two_occluders_are_both_there(faces: list[SyntheticFace]) -> None:
    double = [(index, face.tags[1:]) for index, face in enumerate(faces) if len(face.tags) == 3]
    assert double
    for index, tags in double:
        both = draw(20, index).covered
        for tag in tags:
            (other,) = set(tags) - {tag}
            assert (both & ~draw(20, index, (other,)).covered).sum() > 200


def test_a_picture_is_a_function_of_seed_and_index(faces: list[SyntheticFace]) -> None:
    for index in (0, 57, 123):
        again = draw(20, index)
        assert again.jpeg == faces[index].jpeg
        assert np.array_equal(again.segmentation_map, faces[index].segmentation_map)
        assert np.array_equal(again.landmarks, faces[index].landmarks)
        assert again.jpeg != draw(21, index).jpeg
    assert len({face.jpeg for face in faces}) == len(faces)


def test_shapes_types_and_the_bytes_that_are_saved(faces: list[SyntheticFace]) -> None:
    for face in faces[:20]:
        assert face.image.shape == (160, 160, 3)
        assert np.array_equal(face.image, decode(face.jpeg))
        assert face.segmentation_map.shape == face.covered.shape == (224, 224)
        assert face.segmentation_map.dtype == np.uint8
        assert face.landmarks.shape == (68, 2)
        assert face.label in CLASSES
        assert 0 <= face.intensity <= 1
        assert (face.intensity == 0) == (face.label == "neutral")


def test_pictures_are_neither_black_nor_burnt_out(faces: list[SyntheticFace]) -> None:
    for face in faces:
        skin = cv2.resize(face.segmentation_map, (160, 160), interpolation=cv2.INTER_NEAREST) == 1
        assert 20 < face.image[skin].mean() < 250
        assert (face.image[skin].min(axis=1) == 255).mean() < 0.2
