"""The descriptors of public data sets come with the package and are found by name."""

from pathlib import Path

import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError
from orsanet_cache.cli import main
from orsanet_cache.data.descriptors import descriptor, descriptor_names

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests"


def test_every_descriptor_is_found_by_its_name() -> None:
    assert descriptor_names() == tuple(sorted(path.stem for path in MANIFESTS.glob("*.toml")))
    for name in descriptor_names():
        assert descriptor(name) == (MANIFESTS / f"{name}.toml").read_text(encoding="utf-8")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(OrsanetError, match=r"no descriptor 'rafbd'; there are affectnet7, .*; did you mean 'rafdb'\?$"):
        descriptor("rafbd")


def test_the_command_lists_prints_and_copies_them(tmp_path: Path) -> None:
    assert in_process(main, "manifest", "descriptor").stdout.split() == list(descriptor_names())
    assert in_process(main, "manifest", "descriptor", "rafdb").stdout == descriptor("rafdb")
    out = tmp_path / "new" / "rafdb.toml"
    assert in_process(main, "manifest", "descriptor", "rafdb", "--out", out).returncode == 0
    assert out.read_text(encoding="utf-8") == descriptor("rafdb")
    for arguments, reason in ((["rafdb"], "already exists and is not overwritten"), ([], "name the data set too")):
        ended = in_process(main, "manifest", "descriptor", *arguments, "--out", out)
        assert ended.returncode == 1
        assert reason in ended.stderr
