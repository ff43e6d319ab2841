"""AffectNet, manually annotated, from either of its two releases.

Expressions 0 … 7 become classes. Expressions 8 (none), 9 (uncertain) and 10 (no face) are left out.
Each release has its own module: affectnet_lists.py reads lists with face boxes, and
affectnet_annotations.py reads one annotation file per picture.

`cap_per_class` limits every class of the training split to the pictures whose names have the
smallest SHA-256. The choice is the same on every machine and does not depend on the order in which
the data set was collected.
"""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Literal

from orsanet_cache.data.manifest import Sample
from orsanet_cache.errors import OrsanetError
from orsanet_cache.layouts.affectnet_annotations import TRAIN, read_annotations
from orsanet_cache.layouts.affectnet_lists import LISTS, read_lists
from orsanet_cache.layouts.affectnet_release import CLASSES, EXPRESSIONS, SPLITS, Release
from orsanet_cache.layouts.found import DataSet, files_below, once, require_pictures, require_train_is_largest


def read_affectnet(root: Path, number_of_classes: Literal[7, 8], cap_per_class: int | None = None) -> DataSet:
    """Read either release below `root`, with 7 classes, or with 8 including contempt.

    Raises OrsanetError if `root` has no release or both, and for an unknown label, a missing
    picture, and exchanged splits.
    """
    newer, older = (root / TRAIN).is_dir(), any((root / name).is_file() for name in LISTS["train"])
    if newer == older:
        found = "both releases were found" if newer else "no release was found"
        raise OrsanetError(
            f"{root}: {found}; one has {TRAIN}/annotations, the other {' or '.join(LISTS['train'])}; "
            f"give the folder that holds exactly one of them as ROOT"
        )
    release = read_annotations(root) if newer else read_lists(root)
    classes = CLASSES[:number_of_classes]
    left_out: dict[str, list[str]] = defaultdict(list)
    samples: list[Sample] = []
    annotations = ((annotation.image, annotation) for annotation in release.annotations)
    for annotation in once(
        annotations, left_out, "annotated several times, with different labels, face boxes or splits"
    ):
        if annotation.expression < number_of_classes:
            samples.append(Sample(annotation.image, annotation.expression, annotation.split, frozenset()))
        else:
            left_out[f"labelled {annotation.expression} {EXPRESSIONS[annotation.expression]}"].append(annotation.image)
    present = {image for folder in set(release.pictures.values()) for image in files_below(root, folder)}
    require_pictures(root, [sample.image for sample in samples], present, "the annotations")
    require_train_is_largest(root, samples)
    annotated = {annotation.image for annotation in release.annotations}
    left_out["without an annotation"] += sorted(present - annotated)
    if cap_per_class is not None:
        samples = _capped(samples, release, cap_per_class, left_out)
    stated = {reason: images for reason, images in left_out.items() if images}
    kept = {sample.image for sample in samples}
    boxes = {entry.image: entry.box for entry in release.annotations if entry.box and entry.image in kept}
    return DataSet(f"affectnet{number_of_classes}", classes, SPLITS, tuple(samples), stated, release.notes, boxes)


def _capped(samples: list[Sample], release: Release, cap: int, left_out: dict[str, list[str]]) -> list[Sample]:
    by_class: dict[int, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            by_class[sample.label].append(sample.image)
    folder = release.pictures["train"]

    def digest(image: str) -> bytes:
        # Without the folder: the choice is the same if the data set is in another folder of ROOT.
        return hashlib.sha256(image.removeprefix(f"{folder}/").encode()).digest()

    beyond = {image for images in by_class.values() for image in sorted(images, key=digest)[cap:]}
    left_out[f"beyond {cap:,} a class in train"] += [sample.image for sample in samples if sample.image in beyond]
    return [sample for sample in samples if sample.image not in beyond]
