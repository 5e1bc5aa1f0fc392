"""One inbox at run time: its root, folders, threads and watcher, and whether it is well.

A share that is not mounted, full, or failing is paused with a reason that the status shows, is tried again with a
capped back-off, and goes on by itself.  Jobs that are open wait for that; none counts an attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from daemon.faults import FULL, environment_fault, folders_of, free_mb
from daemon.folders import Folders
from daemon.outputs import append_lines
from daemon.roots import HEARTBEAT_S, Root, RootAway, filesystem_type, is_network
from daemon.threads import Threads
from daemon.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path
    from typing import Any

    from daemon.config import Inbox, Limits, Watch
    from daemon.folders import Recovered
    from daemon.ledger import Ledger
    from daemon.roots import Owner

log = structlog.get_logger()

#: Calls that wait for one share's disk at once, and may be left behind when it hangs.  A document of one page waits for
#: some twelve fsyncs, which a file system carries out together where they come together: with 64 a card gets its 30
#: documents a second where one takes up to 0.17 s, with 8 up to 22 ms (derived; measured 0.1 s, bench/slow_disk.py).
DISK_THREADS = 64
#: A call that takes longer is shown as a share that does not answer.
STUCK_S = 20.0
#: Waits between tries of a share that is not well.
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
#: How often free space is looked at.
SPACE_CHECK_S = 5.0
#: How often done/ is searched for originals past `keep_done_days`.
EXPIRE_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Adopted:
    """What taking over a share found."""

    #: Jobs that earlier processes left behind.
    recovered: list[Recovered]
    #: The last owner was killed, or the machine went down.
    unclean: bool


class Share:
    """Everything about one inbox that lives as long as the service does."""

    def __init__(
        self, settings: Inbox, watch: Watch, limits: Limits, *, owner: Owner, on_found: Callable[[], object],
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        """`on_found` is called when a file can be claimed; `clock` and `sleep` serve `heal`, tests pass their own."""
        self._clock, self._sleep = clock, sleep
        self.settings = settings
        self.limits = limits
        self.owner = owner
        self.root = Root(settings)
        self.folders = Folders(self.root, owner.instance)
        self.threads = Threads(settings.name, DISK_THREADS)
        self.filesystem = filesystem_type(self.root.path)
        self.network = is_network(self.filesystem)
        self.watcher = Watcher(
            self.root,
            settle_s=watch.settle_network_s if self.network else watch.settle_s,
            max_settle_s=watch.max_settle_s,
            rescan_s=watch.rescan_s,
            events=not self.network,
            threads=self.threads,
            on_found=on_found,
        )
        #: The marker is ours; nothing is touched before.
        self.adopted = False
        #: Why nothing is taken, in words; empty while all is well.
        self.paused = ""
        self._well = asyncio.Event()
        #: Low space keeps new documents out, open ones go on.
        self.low_space = ""
        #: Files that could not be claimed, with the reason, for the status.
        self.stuck_files: dict[str, str] = {}
        #: Lines that are still to be written, by job.
        self._lines: dict[str, dict[str, Any]] = {}
        self._writing = asyncio.Lock()
        #: Held by the thread that writes them, which goes on where its caller was cancelled.
        self._line_file = threading.Lock()
        self._backoff = 0
        self._well_since = float("-inf")
        self._expire_at = 0.0
        #: Folders that an error named and that must be well again, too.
        self._suspects: set[Path] = set()
        #: The disk was full: it is well again only with `min_free_mb`.
        self._full = False

    def apply(self, settings: Inbox, watch: Watch, limits: Limits) -> None:
        """Take over changed settings of the same root."""
        self.settings = settings
        self.root.name = settings.name
        self.limits = limits
        self.watcher.rescan_s = watch.rescan_s
        self.watcher.settler.settle_s = watch.settle_network_s if self.network else watch.settle_s
        self.watcher.settler.max_settle_s = watch.max_settle_s
        self.watcher.rescan()

    @property
    def name(self) -> str:
        """The inbox's name."""
        return self.settings.name

    @property
    def reason(self) -> str:
        """Why nothing is taken now; empty if documents are taken."""
        if not self.paused and self.hangs:
            return f"the share has not answered for {self.threads.stuck_s():.0f} s"
        return self.paused or self.low_space

    @property
    def stands_still(self) -> bool:
        """Whether its open documents do not go on; with little space left they do."""
        return bool(self.paused) or self.hangs

    @property
    def hangs(self) -> bool:
        """Whether a call has been waiting for the disk for too long."""
        return self.threads.stuck_s() > STUCK_S

    def pause(self, reason: str) -> None:
        """Take nothing until `heal` finds it well."""
        if reason != self.paused:
            log.warning("root.paused", inbox=self.name, reason=reason)
        if not self.paused and self._clock() - self._well_since > BACKOFF_S[-1]:
            self._backoff = 0
        self.paused = reason
        self._well.clear()
        self.watcher.wake()

    def resume(self) -> None:
        """Well (again)."""
        if self.paused:
            log.info("root.resumed", inbox=self.name)
        self.paused = ""
        self._well_since = self._clock()
        self._well.set()

    async def well(self) -> None:
        """Wait until the share is well."""
        await self._well.wait()

    async def adopt(self, ledger: Ledger) -> Adopted:
        """Become the root's owner, once.

        Raises `RootAway` and `RootRefused`.
        """
        known = await ledger.root_id(self.root.path)
        adoption = await self.threads.run(self.root.adopt, self.owner, known_id=known, now=time.time())
        await ledger.remember_root(self.root.path, adoption.root_id, time.time())
        try:
            recovered = await self.threads.run(self.folders.recover)
        except OSError as error:
            raise RootAway(f"{self.root.work}: {error.strerror or error}") from error
        for job_id in self.folders.rescued:
            await ledger.given_back(job_id, time.time())
        self.adopted = True
        log.info(
            "root.adopted",
            inbox=self.name,
            root=str(self.root.path),
            filesystem=self.filesystem,
            unclean=adoption.unclean,
        )
        if recovered:
            closing = sum(1 for one in recovered if one.account)
            log.info("root.recovered", inbox=self.name, to_finish=closing, to_run=len(recovered) - closing)
        self.resume()
        return Adopted(recovered, adoption.unclean)

    async def is_to_blame(self, error: OSError) -> bool:
        """Whether an error is the environment's; if so the share is paused until it is well."""
        suspects = folders_of(self.root, error)
        reason = await self.threads.run(environment_fault, self.root, error, suspects)
        if reason is None:
            return False
        self._suspects |= suspects
        self._full = self._full or error.errno in FULL
        self.pause(reason)
        return True

    async def heal(self) -> None:
        """Wait a little longer each time, then look whether the share is well."""
        await self._sleep(BACKOFF_S[min(self._backoff, len(BACKOFF_S) - 1)])
        self._backoff += 1
        fault = await self.threads.run(environment_fault, self.root, OSError("probe"), tuple(self._suspects))
        if fault is None and self._full:
            # A probe of a few bytes fits where a document does not.
            with contextlib.suppress(OSError):
                await self._check_space()
            fault = self.low_space or None
        if fault is not None:
            self.pause(fault)
            return
        self._full = False
        self._suspects.clear()
        with contextlib.suppress(OSError):  # a share that was mounted anew is another folder to inotify
            await self.threads.run(self.watcher.restart_events, asyncio.get_running_loop())
        self.resume()
        self.watcher.rescan()

    async def watch(self) -> None:
        """Find files as long as the share is adopted; faults pause it and it heals."""
        while True:
            if self.paused:
                await self.heal()
                continue
            try:
                await self.watcher.step()
            except OSError as error:
                if not await self.is_to_blame(error):
                    self.pause(f"the inbox cannot be listed: {error}")

    async def keep(self) -> None:
        """Heartbeat, free space, whether it is still the same share, and originals past their time."""
        beat_at = 0.0
        while True:
            try:
                await self.threads.run(self.root.verify)
                await self._check_space()
                if time.monotonic() >= beat_at:
                    await self.threads.run(self.root.beat, self.owner, time.time())
                    beat_at = time.monotonic() + HEARTBEAT_S
                await self._expire_done()
            except RootAway as away:
                self.pause(str(away))
            except OSError as error:
                if not self.paused:
                    await self.is_to_blame(error)
            await asyncio.sleep(SPACE_CHECK_S)

    async def _expire_done(self) -> None:
        days = self.settings.keep_done_days
        if not days or time.monotonic() < self._expire_at:
            return
        self._expire_at = time.monotonic() + EXPIRE_EVERY_S
        count = await self.threads.run(self.folders.expire_done, time.time() - days * 86_400)
        log.info("root.done_expired", inbox=self.name, count=count)

    async def _check_space(self) -> None:
        low = ""
        for folder in (self.root.path, self.root.outbox):
            free = await self.threads.run(free_mb, folder)
            if free < self.limits.min_free_mb:
                low = f"only {free:.0f} MB are free at {folder} (limits.min_free_mb is {self.limits.min_free_mb})"
        if low and not self.low_space:
            log.warning("root.paused", inbox=self.name, reason=low)
        elif self.low_space and not low:
            log.info("root.resumed", inbox=self.name)
            self.watcher.wake()
        self.low_space = low

    async def add_line(self, account: dict[str, Any]) -> None:
        """One durable line in manifest-<instance>.jsonl; those that come while others are written share an fsync.

        Raises `OSError` to the caller who wrote them; the others then try for themselves.
        """
        job_id = account["job_id"]
        self._lines[job_id] = account
        try:
            async with self._writing:
                if job_id in self._lines:
                    lines = dict(self._lines)
                    await self.threads.run(self._write_lines, lines.values())
                    for written, line in lines.items():
                        if self._lines.get(written) is line:
                            del self._lines[written]
        finally:
            self._lines.pop(job_id, None)

    def _write_lines(self, lines: Iterable[dict[str, Any]]) -> None:
        with self._line_file:
            append_lines(self.root.outbox / f"manifest-{self.owner.instance}.jsonl", lines)
