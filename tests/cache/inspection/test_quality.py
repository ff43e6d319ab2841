"""The measures of a prior's quality are exact on faces drawn by hand, know what they do not know, and do not depend on who else is judged."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from orsanet_cache import FrozenPriors, OrsanetError, PriorStore, view_pixels
from orsanet_cache.frozen.priors import NO_CLASS, in_half_precision, mean_entropy
from orsanet_cache.frozen.shipped import weights_path
from orsanet_cache.inspection.quality import (
    CHUNK,
    LANDMARKS_ON,
    MEASURES,
    MIRRORED,
    PARTS,
    TOLERANCE,
    eye_distance,
    flip_disagreement,
    landmark_agreement,
    part_plausibility,
    prior_quality,
    score,
)
from orsanet_cache.store.schema import LAPA_CLASSES, schema
from orsanet_cache.store.units import UnitRecord
from orsanet_cache.synthetic.picture import draw
from orsanet_cache.writing.convert import convert
from orsanet_cache.writing.writer import StoreWriter

SIZE = 224
ANSWERS = 13  # seven parts, six places
SKIN, LEFT_BROW, RIGHT_BROW, LEFT_EYE, RIGHT_EYE, NOSE, UPPER_LIP, INNER_MOUTH, LOWER_LIP, HAIR = range(1, 11)
MEASURED = list(MEASURES)


def rectangle(drawn: np.ndarray, label: int, x: int, y: int, width: int, height: int) -> None:
    """Centred on (x, y)."""
    drawn[y - height // 2 : y + height // 2, x - width // 2 : x + width // 2] = label


def face_map() -> np.ndarray:
    """uint8 [224, 224]: every part whole, in its place and of its typical size."""
    drawn = np.zeros((SIZE, SIZE), np.uint8)
    rectangle(drawn, HAIR, 112, 30, 160, 50)
    cv2.ellipse(drawn, (112, 124), (72, 88), 0, 0, 360, SKIN, -1)
    for label, x in ((LEFT_BROW, 142), (RIGHT_BROW, 82)):
        rectangle(drawn, label, x, 80, 30, 10)
    for label, x in ((LEFT_EYE, 142), (RIGHT_EYE, 82)):
        rectangle(drawn, label, x, 100, 24, 8)
    rectangle(drawn, NOSE, 112, 124, 36, 40)
    for label, y in ((UPPER_LIP, 164), (INNER_MOUTH, 170), (LOWER_LIP, 176)):
        rectangle(drawn, label, 112, y, 44, 6)
    return drawn


def face_landmarks() -> np.ndarray:
    """float64 [68, 2] in units of the crop, each inside its part of `face_map`; the eyes are 60 pixels apart."""
    points = np.empty((68, 2))
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([112 + 72 * np.cos(angle), 124 + 88 * np.sin(angle)], axis=1)
    for start, x in ((17, 82), (22, 142)):
        points[start : start + 5] = np.stack([np.linspace(x - 12, x + 12, 5), np.full(5, 80)], axis=1)
    points[27:31] = np.stack([np.full(4, 112), np.linspace(106, 130, 4)], axis=1)
    points[31:36] = np.stack([np.linspace(98, 126, 5), np.full(5, 136)], axis=1)
    ring = np.stack([np.cos(np.linspace(-np.pi, np.pi, 6, endpoint=False)),
                     np.sin(np.linspace(-np.pi, np.pi, 6, endpoint=False))], axis=1)  # fmt: skip
    for start, x in ((36, 82), (42, 142)):
        points[start : start + 6] = (x, 100) + ring * (10, 3)
    ring = np.linspace(-np.pi, np.pi, 20, endpoint=False)
    points[48:68] = np.stack([112 + 18 * np.cos(ring), 170 + 5 * np.sin(ring)], axis=1)
    return points / SIZE


def without(label: int) -> np.ndarray:
    drawn = face_map()
    drawn[drawn == label] = SKIN
    return drawn


def relabelled(*pairs: tuple[int, int]) -> np.ndarray:
    """The face with the two labels of each pair exchanged."""
    table = np.arange(256, dtype=np.uint8)
    for one, other in pairs:
        table[[one, other]] = other, one
    return table[face_map()]


def split_nose() -> np.ndarray:
    """Two pieces of the same size, with skin between them."""
    drawn = face_map()
    rectangle(drawn, SKIN, 112, 124, 4, 40)
    return drawn


def nose_of(width: int, height: int) -> np.ndarray:
    drawn = without(NOSE)
    rectangle(drawn, NOSE, 112, 132, width, height)
    return drawn


# Part plausibility


def test_a_whole_face_is_wholly_plausible() -> None:
    assert part_plausibility(face_map()) == 1


@pytest.mark.parametrize(
    ("drawn", "lost"),
    [
        (without(LEFT_EYE), 4),  # the part; under its brow, above the nose, on its side
        (without(RIGHT_BROW), 3),  # the part; above its eye, on its side
        (without(NOSE), 4),  # the part; under both eyes, above the mouth
        (relabelled((LEFT_EYE, RIGHT_EYE)), 1),  # eyes and brows not the same way round
        (split_nose(), 0.5),  # half of it in the largest piece
        (nose_of(4, 4), 1),  # 16 pixels are no nose
        (nose_of(130, 48), 1),  # nor are 6,000
        (np.flipud(face_map()), 5),  # every order from top to bottom
        (np.rot90(face_map(), -1), 5),  # all but one eye beside what it should be above, the eyes one above the other
        (np.full((SIZE, SIZE), SKIN, np.uint8), 12),  # one large face without anything in it
        (np.zeros((SIZE, SIZE), np.uint8), 13),
        (np.full((SIZE, SIZE), HAIR, np.uint8), 13),
    ],
    ids=["no left eye", "no right brow", "no nose", "swapped eyes", "split nose", "tiny nose", "huge nose", "upside down",
         "lying", "skin only", "background only", "hair only"],
)  # fmt: skip
def test_every_defect_costs_the_answers_it_makes_wrong(drawn: np.ndarray, lost: float) -> None:
    assert part_plausibility(drawn) == pytest.approx((ANSWERS - lost) / ANSWERS, abs=1e-12)  # rounding of a mean


def test_lips_and_inner_mouth_are_one_mouth() -> None:
    """A closed mouth has no inner part, and a mouth of one lip is a mouth."""
    drawn = face_map()
    drawn[(drawn == INNER_MOUTH) | (drawn == LOWER_LIP)] = UPPER_LIP
    assert part_plausibility(drawn) == 1


def test_it_does_not_matter_which_side_of_the_picture_is_called_left() -> None:
    both = (LEFT_BROW, RIGHT_BROW), (LEFT_EYE, RIGHT_EYE)
    assert part_plausibility(relabelled(*both)) == 1
    assert part_plausibility(np.fliplr(face_map())) == 1
    assert part_plausibility(np.fliplr(relabelled(*both))) == 1


@settings(deadline=None, max_examples=50)
@given(st.permutations(list(PARTS)[1:]))
def test_each_part_that_turns_into_skin_makes_a_face_less_plausible(names: list[str]) -> None:
    drawn, before = face_map(), 1.0
    for name in names:
        drawn[(drawn >= PARTS[name].first) & (drawn <= PARTS[name].last)] = SKIN
        now = part_plausibility(drawn)
        assert now < before
        before = now
    assert before == pytest.approx(1 / ANSWERS)  # a face with nothing in it


def test_the_more_pixels_are_noise_the_less_plausible_is_a_face() -> None:
    """Each noisier map has the noise of the one before."""
    rng = np.random.default_rng(0)
    when, noise = rng.random((SIZE, SIZE)), rng.integers(0, 11, (SIZE, SIZE), dtype=np.uint8)
    said = [part_plausibility(np.where(when < share, noise, face_map())) for share in (0, 0.02, 0.1, 0.3, 0.6, 1)]
    assert said == sorted(said, reverse=True)
    assert len(set(said)) == len(said)


def test_the_parts_are_the_segmenters_classes() -> None:
    for name, part in PARTS.items():
        covered = LAPA_CLASSES[part.first : part.last + 1]
        if name == "face":
            assert covered == LAPA_CLASSES[1:-1]
        elif name == "mouth":
            assert covered == ("upper lip", "inner mouth", "lower lip")
        else:
            assert covered == (name,)


# Landmark agreement


def test_landmarks_on_their_parts_agree() -> None:
    assert landmark_agreement(face_map(), face_landmarks()) == 1


@pytest.mark.parametrize(
    ("labels", "points"),
    [
        ([NOSE], 9),
        ([LEFT_EYE, RIGHT_EYE], 12),
        ([LEFT_BROW, RIGHT_BROW], 10),
        ([UPPER_LIP, INNER_MOUTH, LOWER_LIP], 20),
    ],
)
def test_landmarks_of_a_part_that_is_not_there_do_not_agree(labels: list[int], points: int) -> None:
    drawn = face_map()
    drawn[np.isin(drawn, labels)] = SKIN
    assert landmark_agreement(drawn, face_landmarks()) == pytest.approx((51 - points) / 51)


@pytest.mark.parametrize(("away", "agreeing"), [(0, 51), (5, 51), (7, 42)])
def test_near_is_a_tenth_of_the_eye_distance(away: int, agreeing: int) -> None:
    """The eyes are 60 pixels apart. The nose is one pixel, its landmarks `away` pixels beside it."""
    drawn = without(NOSE)
    drawn[124, 112] = NOSE
    landmarks = face_landmarks()
    assert TOLERANCE * eye_distance(landmarks) * SIZE == pytest.approx(6)
    landmarks[27:36] = np.array([112.5 + away, 124.5]) / SIZE
    assert landmark_agreement(drawn, landmarks) == pytest.approx(agreeing / 51)


def test_landmarks_outside_the_picture_do_not_agree() -> None:
    drawn = np.full((SIZE, SIZE), NOSE, np.uint8)
    landmarks = face_landmarks()
    assert landmark_agreement(drawn, landmarks) == pytest.approx(9 / 51)
    for outside in ((1.0, 0.5), (0.5, 1.0), (-1e-3, 0.5), (0.5, -1e-3), (1e6, 1e6)):
        landmarks[27:36] = outside
        assert landmark_agreement(drawn, landmarks) == 0


def test_both_eyes_and_both_brows_are_one_part_for_a_landmark() -> None:
    drawn = relabelled((LEFT_EYE, RIGHT_EYE), (LEFT_BROW, RIGHT_BROW))
    assert landmark_agreement(drawn, face_landmarks()) == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_the_more_of_a_map_is_lost_the_fewer_landmarks_agree(seed: int, spread: float) -> None:
    """Of landmarks anywhere."""
    rng = np.random.default_rng(seed)
    landmarks = face_landmarks() + rng.normal(0, spread, (68, 2))
    when = cv2.resize(rng.random((8, 8)), (SIZE, SIZE))
    said = [
        landmark_agreement(np.where(when < lost, np.uint8(0), face_map()), landmarks) for lost in np.linspace(0, 1, 6)
    ]
    assert said == sorted(said, reverse=True)


def test_the_landmarks_of_the_parts_are_the_51_inner_ones() -> None:
    indices = [index for points in LANDMARKS_ON.values() for index in range(points.start, points.stop)]
    assert sorted(indices) == list(range(17, 68))


# Agreement between the views


def test_mirroring_twice_is_doing_nothing() -> None:
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(68))
    mirrored = face_landmarks()[MIRRORED] * (-1, 1) + (1, 0)
    assert np.abs(mirrored[:17] - face_landmarks()[:17]).max() < 1e-12  # rounding; its outline is symmetric
    assert (face_landmarks()[36:42].mean(axis=0) < face_landmarks()[42:48].mean(axis=0)).tolist()[0]


def test_landmarks_that_follow_the_mirror_disagree_by_nothing() -> None:
    rng = np.random.default_rng(0)
    landmarks = face_landmarks() + rng.normal(0, 0.02, (5, 68, 2))
    mirrored = landmarks[:, MIRRORED] * (-1, 1) + (1, 0)
    assert flip_disagreement(landmarks, mirrored).max() < 1e-12  # rounding of 1 - (1 - x)


def test_disagreement_is_the_mean_distance_in_eye_distances() -> None:
    landmarks = face_landmarks()[None]
    mirrored = landmarks[:, MIRRORED] * (-1, 1) + (1, 0)
    assert flip_disagreement(landmarks, mirrored + np.array([0, 60 / SIZE])) == pytest.approx([1])
    one = mirrored.copy()
    one[0, 8, 0] += 30 / SIZE  # one of 68 points, by half an eye distance
    assert flip_disagreement(landmarks, one) == pytest.approx([0.5 / 68])
    assert flip_disagreement(2 * landmarks, 2 * mirrored - (1, 0)) == pytest.approx([0], abs=1e-12)  # rounding


def test_landmarks_with_both_eyes_in_one_place_disagree_without_end() -> None:
    collapsed = np.full((2, 68, 2), 0.5)
    assert flip_disagreement(collapsed, collapsed).tolist() == [np.inf, np.inf]


# Score


def measures(*lines: tuple[float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=MEASURED)


def test_the_best_in_everything_scores_one_and_the_worst_one_nth() -> None:
    table = measures((0.1, 1.0, 0.9, 0.02), (0.5, 0.2, 0.1, 0.9), (0.2, 0.8, 0.6, 0.3), (0.3, 0.5, 0.4, np.inf))
    assert score(table).tolist() == [1, pytest.approx((1 + 1 + 1 + 2) / 16), 0.75, pytest.approx((2 + 2 + 2 + 1) / 16)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 4), min_size=1, max_size=12))
def test_the_score_is_scipys_percentile_rank_averaged_over_the_measures(lines: list[tuple[float, ...]]) -> None:
    table = measures(*lines)  # type: ignore[arg-type]
    ranks = []
    for name, large_is_good in MEASURES.items():
        values = table[name].to_numpy() * (1 if large_is_good else -1)
        ranks.append([percentileofscore(values, value, kind="rank") / 100 for value in values])
    np.testing.assert_allclose(score(table), np.mean(ranks, axis=0), rtol=1e-12)


def test_a_measure_that_nobody_has_does_not_count() -> None:
    known = measures((0.1, 1.0, 0.9, np.nan), (0.5, 0.2, 0.1, np.nan))
    assert score(known).tolist() == [1, 0.5]
    partly = measures((0.1, 1.0, 0.9, 0.3), (0.5, 0.2, 0.1, np.nan), (0.6, 0.1, 0.0, 0.2))
    assert score(partly).tolist() == pytest.approx([(1 + 1 + 1 + 1 / 2) / 4, 2 / 3, (1 / 3 * 3 + 1) / 4])


# Of a store


COUNT = CHUNK + 20
REJECTED = 7  # in hflip only
REFUSED = 9  # in both


def drawn_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps [N, 224, 224] that have lost a piece, landmarks [N, 68, 2] that are more or less off, entropies [N]."""
    rng = np.random.default_rng(0)
    maps = np.tile(face_map(), (COUNT, 1, 1))
    for drawn, (x, y), radius in zip(maps, rng.integers(40, 184, (COUNT, 2)), rng.integers(1, 60, COUNT), strict=True):
        cv2.circle(drawn, (int(x), int(y)), int(radius), 0, -1)
    landmarks = face_landmarks() + rng.normal(0, 0.05, (COUNT, 68, 2)) * rng.random((COUNT, 1, 1))
    return maps, landmarks.astype(np.float32), rng.random(COUNT, dtype=np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PriorStore:
    """More rows than a chunk, in `test` with both views, in `valid` with the clean one."""
    folder = tmp_path_factory.mktemp("quality") / "store.zarr"
    fields = schema(segmentation_channels=2, landmark_channels=2, feature_dtype="float16")
    maps, landmarks, entropy = drawn_rows()
    with StoreWriter.open(folder, {"feature_dtype": "float16"}, fields) as writer:
        for split, views in (("test", ("clean", "hflip")), ("valid", ("clean",))):
            writer.add_split(split, [f"images/{row}.png" for row in range(COUNT)])
            for view in views:
                writer.add_view(split, view)
                for unit in writer.units(split):
                    rows = unit.rows
                    arrays = {f.name: np.zeros((rows.stop - rows.start, *f.shape), f.dtype) for f in fields}
                    arrays["segmentation_map"][:] = maps[rows]
                    arrays["segmentation_entropy"][:] = entropy[rows]
                    arrays["landmarks"][:] = landmarks[rows]
                    rejected = [REFUSED, REJECTED] if view == "hflip" else [REFUSED]
                    reasons = {f"images/{row}.png": "cut off" for row in rejected if rows.start <= row < rows.stop}
                    writer.commit(unit, view, arrays, UnitRecord(["ab" * 32] * (rows.stop - rows.start), reasons))
                assert writer.seal(split, view, {}) == []
    return PriorStore.open(folder)


@pytest.fixture(scope="module")
def accepted(store: PriorStore) -> np.ndarray:
    return np.flatnonzero(store.accepted("test", "clean"))


@pytest.fixture(scope="module")
def judged(store: PriorStore, accepted: np.ndarray) -> pd.DataFrame:
    return prior_quality(store, "test", "clean", accepted)


def test_every_row_gets_its_own_measures(judged: pd.DataFrame, accepted: np.ndarray) -> None:
    maps, landmarks, entropy = drawn_rows()
    assert list(judged.columns) == ["image", *MEASURED, "score"]
    assert judged.index.tolist() == accepted.tolist()
    assert judged["image"].tolist() == [f"images/{row}.png" for row in accepted]
    assert judged["segmentation_entropy"].tolist() == entropy[accepted].tolist()
    assert judged["part_plausibility"].tolist() == [part_plausibility(maps[row]) for row in accepted]
    expected = [landmark_agreement(maps[row], landmarks[row]) for row in accepted]
    assert judged["landmark_agreement"].tolist() == expected
    flipped = pd.Series(flip_disagreement(landmarks[accepted], landmarks[accepted]), accepted, dtype=np.float64)
    flipped[REJECTED] = np.nan
    np.testing.assert_array_equal(judged["flip_disagreement"], flipped)
    assert judged["score"].tolist() == score(judged).tolist()


def test_the_order_of_the_rows_does_not_matter(store: PriorStore, accepted: np.ndarray, judged: pd.DataFrame) -> None:
    order = np.random.default_rng(1).permutation(accepted)
    pd.testing.assert_frame_equal(prior_quality(store, "test", "clean", order), judged.loc[order])


def test_a_row_is_judged_the_same_alone(store: PriorStore, judged: pd.DataFrame) -> None:
    """But for its score, which compares."""
    for row in (0, REJECTED, CHUNK - 1, CHUNK, COUNT - 1):
        alone = prior_quality(store, "test", "clean", np.array([row]))
        pd.testing.assert_frame_equal(alone[["image", *MEASURED]], judged.loc[[row], ["image", *MEASURED]])
        assert alone["score"].tolist() == [1]


def test_no_rows_are_no_lines(store: PriorStore, judged: pd.DataFrame) -> None:
    nothing = prior_quality(store, "test", "clean", np.array([], np.int64))
    assert list(nothing.columns) == list(judged.columns)
    assert len(nothing) == 0


def test_without_a_mirrored_view_the_disagreement_is_not_known(store: PriorStore, judged: pd.DataFrame) -> None:
    both = judged.index.drop(REJECTED).to_numpy()
    assert judged.loc[both, "flip_disagreement"].notna().all()
    for split, view in (("valid", "clean"), ("test", "hflip")):
        quality = prior_quality(store, split, view, both)
        assert quality["flip_disagreement"].isna().all()
        assert quality["score"].tolist() == score(judged.loc[both].assign(flip_disagreement=np.nan)).tolist()


def test_a_rejected_row_is_refused_by_name(store: PriorStore) -> None:
    with pytest.raises(OrsanetError, match=r"'images/9\.png' was rejected in test/clean \(cut off\); judge only rows"):
        prior_quality(store, "test", "clean", np.array([0, REFUSED]))


def test_hdf5_gives_the_same_answers(
    store: PriorStore, accepted: np.ndarray, judged: pd.DataFrame, tmp_path: Path
) -> None:
    converted = convert(store.path, tmp_path / "store.h5")
    pd.testing.assert_frame_equal(prior_quality(converted, "test", "clean", accepted), judged)


# Of what real networks say


def test_blurred_faces_have_worse_priors_by_every_measure() -> None:
    """In the mean over the uncovered of twelve synthetic faces, by the demo networks."""
    faces = [face for face in (draw(11, index) for index in range(12)) if not face.covered.any()]
    assert len(faces) >= 5
    clean = np.stack([view_pixels(face.image, "clean") for face in faces])
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), 6) for picture in clean])
    priors = FrozenPriors.load(weights_path(Path("demo"), "segmenter"), weights_path(Path("demo"), "landmarks"))
    means = {}
    for name, pictures in (("clean", clean), ("blurred", blurred)):
        said = priors(torch.from_numpy(pictures))
        mirrored = priors(torch.from_numpy(np.ascontiguousarray(pictures[:, :, ::-1])))
        maps, landmarks = said.segmentation_map.numpy(), said.landmarks.numpy()
        means[name] = {
            "segmentation_entropy": float(said.segmentation_entropy.mean()),
            "part_plausibility": np.mean([part_plausibility(each) for each in maps]),
            "landmark_agreement": np.mean([landmark_agreement(*each) for each in zip(maps, landmarks, strict=True)]),
            "flip_disagreement": flip_disagreement(landmarks, mirrored.landmarks.numpy()).mean(),
        }
    for measure, large_is_good in MEASURES.items():
        better, worse = ("clean", "blurred") if large_is_good else ("blurred", "clean")
        assert means[better][measure] > means[worse][measure]


