"""Descriptors of the public data sets, by name: their classes in label order.

They are for tables that were made by hand; `orsanet-cache manifest LAYOUT` writes both files. They
lie in `manifests/`: in a clone beside the packages, in an installed package below `orsanet_cache`.
"""

from pathlib import Path

from orsanet_cache.errors import OrsanetError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def descriptor_names() -> tuple[str, ...]:
    """The names of the data sets that have a descriptor, in alphabetical order."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def descriptor(name: str) -> str:
    """The text of a data set's descriptor, which is TOML.

    Raises OrsanetError for an unknown name.
    """
    names = descriptor_names()
    if name not in names:
        raise OrsanetError(f"no descriptor '{name}'; there are {', '.join(names)}{did_you_mean(name, names)}")
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def _folder() -> Path:
    installed = _PACKAGE / "manifests"
    return installed if installed.is_dir() else _PACKAGE.parent / "manifests"
