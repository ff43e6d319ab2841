"""System calls that the kernel answers without doing them, as the drivers of some file systems do.

The filter (seccomp) is for the calling process and those that it starts, for good. It needs no rights.
"""

import ctypes
import os
import platform

import pytest

_NUMBERS = {"x86_64": {"flock": 73, "link": 86, "linkat": 265}, "aarch64": {"flock": 32, "linkat": 37}}
_SET_SECCOMP, _FILTER, _SET_NO_NEW_PRIVILEGES = 22, 2, 38  # of prctl
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of BPF
_ALLOW, _ANSWER = 0x7FFF0000, 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def needs_filter() -> pytest.MarkDecorator:
    """Skips a test on machines whose numbers of the calls are not known here."""
    known = platform.system() == "Linux" and platform.machine() in _NUMBERS
    return pytest.mark.skipif(not known, reason="needs Linux on x86_64 or aarch64")


def answer(call: str, number: int = 0) -> None:
    """From now on the call does nothing in this process. It succeeds, or fails with this error number."""
    numbers = [
        _NUMBERS[platform.machine()][name] for name in (call, f"{call}at") if name in _NUMBERS[platform.machine()]
    ]
    instructions = [_Instruction(_LOAD, 0, 0, 0)]
    for each in numbers:
        instructions += [_Instruction(_IF_EQUAL, 0, 1, each), _Instruction(_RETURN, 0, 0, _ANSWER | number)]
    instructions.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    content = (_Instruction * len(instructions))(*instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.byref(_Program(len(content), content))
    for arguments in ((_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
