"""The examples of docs/clusters.md: bash and YAML read them, and the commands that they come to are ones that the command lines accept.

The scripts run, with programs of the commands' names on the path that write down their arguments. So the shell itself expands the
variables; what each scheduler sets is set here.
"""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented_commands import accepted, without_torchrun

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = sorted((DOCS / "examples").iterdir())
SCRIPTS = [path for path in EXAMPLES if path.suffix == ".sh"]
JOBS = [path for path in EXAMPLES if path.suffix == ".yaml"]
SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_JOB_ID": "77", "SCRATCH": "/scratch"}
PROGRAM = '#!/bin/bash\n{{ printf "%s\\n" "${{0##*/}}" "$@"; echo; }} >> {log}\n{more}\n'


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with programs that write their names and arguments to the file `called`."""
    (tmp_path / "bin").mkdir()
    for name in ("orsanet-cache", "orsanet-train", "torchrun", "scontrol"):
        program(tmp_path, name)
    return tmp_path


def program(desk: Path, name: str, more: str = "") -> None:
    path = desk / "bin" / name
    path.write_text(PROGRAM.format(log=desk / "called", more=more))
    path.chmod(0o755)


def environment(desk: Path, **variables: str) -> dict[str, str]:
    return {"PATH": f"{desk / 'bin'}:{os.environ['PATH']}", **variables}


def calls(desk: Path) -> list[list[str]]:
    """Each program that was called, with its arguments."""
    return [call.split("\n") for call in (desk / "called").read_text().removesuffix("\n\n").split("\n\n")]


def ran(desk: Path, command: list[str], **variables: str) -> list[str]:
    """The words of the one command of ours that a script called."""
    subprocess.run(
        command, cwd=desk, env=environment(desk, **variables), capture_output=True, text=True, timeout=120, check=True
    )
    (words,) = calls(desk)
    (desk / "called").unlink()
    return without_torchrun(words)


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return found


def test_the_page_names_every_example() -> None:
    named = re.findall(r"\(examples/([\w.-]+)\)", (DOCS / "clusters.md").read_text(encoding="utf-8"))
    assert sorted(named) == [path.name for path in EXAMPLES]
    assert {path.stem.split("-")[0] for path in EXAMPLES} == {"build", "train"}
    assert {path.stem.split("-")[1] for path in EXAMPLES} == {"slurm", "kubernetes", "torchrun"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_calls_a_command_that_the_command_line_accepts(desk: Path, script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert os.access(script, os.X_OK)
    words = ran(desk, ["bash", str(script)], **SLURM)
    given = accepted(words).params
    assert words[:2] == (["orsanet-cache", "build"] if "build" in script.name else ["orsanet-train", "run"])
    if script.name == "build-slurm.sh":
        assert given["part"] == (3, 8)
    if script.name == "train-slurm.sh":
        assert given["overrides"] == ("seed=3",)
    assert not given.get("resume")


@pytest.mark.parametrize("script", [path for path in SCRIPTS if "train" in path.name], ids=lambda path: path.name)
def test_a_script_that_is_started_again_resumes_its_run(desk: Path, script: Path) -> None:
    for run in ("run", "runs/seed-3"):
        (desk / run).mkdir(parents=True)
        (desk / run / "run.json").touch()
    words = ran(desk, ["bash", str(script)], **{**SLURM, "SCRATCH": str(desk)})
    assert accepted(words).params["resume"]


def test_the_slurm_script_passes_the_signal_on_and_is_queued_again(desk: Path) -> None:
    script = DOCS / "examples" / "train-slurm.sh"
    program(desk, "orsanet-train", "trap 'exit 143' TERM\ntouch begun\nwhile true; do sleep 0.05; done")
    process = subprocess.Popen(["bash", script], cwd=desk, env=environment(desk, **SLURM))
    until = time.monotonic() + 120
    while not (desk / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=120) == 143
    assert [words[0] for words in calls(desk)] == ["orsanet-train", "scontrol"]
    assert calls(desk)[1] == ["scontrol", "requeue", "77"]
    program(desk, "orsanet-train", "exit 5")  # a failure is one, and not queued again
    assert subprocess.run(["bash", script], cwd=desk, env=environment(desk, **SLURM), check=False).returncode == 5
    assert [words[0] for words in calls(desk)[2:]] == ["orsanet-train"]


@pytest.mark.parametrize("file", JOBS, ids=lambda path: path.name)
def test_the_pods_of_a_job_call_commands_that_the_command_line_accepts(desk: Path, file: Path) -> None:
    job = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pods = job["spec"]["completions"]
    given = [
        accepted(ran(desk, container(job)["command"], JOB_COMPLETION_INDEX=str(index))).params for index in range(pods)
    ]
    if "build" in file.name:
        assert [each["part"] for each in given] == [(index + 1, pods) for index in range(pods)]
    else:
        assert [each["overrides"] for each in given] == [(f"seed={index}",) for index in range(pods)]
        assert [each["out"] for each in given] == [Path(f"/data/runs/seed-{index}") for index in range(pods)]
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    (mounted,) = container(job)["volumeMounts"]
    assert mounted["name"] == volume["name"]
    assert mounted["mountPath"] == "/data"
