"""docs/store-format.md: its ten lines read a store with nothing but zarr-python, and the tree it draws is the store's."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from orsanet_cache.store.schema import OPTIONAL

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "store-format.md").read_text(encoding="utf-8")


def ten_lines() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(code)


def test_the_ten_lines_read_what_was_written(world, tmp_path: Path) -> None:
    code = ten_lines()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "store.zarr").symlink_to(world.store)
    save = "import numpy, sys; numpy.savez('last.npz', features=features, landmarks=landmarks, row=row)\n"
    save += "assert not any(name.startswith('orsanet') for name in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{save}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    last = np.load(tmp_path / "last.npz")
    rows = np.array([last["row"]])
    store = world.open_store()
    assert rows.tolist() == [len(store.sample_ids("train")) - 1]
    for field, name in (("segmentation_features", "features"), ("landmarks", "landmarks")):
        assert np.array_equal(last[name], store.read("train", "clean", field, rows)[0])


def test_the_tree_names_every_array_and_no_other(world) -> None:
    tree = PAGE.split("## What is where")[1].split("```")[1]
    drawn = set(re.findall(r"^ +(\w+) +(?:uint8|float\d+) ", tree, flags=re.MULTILINE))
    view = world.store / "train" / "clean"
    assert drawn == {"sample_id", *OPTIONAL, *(path.parent.name for path in view.glob("*/zarr.json"))} - {"crc32c"}
    assert "crc32c/<field>        uint32" in tree
