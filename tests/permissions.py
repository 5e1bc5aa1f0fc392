"""Lets tests see what a service without root's rights sees, also where the tests themselves run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: capabilities(7): what lets root read, write and list everything.
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
#: capset(2), _LINUX_CAPABILITY_VERSION_3: two words each of effective, permitted and inheritable.
_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Data = ctypes.c_uint32 * 6


@contextlib.contextmanager
def without_override() -> Iterator[None]:
    """In this thread, and in threads it starts meanwhile, file permissions hold for root too."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = _Header(_VERSION, 0), _Data()
    if libc.capget(ctypes.byref(header), held):
        raise OSError(ctypes.get_errno(), "capget")
    without = _Data(*held)
    without[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(ctypes.byref(header), without):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(ctypes.byref(header), held)


@contextlib.contextmanager
def closed(path: Path) -> Iterator[Path]:
    """A file or folder that nobody may read, list or write, this thread included."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with without_override():
            yield path
    finally:
        os.chmod(path, mode)  # noqa: PTH101 - also for names that are no UTF-8
