"""The fields of a build besides those of every store: in the views of a new store, or added to views that there are.

Optional fields that are asked for in a new store are fields of its views. In a store with views,
they and those of networks of one's own are added (additions.py).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from orsanet_cache.errors import OrsanetError, did_you_mean, listed, refuse_shortage
from orsanet_cache.frozen.added import Added
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.places.files import open_files
from orsanet_cache.reading import matching
from orsanet_cache.store.container import DAMAGE, open_container
from orsanet_cache.store.recipe import recipe_differences
from orsanet_cache.store.schema import NETWORK, OPTIONAL, Addition, view_and_addition
from orsanet_cache.store.zarr_folder import METADATA, ZarrFolder


def optional_fields(
    out: Place, asked: Sequence[str] | None, like: Place | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The optional fields of every view of `out`, and those to add to its views, each in the schema's order.

    `asked` are names from OPTIONAL; None: none. The views of a new store that is to copy rows of the
    store `like` have the fields of that store's views. Raises OrsanetError for another name.
    """
    for name in asked or ():
        if name not in OPTIONAL:
            raise OrsanetError(
                f"no optional field '{name}'; choose from {', '.join(OPTIONAL)}{did_you_mean(name, OPTIONAL)}"
            )
    there = _folders(out)
    views = [view for view in there if view.count("/") == 1 and f"{view}/image" in there]
    chosen = tuple(name for name in OPTIONAL if name in (asked or ()))
    if not views and like is None:
        return chosen, ()
    names = (
        {name for name in OPTIONAL if any(f"{view}/{name}" in there for view in views)} if views else _in_views(like)
    )
    here = tuple(name for name in OPTIONAL if name in names)
    return here, tuple(name for name in chosen if name not in here)


def _in_views(path: Place | None) -> set[str]:
    """The names of the fields that views of a store have, finished or not. A damaged view counts as none."""
    assert path is not None
    container, found = open_container(path), set[str]()
    with suppress(*DAMAGE):
        for split in container.groups(""):
            for view in container.groups(split):
                if not view_and_addition(view)[1]:
                    found |= container.arrays(f"{split}/{view}").keys()
    return found


def stored_additions(out: Place) -> dict[str, Addition]:
    """The additions that a store has, finished or not, by name. A damaged group counts as none."""
    found: dict[str, Addition] = {}
    files = open_files(out)
    container = ZarrFolder(files)
    for group in sorted(files.folders(having=METADATA, depth=2)):
        view, name = view_and_addition(group.rpartition("/")[2])
        if "/" not in group or not view or not name:
            continue
        try:
            attributes = container.attributes(group)
            found.setdefault(name, Addition.of(attributes[NETWORK]))
        except DAMAGE as error:
            refuse_shortage(error, out)
    return found


def check_same(out: Place, stored: Mapping[str, Addition], given: Sequence[Added]) -> None:
    """Raises OrsanetError if the store has fields of another network of the same name, or the same field of another one."""
    for addition in (one.addition for one in given):
        if addition.name in stored:
            differences = list(recipe_differences(stored[addition.name].described(), addition.described()))
            if differences:
                raise OrsanetError(
                    f"{out} has fields of another network '{addition.name}'; give this one another name, or build into another "
                    f"folder:\n{listed(differences)}"
                )
            continue
        others = {field.name: other.name for other in stored.values() for field in other.fields}
        if taken := [field.name for field in addition.fields if field.name in others]:
            raise OrsanetError(
                f"{out} has the field '{taken[0]}' of the network '{others[taken[0]]}'; rename the field of '{addition.name}'"
            )


def _folders(out: Place) -> set[str]:
    """The folders of fields, split/view/field, and those above them that a place has."""
    if isinstance(out, Url):
        names = (name.split("/")[:-1] for name in Bucket.open(out).entries())
        found = {"/".join(folders[:3]) for folders in names if len(folders) >= 3}
    else:
        found = {path.relative_to(out).as_posix() for path in matching(out, "*/*/*") if path.is_dir()}
    return found | {folder.rpartition("/")[0] for folder in found}
