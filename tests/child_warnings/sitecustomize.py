"""Under `--list-warnings`, Python imports this module at the start of every process that a test starts.

Its warnings go to a file, a line each, instead of standard error, which many tests read.
"""

import os
import warnings
from typing import Any


def _log(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    line = f"{filename}:{lineno}: {category.__name__}: {' '.join(str(message).split())}\n"
    descriptor = os.open(os.environ["ORSANET_WARNING_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())  # whole, however many processes write
    finally:
        os.close(descriptor)


if "ORSANET_WARNING_LOG" in os.environ:
    warnings.showwarning = _log
