"""The optional fields of a build: those asked for in a new store, those that a begun one has.

All views of a store have the same fields.
"""

from collections.abc import Sequence
from pathlib import Path

from orsanet_cache.errors import OrsanetError, did_you_mean
from orsanet_cache.reading import matching
from orsanet_cache.store.schema import OPTIONAL
from orsanet_cache.store.zarr_folder import METADATA


def optional_fields(out: Path, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The optional fields with which to build `out`, in the schema's order.

    `asked` are names from OPTIONAL; None: those that the store has. Raises OrsanetError for another
    name, and if the store has views without a field that is asked for.
    """
    for name in asked or ():
        if name not in OPTIONAL:
            raise OrsanetError(
                f"no optional field '{name}'; choose from {', '.join(OPTIONAL)}{did_you_mean(name, OPTIONAL)}"
            )
    views = [file.parent for file in matching(out, f"*/*/{METADATA}")] if out.is_dir() else []
    views = [view for view in views if (view / "image").is_dir()]
    here = tuple(name for name in OPTIONAL if any((view / name).is_dir() for view in views))
    if not views or asked is None:
        return tuple(name for name in OPTIONAL if name in (here if asked is None else asked))
    if absent := [name for name in asked if name not in here]:
        raise OrsanetError(
            f"{out}: its views have no {' and no '.join(absent)}, and a field can be added only to a new store; "
            f"build into another folder with --fields {','.join((*here, *absent))}"
        )
    return here