# The entropy that the networks say


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 40), st.integers(1, 3))
def test_the_entropy_is_torchs_categorical_entropy(seed: int, scale: float, batch: int) -> None:
    logits = scale * torch.randn(batch, 11, 9, 7, generator=torch.Generator().manual_seed(seed))
    expected = torch.distributions.Categorical(logits=logits.double().movedim(1, -1)).entropy().mean((1, 2)) / np.log(
        11
    )
    said = mean_entropy(logits)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said.double(), expected, rtol=1e-5, atol=1e-7)  # float32


def test_the_entropy_is_nothing_for_the_sure_and_one_for_who_knows_nothing() -> None:
    sure = torch.zeros(1, 11, 8, 8)
    sure[:, 3] = 1000
    assert mean_entropy(sure).tolist() == [0]
    assert mean_entropy(torch.full((2, 11, 8, 8), -5.0)).tolist() == pytest.approx([1, 1], abs=1e-6)  # float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_gives_an_entropy_that_is_none_for_that_picture_alone(value: float) -> None:
    logits = torch.randn(3, 11, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[1, 4, 2, 2] = value
    assert mean_entropy(logits).isfinite().tolist() == [True, False, True]


def test_the_entropy_of_half_precision_logits_is_computed_in_single() -> None:
    logits = 5 * torch.randn(2, 11, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_entropy(logits.half()), mean_entropy(logits.half().float()))


def test_a_pictures_entropy_does_not_depend_on_its_batch_or_the_number_of_threads() -> None:
    """To the last bit: of the same logits."""
    logits = 5 * torch.randn(5, 11, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        said = []
        for number in (1, 2):
            torch.set_num_threads(number)
            said += [mean_entropy(logits), torch.cat([mean_entropy(logits[row : row + 1]) for row in range(5)])]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(said[0], other) for other in said[1:])


def test_the_networks_say_the_entropy_of_their_own_logits(world) -> None:
    priors = world.load_priors()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8))
    logits: list[torch.Tensor] = []
    with priors.segmenter.register_forward_hook(lambda _module, _inputs, outputs: logits.append(outputs[1])):
        said = priors(images)
    assert torch.equal(said.segmentation_entropy, mean_entropy(logits[0]))
    assert (said.segmentation_map != NO_CLASS).all()


def test_networks_in_half_precision_say_a_finite_entropy(world) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8))
    said = in_half_precision(world.load_priors())(images)
    assert said.segmentation_entropy.dtype == torch.float32
    assert ((said.segmentation_entropy > 0) & (said.segmentation_entropy < 1)).all()


def test_both_formats_keep_one_entropy_per_image(world, tmp_path: Path) -> None:
    """That it is what the networks said is shown with the other fields of a build."""
    one, other = world.open_store(), convert(world.store, tmp_path / "store.h5")
    for view in ("clean", "hflip"):
        entropy = one.read("train", view, "segmentation_entropy", slice(None))
        assert entropy.shape == (14,)
        assert ((entropy > 0) & (entropy < 1)).all()
        assert len(set(entropy.tolist())) > 1
        for rows in (np.arange(14), np.array([5, 1, 5])):
            read = other.read("train", view, "segmentation_entropy", rows)
            assert read.dtype == np.float32
            assert read.tolist() == entropy[rows].tolist()
