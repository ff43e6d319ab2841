"""The optional fields of a build: those asked for in a new store, those that a begun one has.

All views of a store have the same fields.
"""

from collections.abc import Sequence

from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import Bucket
from orsanet_cache.reading import matching
from orsanet_cache.store.schema import OPTIONAL


def optional_fields(out: Place, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The optional fields with which to build `out`, in the schema's order.

    `asked` are names from OPTIONAL; None: those that the store has. Raises OrsanetError for another
    name, and if the store has views without a field that is asked for.
    """
    for name in asked or ():
        if name not in OPTIONAL:
            raise OrsanetError(
                f"no optional field '{name}'; choose from {', '.join(OPTIONAL)}{did_you_mean(name, OPTIONAL)}"
            )
    found = _folders(out)
    views = [view for view in found if view.count("/") == 1 and f"{view}/image" in found]
    here = tuple(name for name in OPTIONAL if any(f"{view}/{name}" in found for view in views))
    if not views or asked is None:
        return tuple(name for name in OPTIONAL if name in (here if asked is None else asked))
    if absent := [name for name in asked if name not in here]:
        raise OrsanetError(
            f"{out}: its views have no {' and no '.join(absent)}, and a field can be added only to a new store; "
            f"build into another folder with --fields {','.join((*here, *absent))}"
        )
    return here


def _folders(out: Place) -> set[str]:
    """The folders of fields, split/view/field, and those above them that a place has."""
    if isinstance(out, Url):
        names = (name.split("/")[:-1] for name in Bucket.open(out).entries())
        found = {"/".join(folders[:3]) for folders in names if len(folders) >= 3}
    else:
        found = {path.relative_to(out).as_posix() for path in matching(out, "*/*/*") if path.is_dir()}
    return found | {folder.rpartition("/")[0] for folder in found}
