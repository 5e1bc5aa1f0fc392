"""The inboxes that are served: each is adopted, watched, retired and released here."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import structlog

from daemon.engines import Refused
from daemon.roots import RootAway, RootRefused
from daemon.share import Adopted, Share

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from daemon.config import Inbox, Limits, Watch
    from daemon.intake import Intake
    from daemon.ledger import Ledger
    from daemon.roots import Owner

log = structlog.get_logger()

#: What keeps a root from being adopted for now.
_NOT_ADOPTED = (RootAway, RootRefused, sqlite3.Error, OSError)
#: Waits between tries to adopt one.
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
#: How long taking our name off a root may take at the end.
RELEASE_S = 5.0


class Shares:
    """All shares of the service; the intake knows those that are configured, this also those that still finish."""

    def __init__(
        self, owner: Owner, ledger: Ledger, intake: Intake, tasks: asyncio.TaskGroup, engine_ready: asyncio.Event
    ) -> None:
        self._owner = owner
        self._ledger = ledger
        self._intake = intake
        self._tasks = tasks
        self._engine_ready = engine_ready
        #: The task that serves each share.
        self._serving: dict[Share, asyncio.Task[None]] = {}
        #: Shares whose next owner must take them for uncleanly left, whatever happens.
        self._unclean: set[Share] = set()

    def add(self, inbox: Inbox, watch: Watch, limits: Limits) -> tuple[Share, asyncio.Task[Adopted]]:
        """Serve an inbox from now on; the share, and its first adoption, whose failure is a pause."""
        share = Share(inbox, watch, limits, owner=self._owner, on_found=self._intake.wake)
        self._intake.shares.append(share)
        adopting = asyncio.create_task(self._adopt(share))
        self._serving[share] = self._tasks.create_task(self._serve(share, adopting))
        return share, adopting

    async def _adopt(self, share: Share) -> Adopted:
        found = await share.adopt(self._ledger)
        for other in self._serving:
            if other is not share and other.adopted and other.root.root_id == share.root.root_id:
                share.adopted = False
                raise RootRefused(f"{share.root.path} and {other.root.path} are the same folder")
        return found

    async def _serve(self, share: Share, adopting: asyncio.Task[Adopted]) -> None:
        """Adopt it as soon as it is there, then watch it; its jobs wait for the engine."""
        wait_s, found = FIRST_RETRY_S, None
        while found is None:
            try:
                found = await adopting
            except _NOT_ADOPTED as problem:
                share.pause(str(problem))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, LAST_RETRY_S)
                adopting = asyncio.create_task(self._adopt(share))
        if found.unclean:
            self._unclean.add(share)
        try:
            try:
                await share.threads.run(share.watcher.start_events, asyncio.get_running_loop())
            except OSError as error:
                log.warning("watcher.events_lost", inbox=share.name, reason=str(error))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(share.watch())
                tasks.create_task(share.keep())
                await self._engine_ready.wait()
                self._intake.take_over(share, found.recovered, unclean=found.unclean)
                self._unclean.discard(share)  # from here on the intake knows what is left to run alone
        finally:
            await asyncio.to_thread(share.watcher.stop_events)  # it joins watchdog's threads

    # -- reload

    def refuse_retiring(self, wanted: Iterable[Inbox]) -> None:
        """Raise `Refused` where a root is wanted again that still finishes its documents."""
        retiring = {share.root.path for share in self._serving if share not in self._intake.shares}
        for inbox in wanted:
            if inbox.root in retiring:
                raise Refused(f"{inbox.root} was removed and still finishes its documents; reload again when it has")

    def apply(self, inboxes: Iterable[Inbox], watch: Watch, limits: Limits) -> None:
        """Serve these inboxes and no others."""
        wanted = {_place(inbox): inbox for inbox in inboxes}
        for share in list(self._intake.shares):
            inbox = wanted.pop(_place(share.settings), None)
            if inbox is None:
                self._tasks.create_task(self._retire(share))
            else:
                share.apply(inbox, watch, limits)
        for inbox in wanted.values():
            self.add(inbox, watch, limits)

    async def _retire(self, share: Share) -> None:
        """An inbox that is no longer configured: its open documents finish, then the root is free."""
        if self._intake.solo_left(share):
            self._unclean.add(share)
        open_jobs = self._intake.drop(share)
        if open_jobs:
            await asyncio.wait(open_jobs)
        serving = self._serving[share]
        serving.cancel()
        await asyncio.wait((serving,))
        await self._release(share, clean=share not in self._unclean)
        del self._serving[share]
        log.info("root.released", inbox=share.name, root=str(share.root.path))

    # -- the end

    def stop(self) -> None:
        """Watch no more."""
        for task in self._serving.values():
            task.cancel()

    async def release_all(self, *, stopped: bool) -> None:
        """Take our name off every root that the next start may take for cleanly left.

        `stopped`: the service has drained; else it never came to work, or it crashed.
        """
        for share in self._serving:
            worked = self._engine_ready.is_set() and not stopped
            left_alone = share in self._unclean or self._intake.solo_left(share) > 0
            await self._release(share, clean=not worked and not left_alone)

    async def _release(self, share: Share, *, clean: bool) -> None:
        if clean and share.adopted and not share.hangs:
            with contextlib.suppress(OSError, RootAway, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await share.threads.run(share.root.release)
        share.threads.close()


def _place(inbox: Inbox) -> tuple[Path, Path]:
    """What makes two inboxes the same, whatever they are called."""
    return inbox.root, inbox.outbox_path
