"""The Python examples of an exported model's card, in processes of their own."""

import re
import subprocess
import sys
from pathlib import Path


def examples(folder: Path) -> dict[str, str]:
    """The card's Python blocks, each by the file that it opens."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "MODEL_CARD.md").read_text(), re.DOTALL)
    return {name: block for block in blocks for name in re.findall(r"\w+\.onnx", block)}


def printed(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
