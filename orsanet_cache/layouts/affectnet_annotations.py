"""AffectNet's later release: cropped pictures, one file per annotation.

    train_set/images/N.jpg   train_set/annotations/N_exp.npy      and val_set alike

An annotation is a NumPy array of one value, the expression as a number or as text. The validation
set of 2021 has 3,999 pictures.
"""

from pathlib import Path

from orsanet_cache.errors import OrsanetError, few, refuse_shortage
from orsanet_cache.layouts.affectnet_release import EXPRESSIONS, Annotation, Release
from orsanet_cache.layouts.found import files_below, first_folder
from orsanet_cache.progress import tracked
from orsanet_cache.reading import array_of, read_limited

TRAIN = "train_set"
_SETS = {"train": TRAIN, "valid": "val_set"}
MAX_BYTES = 64 * 1024  # of an annotation
_EXPRESSION = "_exp.npy"  # beside _aro, _val and _lnd, which are not used


def read_annotations(root: Path) -> Release:
    """Return every annotated picture, in the order of their numbers.

    Raises OrsanetError for missing folders and for annotations of another form.
    """
    annotations: list[Annotation] = []
    pictures: dict[str, str] = {}
    for split, folder in _SETS.items():
        pictures[split] = first_folder(root, (f"{folder}/images",), f"AffectNet's {split} pictures")
        files = files_below(root, first_folder(root, (f"{folder}/annotations",), f"AffectNet's {split} annotations"))
        stems = [Path(file).name.removesuffix(_EXPRESSION) for file in files if file.endswith(_EXPRESSION)]
        strange = [stem for stem in stems if not stem.isdecimal()]
        if strange:
            raise OrsanetError(
                f"{root / folder}/annotations: not of the form N{_EXPRESSION}: {few(strange)}; use the original release"
            )
        if not stems:
            raise OrsanetError(f"{root / folder}/annotations: no file N{_EXPRESSION}; unpack the annotations there")
        for stem in tracked(sorted(stems, key=int), len(stems), split, "file", leave=False):
            expression = _expression(root / folder / "annotations" / f"{stem}{_EXPRESSION}")
            annotations.append(Annotation(f"{pictures[split]}/{stem}.jpg", expression, split))
    return Release(annotations, pictures)


def _expression(path: Path) -> int:
    try:
        expression = int(array_of(read_limited(path, MAX_BYTES)).item())
    except (ValueError, OverflowError, OSError) as error:
        refuse_shortage(error, path)
        raise OrsanetError(f"{path}: not an annotation of one number ({error}); unpack it again") from error
    if expression not in EXPRESSIONS:
        raise OrsanetError(f"{path}: unknown expression {expression}; AffectNet has 0 to 10")
    return expression
