"""Finds settled files in one inbox.  Events are hints, the scan is the truth.

watchdog's events wake it early on a local disk; they may be lost (the kernel's queue overflows) or never come
(another NFS client writes), so a full scan every `rescan_s` finds whatever is there.  On a network file system no
watch is set at all.  Its cost is bounded: names that are known are not looked at again (100,000 of them cost a
scandir), and only a window of files is sampled at a time.

Residual risks: a file that is replaced under the same name between two scans is noticed only by the comparison after
the claim; a folder whose inotify watch fails (fs.inotify.max_user_watches) is served by the scan alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from daemon.scan import MARKER_SUFFIX, Gone, Inventory, is_document_path, sample_files, scan
from daemon.settle import Settler, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.observers.api import BaseObserver

    from daemon.job import Sample
    from daemon.roots import Root
    from daemon.scan import Scan
    from daemon.threads import Threads

log = structlog.get_logger()

#: Files sampled or waiting for a claim at once, empty and unreadable ones not counted.  Far more than can be claimed
#: within a settle time, and few enough that an inbox with 100,000 files costs their names only.
WINDOW = 512
#: Until events that were lost, or could not be had, are asked for again.
REARM_S = 60.0
#: Opening a file closes it without a write; asking for those events would answer every sample with an event.
EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is ready to be claimed."""

    path: str
    #: None where it cannot be opened.
    sample: Sample | None
    verdict: Verdict


