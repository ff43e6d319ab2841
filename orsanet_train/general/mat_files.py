"""Variables of .mat files: of MATLAB 4 to 7.2 through scipy, of 7.3 (HDF5) through h5py.

Only numeric arrays are read. Their names differ from publisher to publisher, so a variable is found
by its number of axes, and, where several fit, by the names that publishers use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_cache.reading import check_regular

HDF5_BEGINS = b"MATLAB 7.3"


class Variable(NamedTuple):
    """A numeric array of a .mat file."""

    name: str
    shape: tuple[int, ...]  # as MATLAB has it

    def __str__(self) -> str:
        return f"{self.name} [{', '.join(map(str, self.shape))}]"


class MatFile:
    """A .mat file, opened by listing its variables.

    Raises OrsanetError for a file that is absent or no .mat file.
    """

    def __init__(self, path: Path, missing: str) -> None:
        """`missing`: what to do where the file does not exist, for the message."""
        self.path = path
        try:
            check_regular(path)
        except FileNotFoundError:
            raise OrsanetError(f"{path}: does not exist; {missing}") from None
        except OSError as error:
            refuse_shortage(error, path)
            raise OrsanetError(f"{path}: cannot be read ({error.strerror or error})") from error
        with path.open("rb") as file:
            self.is_hdf5 = file.read(len(HDF5_BEGINS)) == HDF5_BEGINS
        self.variables = self._guarded(self._list)

    def find(self, axes: int, names: Sequence[str], chosen: Sequence[str], what: str) -> Variable | None:
        """The variable that is `what`; None if the file has none with so many axes.

        Args:
            axes: how many axes it must have, each longer than 1.
            names: its usual names, in lower case.
            chosen: names that the user prefers (--key).
            what: for the message.

        Raises OrsanetError if several variables fit and neither `chosen` nor `names` tell them apart.
        """
        fitting = [one for one in self.variables if len(one.shape) == axes and min(one.shape) > 1]
        for wanted in (set(chosen), set(names)):
            known = [one for one in fitting if one.name in wanted or one.name.lower() in wanted]
            if len(known) == 1:
                return known[0]
        if len(fitting) > 1:
            raise OrsanetError(
                f"{self.path}: {', '.join(map(str, fitting))} could each be {what}; name the right one with --key"
            )
        return fitting[0] if fitting else None

    def named(self, names: Sequence[str], axes: int) -> Variable | None:
        """The only variable with one of these names and so many axes; None if there is none, or several."""
        found = [one for one in self.variables if one.name.lower() in names and len(one.shape) == axes]
        return found[0] if len(found) == 1 else None

    def read(self, variable: Variable) -> NDArray[Any]:
        """The array, in MATLAB's order of axes."""
        return self._guarded(lambda: self._array(variable.name))

    def _list(self) -> list[Variable]:
        if self.is_hdf5:
            with h5py.File(self.path) as file:
                # MATLAB's first axis varies fastest, HDF5's last one.
                arrays = [one for one in file.values() if isinstance(one, h5py.Dataset) and one.dtype.kind in "iufb"]
                return [Variable(one.name.lstrip("/"), one.shape[::-1]) for one in arrays]
        numeric = ("int", "uint", "single", "double", "logical")
        return [
            Variable(name, tuple(map(int, shape)))
            for name, shape, kind in scipy.io.whosmat(self.path)
            if kind.startswith(numeric)
        ]

    def _array(self, name: str) -> NDArray[Any]:
        if self.is_hdf5:
            with h5py.File(self.path) as file:
                return np.asarray(file[name]).transpose()
        return np.asarray(scipy.io.loadmat(self.path, variable_names=[name])[name])

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError, TypeError, KeyError, MatReadError, NotImplementedError, EOFError) as error:
            # What scipy and h5py raise for damaged and foreign files.
            refuse_shortage(error, self.path)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OrsanetError(f"{self.path}: no .mat file that can be read ({reason}); get it again") from error
