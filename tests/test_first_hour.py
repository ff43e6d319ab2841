"""A stranger's way: class folders in, predictions out, with what each command prints as the only guide.

Every call after the first is the last one's error message or its `next:` line, with the stranger's own choices added.
"""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from command_lines import Ended, in_process

import orsanet_cache.cli
import orsanet_train.cli
from orsanet_cache.synthetic.picture import draw

CLASSES = ("生气", "高兴", "中性 脸")
TINY = (
    "epochs=1", "batch_size=4", "rho=0.0", "loss.warmup_epochs=1", "model.depth=1", "model.width=32", "model.multi_scale=false",
    "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]", "selection_split=val",
)  # fmt: skip


def typed(line: str, *choices: object) -> Ended:
    """The end of a command line as a shell would have split it, with further options."""
    program, *arguments = shlex.split(line)
    main = {"orsanet-cache": orsanet_cache.cli.main, "orsanet-train": orsanet_train.cli.main}[program]
    return in_process(main, *arguments, *choices)


def followed(ended: Ended) -> str:
    """The command that a command which ended well prints as the next one."""
    assert ended.returncode == 0, ended.stderr
    (line,) = re.findall(r"^next: (.*)$", ended.stdout, flags=re.MULTILINE)
    return line


def test_each_command_leads_to_the_next(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    for number in range(12):
        place = Path("我的 照片", CLASSES[number % 3], f"{number}.jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        face = draw(seed=5, index=4 * number).jpeg
        if number % 4:
            place.write_bytes(face)
        else:
            (elsewhere / place.name).write_bytes(face)
            place.symlink_to(Path("../..", elsewhere, place.name))

    first = "orsanet-cache manifest folders '我的 照片' --out 数据.toml"
    refused = typed(first)
    assert refused.returncode == 1
    (classes,) = re.findall(r"--classes '.*?'", refused.stderr)
    divided = typed(f"{first} {classes} --split 50/25/25")
    assert "3 image(s) lie outside" in divided.stdout
    assert re.search(r"^  train  中性 脸         2\n  train  生气            2\n", divided.stdout, flags=re.MULTILINE)
    examined = typed(followed(divided))
    built = typed(followed(examined), "--segmenter", world.segmenter, "--landmarks", world.landmarks, "--device", "cpu")
    settings = [part for setting in TINY for part in ("--set", setting)]
    ran = typed(followed(built), *settings, "--device", "cpu")
    assert "best weights chosen on 'valid'" in ran.stdout
    evaluated = typed(followed(ran), "--splits", "val,test", "--device", "cpu")
    reported = typed(followed(evaluated), "--split", "Test", "--device", "cpu")
    networks = ("--segmenter", world.segmenter, "--landmarks", world.landmarks)
    predict = followed(reported).replace("PICTURES", "elsewhere")
    assert typed(predict, *networks, "--device", "cpu").returncode == 0
    table = pd.read_csv("PREDICTIONS/predictions.csv")
    assert set(table["path"]) == {"elsewhere/0.jpg", "elsewhere/4.jpg", "elsewhere/8.jpg"}
    assert {f"p_{name}" for name in CLASSES} <= set(table.columns)
