"""The Makefile installs PyTorch without CUDA where there is no NVIDIA driver and the package index in use has it, else what is locked."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def wheel(folder: Path, name: str, version: str) -> str:
    """An empty package. Returns its SHA-256."""
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        content.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_a_driver_pytorch_without_cuda_is_installed_where_it_is_offered(tmp_path: Path) -> None:
    """From a folder of empty packages: first the build is not there, then it is, then it is not wanted."""
    if (
        shutil.which("make") is None
        or shutil.which("nvidia-smi")
        or Path("/proc/driver/nvidia").exists()
        or sys.platform != "linux"
    ):
        pytest.skip("needs make, and Linux without an NVIDIA driver")
    offered = tmp_path / "offered"
    offered.mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    names = {"torch": "2.14.1", "torchvision": "0.29.1", "nvidia-cuda-runtime": "13.0", "triton": "3.8", "other": "1.0"}
    (tmp_path / "requirements.lock").write_text(
        "# a header\n"
        + "".join(
            f"{name}=={version} ; sys_platform == 'linux' \\\n    --hash=sha256:{wheel(offered, name, version)}\n    # via torch\n"
            for name, version in names.items()
        )
    )

    def made(*variables: str) -> dict[str, str]:
        shutil.rmtree(tmp_path / ".venv", ignore_errors=True)
        environment = {
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(offered),
            "PYTHONWARNINGS": "",
            "PIP_CONFIG_FILE": os.devnull,
        }
        subprocess.run(
            ["make", ".venv/dependencies", f"PYTHON={sys.executable}", *variables],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        (packages,) = (tmp_path / ".venv").glob("lib/python*/site-packages")
        found = importlib.metadata.distributions(path=[str(packages)])
        return {
            each.metadata["Name"]: each.version for each in found if each.metadata["Name"] not in ("pip", "setuptools")
        }

    assert made() == names
    for name in ("torch", "torchvision"):
        wheel(offered, name, f"{names[name]}+cpu")
    assert made() == {"torch": "2.14.1+cpu", "torchvision": "0.29.1+cpu", "other": "1.0"}
    assert made("TORCH=locked") == names
