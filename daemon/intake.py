"""From settled files to running jobs: who is claimed next, and when nothing may be.

Nothing is claimed while the service is paused, while there is no room, or while jobs that an earlier process was
killed over run alone, one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from daemon.faults import NoPermission
from daemon.job import Sample
from daemon.outputs import display
from daemon.settle import Verdict
from deepseek_ocr.errors import EmptyFile

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from daemon.folders import Recovered
    from daemon.job import Job
    from daemon.share import Share
    from daemon.watcher import Found
    from daemon.worker import Worker
    from deepseek_ocr.errors import DocumentError

log = structlog.get_logger()

#: Documents of one inbox that are open at once, at least; so many and a quarter more as the engine reads pages at once,
#: where that is more: documents of one page must fill it, too, while others are claimed and published.  An open one
#: costs a little memory only; but after a crash all of them run one by one.
MIN_OPEN_JOBS = 64
OPEN_JOBS_PER_SLOT = 1.25
#: Documents with more pages left than this take no place of the others, up to a limit of their own.
LONG_PAGES = 20
MAX_LONG_JOBS = 192
#: Whatever wakes the intake may be missed where a share heals by itself; it looks again so often.
LOOK_AGAIN_S = 1.0
#: Until a file that could not be taken out of the inbox is tried again: somebody has to change its permissions.
STUCK_FILE_RETRY_S = 30.0
#: What a file is claimed with that could not be opened.
_UNKNOWN = Sample(0, 0, 0)


class Intake:
    """Starts jobs; `run` is its loop."""

    def __init__(self, worker: Worker, tasks: asyncio.TaskGroup) -> None:
        self.shares: list[Share] = []
        #: Why nothing is taken from any inbox, by what is at fault.
        self.pauses: dict[str, str] = {}
        #: Open jobs and their shares.
        self.running: dict[asyncio.Task[None], Share] = {}
        self._worker = worker
        self._tasks = tasks
        #: Shares whose open jobs are known here.
        self._taken_over: set[Share] = set()
        self._solo: list[tuple[Share, Job]] = []
        #: Those of them that run: one, and others whose shares stand still.
        self._alone: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._turn = 0
        #: Shares whose lost claims are being looked for.
        self._searching: set[Share] = set()
        self._stopped = False

    @property
    def to_run_alone(self) -> int:
        """Jobs that an earlier process was killed over and that have not ended yet."""
        return len(self._solo) + len(self._alone)

    def wake(self) -> None:
        """A file has settled, or something has changed."""
        self._wake.set()

    def pause(self, what: str, reason: str) -> None:
        """Take nothing from any inbox."""
        if self.pauses.get(what) != reason:
            log.warning("intake.paused", what=what, reason=reason)
        self.pauses[what] = reason

    def resume(self, what: str) -> None:
        """That fault is gone."""
        if self.pauses.pop(what, None) is not None:
            log.info("intake.resumed", what=what)
        self._wake.set()

    def take_over(self, share: Share, recovered: list[Recovered], *, unclean: bool) -> None:
        """Go on with what an earlier process left: alone and one by one if it was killed."""
        self._taken_over.add(share)
        for one in recovered:
            if one.account is not None or not unclean:
                self._spawn(share, self._worker.carry(share, one.job))
            else:
                self._solo.append((share, one.job))
        self._wake.set()

    def stop(self) -> None:
        """Take nothing more; what has not begun stays for the next start."""
        self._stopped = True

    async def run(self) -> None:
        """Claim settled files while there is room."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._wake.wait()
            self._wake.clear()
            if self.pauses or self._stopped:
                continue
            for loser in self.shares:
                if loser.folders.lost and not loser.reason and loser not in self._searching:
                    self._searching.add(loser)
                    self._spawn(loser, self._carry_lost(loser))
            if any(share.adopted and share not in self._taken_over and not share.stands_still for share in self.shares):
                continue  # its watcher finds files already, and what a crash left in it comes first
            if self._next_solo():
                continue
            while share := self._next_share():
                self._spawn(share, self._claim_and_carry(share, share.watcher.found.popleft()))
                if not share.watcher.found:
                    share.watcher.wake()

    def _next_solo(self) -> bool:
        """Start the next job to run alone, if nothing else runs; False if none runs or is next.

        What waits for a share that is not well neither runs nor is next.
        """
        if not all(self.running[task].stands_still for task in self._alone):
            return True
        ready = next((index for index, (share, _) in enumerate(self._solo) if not share.reason), None)
        if ready is None:
            return False
        if all(share.stands_still for share in self.running.values()):
            share, job = self._solo.pop(ready)
            self._alone.add(self._spawn(share, self._carry_solo(share, job)))
        return True

    def _has_room(self, share: Share) -> bool:
        open_jobs = sum(other is share for other in self.running.values())
        limit = max(MIN_OPEN_JOBS, OPEN_JOBS_PER_SLOT * self._worker.passes.slots.capacity)
        if open_jobs < limit:
            return True
        mine = (one for one in self._worker.running.values() if one.share is share)
        long = sum(one.page_count - one.pages_done > LONG_PAGES for one in mine)
        return open_jobs - min(long, MAX_LONG_JOBS) < limit

    def _next_share(self) -> Share | None:
        """The inbox of highest priority that has a file; equal ones in turn."""
        able = [
            share
            for share in self.shares
            if share.adopted and share.watcher.found and not share.reason and self._has_room(share)
        ]
        if not able:
            return None
        highest = max(share.settings.priority for share in able)
        equal = [share for share in able if share.settings.priority == highest]
        self._turn += 1
        return equal[self._turn % len(equal)]

    def _spawn(self, share: Share, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(coroutine)
        self.running[task] = share
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self._alone.discard(task)
        self._wake.set()

    def solo_left(self, share: Share) -> int:
        """Jobs of a share that are still to run alone."""
        return sum(other is share for other, _ in self._solo)

    def drop(self, share: Share) -> list[asyncio.Task[None]]:
        """Take nothing more from a share; the open jobs it has."""
        self.shares.remove(share)
        self._taken_over.discard(share)
        self._solo = [(other, job) for other, job in self._solo if other is not share]
        return [task for task, other in self.running.items() if other is share]

    async def _carry_solo(self, share: Share, job: Job) -> None:
        """Charge the attempt before it begins: if this run ends the process, nobody is left to do it."""
        job = replace(job, attempts=job.attempts + 1, solo=True)
        try:
            await share.threads.run(share.folders.save, job)
        except OSError as error:
            await share.is_to_blame(error)
        await self._worker.carry(share, job)

    async def _carry_lost(self, share: Share) -> None:
        """See through what a claim took out of the inbox although it reported an error."""
        try:
            found = await share.threads.run(share.folders.find_lost)
        except OSError as error:
            await share.is_to_blame(error)
            found = []
        finally:
            self._searching.discard(share)
        for job in found:
            share.watcher.taken(job.path)
            self._spawn(share, self._worker.carry(share, job))

    async def _claim_and_carry(self, share: Share, found: Found) -> None:
        """Take one file out of the inbox and see it through."""
        try:
            job = await share.threads.run(share.folders.claim, found.path, found.sample or _UNKNOWN, time.time())
        except FileNotFoundError:
            share.watcher.taken(found.path)
            return
        except OSError as error:
            if not await share.is_to_blame(error):
                known = share.watcher.inventory
                share.stuck_files = {path: why for path, why in share.stuck_files.items() if path in known}
                share.stuck_files[found.path] = f"cannot be taken out of the inbox: {error.strerror}"
                log.warning("file.not_claimed", inbox=share.name, file=display(found.path), reason=str(error))
                asyncio.get_running_loop().call_later(STUCK_FILE_RETRY_S, share.watcher.put_back, found.path)
            else:
                share.watcher.put_back(found.path)
            return
        share.stuck_files.pop(found.path, None)
        share.watcher.taken(found.path)
        log.info(
            "job.claimed", job_id=job.job_id, inbox=share.name, file=display(found.path), name=display(job.name)
        )  # fmt: skip
        await self._worker.carry(share, job, _hopeless(found.verdict))


def _hopeless(verdict: Verdict) -> DocumentError | None:
    """Why a file need not be read at all."""
    match verdict:
        case Verdict.EMPTY:
            return EmptyFile("it is empty")
        case Verdict.NO_PERMISSION:
            return NoPermission("the service may not read it")
        case _:
            return None
