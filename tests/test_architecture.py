"""The tree in docs/architecture.md is the folders' own, and no room has become a hall."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orsanet_cache", "orsanet_train")
MOST = 20  # modules of a room, its __init__ among them


def documented() -> set[str]:
    """Modules named in the tree, as paths without a suffix."""
    (tree,) = re.findall(
        r"```\n(orsanet_cache/\n.*?)```", (ROOT / "docs" / "architecture.md").read_text(), flags=re.DOTALL
    )
    found, package, room = set(), "", ""
    for line in tree.splitlines():
        words = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.strip():
            continue
        if not line.startswith(" "):
            package = room = words[0].rstrip("/")
        elif line.startswith("    "):
            found |= {f"{room}/{word}" for word in words}
        elif words[0].endswith("/"):
            room = f"{package}/{words[0].rstrip('/')}"
        else:
            found.add(f"{package}/{words[0]}")
    return found


def there() -> set[str]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {path.relative_to(ROOT).with_suffix("").as_posix() for path in paths if not path.stem.startswith("__")}


def test_the_documented_tree_is_the_folders() -> None:
    assert documented() == there()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_and_its_rooms_stay_small(package: str) -> None:
    assert len([path for path in (ROOT / package).glob("*.py") if not path.stem.startswith("__")]) <= 10
    for room in (ROOT / package).rglob("*/"):
        assert len(list(room.glob("*.py"))) <= MOST, f"{room.name} holds too many modules: is it one room?"


def test_every_room_states_what_it_is_for() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_text(encoding="utf-8").startswith('"""'), path
