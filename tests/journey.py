"""Everything between the inbox and done/ or failed/, with a fake reader.

The parts are wired as the supervisor does it, in this process, so that a test can hold a page back, let it fail in a
chosen way, or leave everything lying as a killed process would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from daemon.assembly import Assembler
from daemon.config import Inbox, Limits, Watch
from daemon.fair import PageSlots
from daemon.intake import Intake
from daemon.ledger import Ledger, connect, entries
from daemon.roots import this_owner
from daemon.share import Share
from daemon.worker import Worker
from tests.conftest import eventually
from tests.fakes import FakeReader, run_here

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.ledger import Entry
    from tests.drop_root import DropRoot

ENGINE: dict[str, Any] = {"name": "fake", "model": "fake-1", "mode": None, "reason": "a test", "scripts": []}


class Journey:
    """Everything between inbox and done/ of one or more roots, from `async with` to the end of it."""

    def __init__(
        self, state_dir: Path, *roots: DropRoot, reader: FakeReader | None = None, capacity: int = 2,
        max_attempts: int = 3, engine: dict[str, Any] = ENGINE, watch: Watch | None = None, **inbox: Any,
    ) -> None:  # fmt: skip
        self.reader = reader or FakeReader()
        self.slots = PageSlots(capacity)
        self.ledger = Ledger(state_dir)
        self.owner = this_owner("test")
        self.worker = Worker(
            reader=self.reader, assembler=Assembler(self.reader.picture, run_here), slots=self.slots,
            ledger=self.ledger, engine=engine, instance="test", max_attempts=max_attempts,
            ledger_fault=self._ledger_fault,
        )  # fmt: skip
        self._roots = roots
        self._watch = watch or Watch(settle_s=0.05, rescan_s=0.2)
        self._inbox = inbox
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Adopt the roots and serve them."""
        await self._stack.enter_async_context(self.ledger)
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self.intake = Intake(self.worker, self._tasks)
        self.loops = [self._tasks.create_task(self.intake.run())]
        for number, root in enumerate(self._roots):
            settings = Inbox.model_validate({"name": root.path.name, "root": root.path} | self._inbox)
            if number and settings.priority:
                settings = settings.model_copy(update={"priority": 0})
            share = Share(settings, self._watch, Limits(min_free_mb=0), owner=self.owner, on_found=self.intake.wake)
            self.intake.shares.append(share)
            adopted = await share.adopt(self.ledger)
            self.intake.take_over(share, adopted.recovered, unclean=adopted.unclean)
            share.watcher.start_events(asyncio.get_running_loop())
            self.loops += [self._tasks.create_task(share.watch()), self._tasks.create_task(share.keep())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; unless it was killed or stopped before, as a service does that is asked to."""
        if not self.worker.passes.draining:
            await self.drain()
        self._end()
        await self._stack.aclose()
        assert self.slots.in_flight == 0
        assert self.slots.waiting == 0
        assert self.worker.running == {}

    async def drain(self) -> None:
        """Begin nothing more, let pages in flight finish, and sign off."""
        self.worker.drain()
        self.intake.stop()
        if self.intake.running:
            await asyncio.wait(self.intake.running)
        for share in self.intake.shares:
            await share.threads.run(share.root.release)

    async def intake_looks(self) -> None:
        """Have the intake look for something to begin, and begin it."""
        self.intake.wake()
        turns = iter(range(5))
        await eventually(lambda: next(turns, None) is None)

    def kill(self) -> None:
        """Leave everything lying as it is; nobody signs off."""
        self.worker.passes.draining = True
        for task in self.intake.running:
            task.cancel()

    def _end(self) -> None:
        for share in self.intake.shares:
            share.watcher.stop_events()
            share.threads.close()
        for task in self.loops:
            task.cancel()
        for thread in threading.enumerate():
            if thread.name.startswith(tuple(f"disk-{share.name}_" for share in self.intake.shares)):
                thread.join()  # what still writes is not to meet the next journey in its folders

    async def _ledger_fault(self, error: Exception) -> None:
        raise AssertionError(error)


def out(root: DropRoot, name: str) -> bool:
    """Whether a document has come out whole."""
    return (root.done / name).exists() and (root.outbox / f"{name}.manifest.json").exists()


def manifest(root: DropRoot, name: str) -> dict[str, Any]:
    """Its manifest."""
    content: dict[str, Any] = json.loads((root.outbox / f"{name}.manifest.json").read_bytes())
    return content


def error(root: DropRoot, name: str) -> dict[str, Any]:
    """The account of its failure."""
    content: dict[str, Any] = json.loads((root.failed / f"{name}.error.json").read_bytes())
    return content


def markdown(root: DropRoot, name: str) -> str:
    """Its Markdown."""
    return (root.outbox / f"{name}.md").read_text(encoding="utf-8")


def rows(state_dir: Path) -> dict[str, Entry]:
    """The ledger's rows by path in the inbox."""
    with contextlib.closing(connect(state_dir / "ledger.sqlite3")) as connection:
        ids = [row[0] for row in connection.execute("SELECT root_id FROM roots")]
        return {entry.path: entry for root_id in ids for entry in entries(connection, root_id)}
