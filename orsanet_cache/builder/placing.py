"""Views placed by the clean view's landmarks, and checks that a view is drawn by one version.

A sealed view has {occluders: version, placed_by: the clean view's seal} in its provenance. Both are
of one segment: what a store grows by is sealed apart, so the seal that placed a view stays as it
was. Until
then the version is in

    STORE/.commits/<split>/<view>/drawn-by

This file is written before the view's first unit, and deleted with the markers when the view is
sealed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orsanet_cache.builder.occluders import OCCLUDERS_VERSION
from orsanet_cache.data.views import CLEAN, View
from orsanet_cache.errors import OrsanetError, UnreachableError, refuse_shortage
from orsanet_cache.paths import Place
from orsanet_cache.places.files import has_file
from orsanet_cache.store.committed import read_note
from orsanet_cache.store.container import Container
from orsanet_cache.store.reader import PriorStore
from orsanet_cache.store.schema import view_and_addition
from orsanet_cache.store.units import Unit, marker_folder
from orsanet_cache.store.zarr_folder import METADATA
from orsanet_cache.writing.writer import StoreWriter

NOTE = "drawn-by"


class Placement(NamedTuple):
    """A unit's rows in the sealed clean view: landmarks and rejected samples."""

    landmarks: NDArray[np.float32]  # [N, 68, 2]
    rejected: Mapping[str, str]  # sample id -> reason


def is_placed(view: str) -> bool:
    """Whether the view of this name, or that of a group of added fields, needs the clean view's landmarks."""
    return View.parse(view_and_addition(view)[0]).is_placed


def placement(store: PriorStore, unit: Unit) -> Placement:
    """The placement of a unit's occluders.

    Raises OrsanetError if the clean view is not sealed, or is damaged.
    """
    landmarks = store.read(unit.split, CLEAN, "landmarks", unit.rows)
    return Placement(landmarks, store.rejected(unit.split, CLEAN))


def drawn_by(store: PriorStore, split: str) -> dict[str, Any]:
    """The provenance entries of a placed view that describe its drawing."""
    return {"occluders": OCCLUDERS_VERSION, "placed_by": store.sealed(split, CLEAN).seal}


def check_clean(out: Place, splits: Sequence[str], views: Sequence[str]) -> None:
    """Raises OrsanetError for placed views of a split that has no sealed clean view.

    No error is raised if `views` includes the clean view.
    """
    placed = [view for view in views if is_placed(view)]
    if not placed or CLEAN in views:
        return
    store = PriorStore.open(out) if has_file(out, METADATA) else None
    for split in splits:
        if store is None or split not in store.splits or CLEAN not in store.views(split):
            raise OrsanetError(
                f"{out}: {' and '.join(placed)} are placed by the landmarks of the clean view, which is not finished for split "
                f"'{split}'; request it too: --views {CLEAN},{','.join(views)}"
            )


def check_sealed(store: PriorStore, split: str, view: str) -> None:
    """Raises OrsanetError if a sealed placed view differs from what would be drawn now."""
    provenance = store.provenance(split, view)
    where = store.path / split / view
    _check_version(where, provenance.get("occluders"), f"delete {where}")
    if CLEAN in store.views(split) and provenance.get("placed_by") != store.sealed(split, CLEAN).seal:
        raise OrsanetError(
            f"{where}: was placed by the landmarks of another clean view than the store has now; delete {where} and run the same "
            f"command again to redraw it"
        )


def drawn_alike(store: PriorStore, container: Container, split: str, view: str) -> str:
    """Why the placed view of another store is not what would be drawn now, as the end of a sentence; empty if it is.

    The view may be unfinished. `container` is the store's.
    """
    if CLEAN not in store.views(split):
        return "has no finished clean view"
    if view in store.views(split):
        provenance = store.provenance(split, view)
        if provenance.get("placed_by") != store.sealed(split, CLEAN).seal:
            return "was placed by the landmarks of another clean view than the store has now"
        version = str(provenance.get("occluders"))
    else:
        try:
            version = read_note(container, split, view, NOTE).decode(errors="replace")
        except OSError as error:
            refuse_shortage(error, store.path)
            return "has no unit"
    if version != str(OCCLUDERS_VERSION):
        return f"was drawn by version {version} of the occluders, this is version {OCCLUDERS_VERSION}"
    return ""


def begin(writer: StoreWriter, split: str, view: str) -> None:
    """Record the version before a placed view gets its first unit or is opened again.

    Raises OrsanetError if another version drew the view.
    """
    where = writer.path / split / view
    store = writer.segments()
    if split in store.splits and view in store.views(split):
        try:
            provenance = store.provenance(split, view)
        except UnreachableError:
            raise
        except OrsanetError:  # its records are damaged, so none of its units is kept
            provenance = {"occluders": OCCLUDERS_VERSION}
        _check_version(where, provenance.get("occluders"), f"delete {where}")
    note = writer.note(split, view, NOTE, str(OCCLUDERS_VERSION).encode())
    _check_version(
        where, note.decode(errors="replace"), f"delete {where} and {writer.path / marker_folder(split, view)}"
    )


def _check_version(where: Place, found: Any, remedy: str) -> None:
    if str(found) != str(OCCLUDERS_VERSION):
        raise OrsanetError(
            f"{where}: was drawn by version {found} of the occluders, this is version {OCCLUDERS_VERSION}, and one view cannot have both; "
            f"{remedy} and run the same command again to redraw it"
        )
