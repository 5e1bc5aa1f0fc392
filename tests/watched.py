"""An inbox with a watcher that runs, for the tests of `watcher.py`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from daemon.config import Inbox
from daemon.roots import Root
from daemon.threads import Threads
from daemon.watcher import Found, Watcher
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Longer than any test: what waits for it is not found by the scan.
NEVER_S = 3600.0


class Watched:
    """An inbox with a watcher that runs, and what it has found."""

    def __init__(self, root: Root, watcher: Watcher) -> None:
        self.inbox = root.inbox
        self.watcher = watcher
        self.taken: list[Found] = []

    def take(self) -> list[Found]:
        """Take what was found out of the inbox, as the intake does."""
        while self.watcher.found:
            found = self.watcher.found.popleft()
            (self.inbox / found.path).unlink()
            self.watcher.taken(found.path)
            self.taken.append(found)
        return self.taken

    def paths(self) -> list[str]:
        """What was found so far, taken or not."""
        return sorted(found.path for found in (*self.taken, *self.watcher.found))

    async def until_found(self, *paths: str) -> None:
        """Wait until exactly these are found."""
        await eventually(lambda: self.paths() == sorted(paths), message=lambda: f"found {self.paths()}")


@contextlib.asynccontextmanager
async def watching(path: Path, *, replaced: bool = False, **settings: Any) -> AsyncIterator[Watched]:
    """A watcher over the inbox below `path` that runs; by default only events make it look.

    An inbox that is `replaced` is away for a moment, as a share may be.
    """
    root = Root(Inbox(root=path / "root"))
    root.inbox.mkdir(parents=True, exist_ok=True)
    threads = Threads("test", 2)
    default = {"settle_s": 0.05, "max_settle_s": NEVER_S, "rescan_s": NEVER_S, "events": True}
    watcher = Watcher(root, threads=threads, on_found=lambda: None, **{**default, **settings})
    scanned = asyncio.Event()

    async def run() -> None:
        watcher.start_events(asyncio.get_running_loop())
        first = asyncio.create_task(watcher.step())
        await asyncio.wait([first], timeout=0.05)
        scanned.set()
        await first
        while True:
            with contextlib.suppress(*[FileNotFoundError] * replaced):
                await watcher.step()

    task = asyncio.create_task(run())
    try:
        await scanned.wait()
        yield Watched(root, watcher)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        watcher.stop_events()
        threads.close()


def write(path: Path) -> None:
    """Write a file in place."""
    path.write_bytes(b"content")
