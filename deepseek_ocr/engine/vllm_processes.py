"""The processes of vLLM's engines: which they are, and how they are ended.

vLLM tells of them nowhere; they are known by the name that it gives to its engine cores (the same in 0.25.1 and
0.28.0).  Several engines may live in one process, so whoever starts one notes which cores were there before.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

#: How vLLM names the process of an engine core (v1/engine/utils.py).
CORE_NAME: Final = "EngineCore"
#: A kill takes effect at once, but a driver can hold a process that uses the card for a while.
GONE_S: Final = 60.0
#: Between two looks whether it is gone.
ASK_EVERY_S: Final = 0.02


def kill_cores(processes: Sequence[Any]) -> None:
    """Kill engine cores and their children, and wait until they have left the card.

    A worker whose core is dead already is nobody's child any more, so they are looked for while all is well.
    """
    import psutil  # noqa: PLC0415 - comes with vLLM, which not every environment has

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Not `psutil.wait_procs`: it waits for our children behind the back of multiprocessing, which then takes them for
    # alive for good, and at last another process of the same number for one of them.
    deadline = time.monotonic() + GONE_S
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(ASK_EVERY_S)
    multiprocessing.active_children()  # waits for those that have ended


def _runs(process: Any) -> bool:
    """Whether it may still hold the card, as one does whose first thread has ended and whose others have not."""
    import psutil  # noqa: PLC0415 - the same

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(
            process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        )  # fmt: skip
    return False


def core_processes(others: Container[int] = ()) -> list[Any]:
    """The engine cores of this process with all their children, but for those of other engines."""
    import psutil  # noqa: PLC0415 - the same

    found = []
    for child in multiprocessing.active_children():
        if child.name.startswith(CORE_NAME) and child.pid and child.pid not in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                core = psutil.Process(child.pid)
                found += [*core.children(recursive=True), core]
    return found
