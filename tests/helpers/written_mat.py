"""`.mat` files as MATLAB writes them: of its old formats, and of 7.3, which is HDF5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io


def mat(path: Path, **variables: Any) -> Path:
    scipy.io.savemat(path, variables)
    return path


def mat_7_3(path: Path, **variables: np.ndarray) -> Path:
    """The axes in reverse, behind a block of text."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            file[name] = values.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path
