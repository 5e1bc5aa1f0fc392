"""Counts what something does to the disk, and kills it at a chosen step, as the memory killer would.

A kill is a real one, of a process of its own: nothing is raised in it, no `finally` runs.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Calls that change something on the disk, or make it last.
CALLS = {"open", "write", "pwrite", "fsync", "ftruncate", "close", "mkdir", "rename", "replace", "unlink", "rmdir"}


def changes(run: Callable[[], object]) -> list[str]:
    """The calls that `run` made to change the disk, in order."""
    made: list[str] = []
    _watch(made.append)
    try:
        run()
    finally:
        sys.setprofile(None)
    return made


def killed_at(call: int, run: Callable[[], object]) -> bool:
    """Whether `run` was killed before its `call`-th change of the disk, counted from 0; if not it came to its end."""
    child = os.fork()
    if child == 0:
        _run_and_exit(call, run)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert status == 0, "it failed by itself, see its traceback"
    return False


def _run_and_exit(call: int, run: Callable[[], object]) -> None:
    left = call

    def count(_: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    status = 1
    try:
        _watch(count)
        run()
        status = 0
    except BaseException:  # noqa: BLE001 - the parent sees that it failed, the person reads why
        traceback.print_exc()
    finally:
        sys.setprofile(None)
        sys.stderr.flush()
        os._exit(status)


def _watch(tell: Callable[[str], object]) -> None:
    """Tell of each of `CALLS` in this thread just before it is made."""

    def profile(_frame: object, event: str, function: object) -> None:
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            name = getattr(function, "__name__", "")
            if name in CALLS:
                tell(name)

    sys.setprofile(profile)