class _Hints(FileSystemEventHandler):
    """Hands events to the loop; anything more in watchdog's thread could raise there and blind the daemon."""

    def __init__(self, hand_over: Callable[[FileSystemEvent], object]) -> None:
        super().__init__()
        self._hand_over = hand_over

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Every event of the kinds asked for."""
        self._hand_over(event)


class Watcher:
    """Watches one inbox; `found` fills with files to claim, `on_found` is called after each."""

    def __init__(
        self,
        root: Root,
        *,
        settle_s: float,
        max_settle_s: float,
        rescan_s: float,
        events: bool,
        threads: Threads,
        on_found: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.rescan_s = rescan_s
        self.settler = Settler(settle_s, max_settle_s)
        #: Settled files in the order to claim them; the intake takes them from the left.
        self.found: deque[Found] = deque()
        self.inventory = Inventory()
        self.ignored = 0
        self.closed_folders: list[str] = []
        #: Known files that are not followed yet, in the order they were found.
        self._backlog: dict[str, None] = {}
        self._hints: deque[str] = deque()
        self._rescan_at = 0.0
        self._wake = asyncio.Event()
        self._events = events
        self._observer: BaseObserver | None = None
        #: Between `start_events` and `stop_events`; these may be called from several threads.
        self._wants_events = False
        #: For good: a start that was given up may come to its thread after the stop.
        self._stopped = False
        self._events_lock = threading.Lock()
        #: Device and inode of the inbox whose events come.
        self._listened: tuple[int, int] | None = None
        self._rearm_at = 0.0
        self._threads = threads
        self._on_found = on_found
        self._clock = clock

    # -- hints

    def start_events(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the inotify watches, if wanted and not stopped; raises `OSError` if there are none to be had.  Blocks."""
        with self._events_lock:
            self._wants_events = self._events and not self._stopped
            self._disarm()
            self._arm(loop)

    def restart_events(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set them anew, as after a share has come back, unless they were stopped; otherwise like `start_events`."""
        with self._events_lock:
            self._disarm()
            self._arm(loop)

    def stop_events(self) -> None:
        """Remove the watches for good.  Blocks until watchdog's threads have ended; may be called in any thread."""
        with self._events_lock:
            self._stopped = True
            self._wants_events = False
            self._disarm()

    @property
    def events_alive(self) -> bool:
        """Whether changes in the inbox raise events now; the scan alone finds them otherwise."""
        # The thread that reads the events ends by itself when the inbox folder is deleted.
        observer = self._observer
        return observer is not None and all(thread.is_alive() for thread in (observer, *observer.emitters))

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._wants_events:
            return
        self._rearm_at = self._clock() + REARM_S
        status = self.root.inbox.stat()
        observer = Observer()
        handler = _Hints(lambda event: loop.call_soon_threadsafe(self._hint, event))
        try:
            observer.schedule(handler, os.fspath(self.root.inbox), recursive=True, event_filter=EVENTS)
            observer.start()
        except BaseException:
            observer.stop()  # one of its threads runs already
            raise
        self._observer, self._listened = observer, (status.st_dev, status.st_ino)
        loop.call_soon_threadsafe(self.rescan)  # for what came meanwhile

    def _disarm(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    async def _rearm(self) -> None:
        """Have events again where they were lost, or the scan found another folder in the inbox's place."""
        self._rearm_at = self._clock() + REARM_S
        if self._observer is not None:
            log.warning("watcher.events_lost", inbox=self.root.name)
        with contextlib.suppress(OSError):
            await self._threads.run(self.restart_events, asyncio.get_running_loop())

    def _hint(self, event: FileSystemEvent) -> None:
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            self._rescan_at = 0.0  # what lay in it may have come before its watch
        else:
            moved = isinstance(event, FileMovedEvent)
            path = os.path.relpath(os.fsdecode(event.dest_path if moved else event.src_path), self.root.inbox)
            path = path.removesuffix(MARKER_SUFFIX)  # a marker tells of its document
            if not path.startswith("..") and is_document_path(path):
                self._hints.append(path)
        self._wake.set()

    def rescan(self) -> None:
        """Look through the whole inbox now."""
        self._rescan_at = 0.0
        self._wake.set()

    def wake(self) -> None:
        """There is room again in `found`."""
        self._wake.set()

    # -- the loop

    async def step(self) -> None:
        """Scan if it is time, sample what is due, then wait for the next thing to do; raises `OSError`."""
        if self._wants_events and not self.events_alive and (self._observer or self._clock() >= self._rearm_at):
            await self._rearm()
        if self._clock() >= self._rescan_at:
            await self._scan()
        await self._sample_due()
        due = self.settler.next_due()
        deadline = self._rescan_at if due is None else min(due, self._rescan_at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await self._wake.wait()
        self._wake.clear()

    async def _scan(self) -> None:
        self._rescan_at = self._clock() + self.rescan_s
        started = time.monotonic()
        result, inbox = await self._threads.run(self._look)
        if self._observer is not None and inbox != self._listened:
            await self._rearm()
        self.ignored, self.closed_folders = result.ignored, result.closed_folders
        for path in result.gone:
            self._drop(path)
        for path in result.marked:
            if path in self.settler:
                self.settler.touch(path, self._clock())
        for path in result.new:
            self.inventory.add(path)
            self._backlog[path] = None
        if result.new or result.gone:
            log.debug(
                "watcher.rescanned", inbox=self.root.name, new=len(result.new), gone=len(result.gone),
                known=len(self.inventory), scan_s=round(time.monotonic() - started, 4),
            )  # fmt: skip

    def _look(self) -> tuple[Scan, tuple[int, int]]:
        status = self.root.inbox.stat()
        return scan(self.root.inbox, self.inventory.folders), (status.st_dev, status.st_ino)

    async def _sample_due(self) -> None:
        now = self._clock()
        while self._hints:
            path = self._hints.popleft()
            if path in self.settler:
                self.settler.touch(path, now)
            elif path not in self.inventory:
                self.inventory.add(path)
                self._backlog[path] = None
        for path in list(islice(self._backlog, max(0, self._room()))):
            del self._backlog[path]
            self.settler.touch(path, now)
        due = self.settler.due(now)
        if not due:
            return
        samples = await self._threads.run(sample_files, self.root.inbox, due)
        seen_at = self._clock()
        for path, (sample, complete) in zip(due, samples, strict=True):
            if isinstance(sample, Gone):
                self._drop(path)
                continue
            verdict = self.settler.observe(path, sample, now, seen_at, complete=complete)
            if verdict is not Verdict.WAIT:
                self.found.append(Found(path, sample, verdict))
                log.debug("file.settled", inbox=self.root.name, file=path, verdict=verdict)
                self._on_found()
        if self._backlog and self._room() > 0:
            self._wake.set()

    def _room(self) -> int:
        """How many more files may be followed; empty and unreadable ones hold up nobody."""
        return WINDOW - (len(self.settler) - self.settler.parked) - len(self.found)

    def _drop(self, path: str) -> None:
        self.inventory.discard(path)
        self.settler.forget(path)
        self._backlog.pop(path, None)

    def taken(self, path: str) -> None:
        """The file left the inbox (or is gone): a new one of this name is a new file."""
        self.inventory.discard(path)
        self._wake.set()

    def put_back(self, path: str) -> None:
        """The file could not be claimed as it was: watch it from the beginning."""
        self._backlog[path] = None
        self.inventory.add(path)
        self._wake.set()
