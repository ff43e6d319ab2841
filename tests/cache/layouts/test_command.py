"""The command as a process, and as the documents call it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from data_set_trees import (
    draw,
    made,
    raf_list,
    tagged,
    write_lines,
)

from orsanet_cache.commands.manifest import manifest as command

ROOT = Path(__file__).resolve().parents[3]


def test_as_a_process_a_mistake_is_one_message_and_exit_code_one(raf: Path, tmp_path: Path) -> None:
    program = (
        "import click\n"
        "from orsanet_cache.console import CommandGroup\n"
        "from orsanet_cache.commands.manifest import manifest\n"
        "CommandGroup('orsanet-cache', commands={'manifest': manifest})()\n"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, "manifest", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    good = run("rafdb", raf, "--out", tmp_path / "rafdb.toml")
    assert good.returncode == 0, good.stderr
    assert "rafdb: 21 images" in good.stdout
    raf_list(raf).unlink()
    bad = run("rafdb", raf, "--out", tmp_path / "other.toml")
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr
    assert bad.stderr.startswith("Error: ")


def test_the_documented_commands_run(
    raf: Path,
    annotated: Path,
    photographs: Path,
    occlu: Path,
    fer: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    names = ("basic", "AffectNet", "AffectNet2017", "Occlu-FER", "FERPlus", "my-faces")
    for name, folder in zip(names, (raf, annotated, photographs, occlu, fer, class_folders), strict=True):
        folder.rename(desk / f"{name}.moving")  # two of the names are those of fixtures
        (desk / f"{name}.moving").rename(desk / name)
    for name in ("anger", "happiness", "neutral"):
        for number in range(6):
            draw(desk / f"my-pictures/{name}/s{number}_1.png")
    write_lines(desk / "rafdb_occlusion_list.txt", ["test_0003_aligned 3 4"])
    write_lines(desk / "val_raf_db_list.txt", ["0/test_0004_aligned.jpg"])
    write_lines(desk / "val_raf_db_list_45.txt", ["0/test_0004_aligned.jpg"])
    monkeypatch.chdir(desk)
    text = (ROOT / "docs/data-sets.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    seen = set()
    for line in lines:
        program, group, *arguments = shlex.split(line)
        assert (program, group) == ("orsanet-cache", "manifest")
        out = Path(arguments[arguments.index("--out") + 1])
        out.unlink(missing_ok=True)
        out.with_suffix(".csv").unlink(missing_ok=True)
        manifest, _ = made(*arguments)
        seen.add(arguments[0])
    assert seen == set(command.commands) - {"descriptor"}  # which writes no manifest
    assert tagged(manifest, "pose-45") == {"test_0004_aligned"}
