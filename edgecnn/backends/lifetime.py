"""What becomes of backends on a GPU when the interpreter ends, or the process is forked.

At the end they are closed while Python still works, so that nothing is freed in the order in which modules
happen to be taken apart. A forked process has the objects and not the GPU: there they are never destroyed,
since PyCUDA and TensorRT would call the driver, which answers with errors that they print.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import weakref
from typing import Protocol

__all__ = ["keep_for_ever", "watch"]

_EXIT_S = 5.0  # how long the end waits for calls that daemon threads have under way


class _Holder(Protocol):
    def finish(self, timeout_s: float | None) -> None: ...

    def forsake(self) -> None: ...


_open: weakref.WeakSet[_Holder] = weakref.WeakSet()
_registered: list[bool] = []


def watch(holder: _Holder) -> None:
    """Have it finished when the interpreter ends, and forsaken in every process that is forked."""
    if not _registered:
        _registered.append(True)
        atexit.register(_finish_all)
        os.register_at_fork(after_in_child=_forsake_all)
    _open.add(holder)


def keep_for_ever(thing: object) -> None:
    """Never destroy it, nor what it refers to."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _finish_all() -> None:
    for holder in list(_open):
        holder.finish(_EXIT_S)


def _forsake_all() -> None:
    for holder in list(_open):
        holder.forsake()
