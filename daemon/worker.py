"""Carries one job through its stages, as often as it takes.

`process` is the journey.  `carry` runs it and reacts to what goes wrong, by type and only here: the document's fault
ends in failed/, the environment's and the engine's wait and cost nothing, and what nobody foresaw is tried again
until the attempts are used up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from daemon.durable import remove_tree
from daemon.faults import GaveUp, SourceChanged, deciding
from daemon.folders import FAILED, PUBLISHED, has_content, hash_file, take_sample
from daemon.job import Job, State, advance, exhausted, uncharged
from daemon.outputs import (
    Summary,
    account,
    checkpointed_pages,
    display,
    failure,
    failure_sentence,
    kept_pages,
    write_checkpoint,
    write_document,
    write_manifest,
)
from deepseek_ocr.document import VERSION, DocumentHead, Page
from deepseek_ocr.errors import DocumentError, EngineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from daemon.fair import PageSlots
    from daemon.ledger import Ledger
    from daemon.share import Share
    from deepseek_ocr.pages import DocumentInfo
    from deepseek_ocr.prompt import Options

log = structlog.get_logger()

#: Waits before another attempt after a fault nobody foresaw.
RETRY_S = (1.0, 5.0, 20.0)
#: Until a job is taken up again whose engine is at fault; one that dies is brought back beneath it, unseen from here.
ENGINE_AGAIN_S = 1.0
#: Pages of one document that wait for their checkpoint to be written; only a share that hangs lets them pile up.
MAX_UNWRITTEN = 64


class Draining(Exception):
    """No new page is begun: the service stops, and the job resumes at the next start."""


class ReadPage(Protocol):
    """What the worker needs to read a page; tests pass their own."""

    def __call__(self, path: Path, page_index: int, options: Options, /) -> Awaitable[Page]:
        """One page, always; raises only what concerns the document or the engine."""
        ...


@dataclass(slots=True)
class Progress:
    """A running job, for the status."""

    job: Job
    share: Share
    page_count: int = 0
    pages_done: int = 0
    #: Its outcome is durable; only its last place is missing.
    closing: bool = False


class Worker:
    """What all jobs share: the engine's two calls, the slots, the ledger."""

    def __init__(
        self,
        *,
        inspect: Callable[[Path], Awaitable[DocumentInfo]],
        read_page: ReadPage,
        slots: PageSlots,
        ledger: Ledger,
        engine: dict[str, Any],
        instance: str,
        max_attempts: int,
        ledger_fault: Callable[[Exception], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inspect = inspect
        self._read_page = read_page
        self.slots = slots
        self._ledger = ledger
        #: What manifests and checkpoints say about the engine: name, model, reason, scripts.
        self.engine = engine
        self._instance = instance
        self.max_attempts = max_attempts
        self._ledger_fault = ledger_fault
        self._clock = clock
        self.draining = False
        self._stopping = asyncio.Event()
        #: Running jobs by id.
        self.running: dict[str, Progress] = {}
        #: Times (steady clock) at which pages were finished, newest last; the last hundred.
        self.page_times: list[float] = []
        #: Steady clock: when the engine last gave something back.
        self.progress_at = 0.0
        self.finished: dict[str, int] = {"done": 0, "partial": 0, "failed": 0}

    def drain(self) -> None:
        """Begin no new page; those in flight finish, and documents that are complete with them."""
        self.draining = True
        self._stopping.set()
        self.slots.let_all_go()

    async def rest(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait for something, but no longer than until the service stops; raises what it raises."""
        task, stopping = asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            stopping.cancel()
        if task.done() and not task.cancelled():
            task.result()

    # -- the loop around the journey

    async def carry(self, share: Share, job: Job, hopeless: DocumentError | None = None) -> None:
        """Run a job to its end, or until the service drains; `hopeless` says why one need not be read."""
        with structlog.contextvars.bound_contextvars(job_id=job.job_id, file=display(job.path), inbox=share.name):
            mend: Callable[[Share, Job], Job] | None = None
            while True:
                await self.rest(share.well())
                if self.draining:
                    await self.pardon(share, job)
                    return
                job = advance(job, State.RUNNING, "its turn")
                progress = self.running[job.job_id] = Progress(job, share)
                try:
                    if mend is not None:
                        progress.job = await share.threads.run(mend, share, job)
                        mend = None
                        # What `_source` compares with must have stood still for as long as any file.
                        await self.rest(asyncio.sleep(share.watcher.settler.settle_s))
                    await self._ledger.opened(progress.job, share.root.root_id)
                    await self.process(share, progress.job, hopeless)
                    return  # noqa: TRY300 - every other way goes round again
                except Draining:
                    await self.pardon(share, progress.job)
                    return
                except SourceChanged:
                    log.info("job.changed")
                    job = advance(progress.job, State.QUEUED, "its file was written to")
                    mend, hopeless = _sample_anew, None
                except EngineError as error:
                    log.warning("job.retried", reason=str(error), attempts=progress.job.attempts)
                    job = advance(progress.job, State.QUEUED, "engine fault")
                    await self.rest(asyncio.sleep(ENGINE_AGAIN_S))
                except sqlite3.Error as error:
                    job = advance(progress.job, State.QUEUED, "ledger fault")
                    await self.rest(self._ledger_fault(error))
                except FileExistsError as error:
                    log.warning("job.retried", reason=f"its name was taken: {error}", attempts=progress.job.attempts)
                    job = advance(progress.job, State.QUEUED, "its name was taken")
                    mend = _name_anew
                except OSError as error:
                    if await share.is_to_blame(error):
                        log.warning("job.retried", reason=share.paused, attempts=progress.job.attempts)
                        job = advance(progress.job, State.QUEUED, "environment fault")
                        await self._give_space_back(share, job)
                    else:
                        job = await self._count(share, progress, error)
                except Exception as error:  # noqa: BLE001 - the one place that catches what nobody foresaw
                    job = await self._count(share, progress, error)
                finally:
                    self.running.pop(job.job_id, None)

    async def _count(self, share: Share, progress: Progress, error: Exception) -> Job:
        """One attempt more; the next run finds out whether there are any left.

        A document whose outcome is durable has no attempts any more: what keeps it from its last place is the
        share's trouble, and a person has to see it.
        """
        job = progress.job
        # A solo run was charged before it began.
        attempts = job.attempts + (not job.solo and not progress.closing)
        log.error("job.crashed", exc_info=error, attempts=attempts)
        job = replace(advance(job, State.QUEUED, f"fault: {error!r}"), attempts=attempts, solo=False)
        if progress.closing:
            share.pause(f"{display(job.name)} cannot be brought to its place: {error}")
            return job
        try:
            await share.threads.run(share.folders.save, job)
        except OSError as fault:
            await share.is_to_blame(fault)
        await self.rest(asyncio.sleep(RETRY_S[min(job.attempts, len(RETRY_S)) - 1]))
        return job

    async def _give_space_back(self, share: Share, job: Job) -> None:
        """Half-made outputs may be what fills the disk; they are made again from the checkpoints."""
        with contextlib.suppress(OSError):
            await share.threads.run(remove_tree, share.root.staging / job.job_id)

    async def pardon(self, share: Share, job: Job) -> None:
        """A clean stop takes back the attempt that a solo run was charged with in advance."""
        if job.solo and not share.hangs:
            with contextlib.suppress(OSError):
                await share.threads.run(share.folders.save, uncharged(job))

    # -- the journey

    async def process(self, share: Share, job: Job, hopeless: DocumentError | None = None) -> None:
        """One document from its claim to done/ or failed/."""
        accounted = await share.threads.run(share.folders.account_left, job)
        if accounted is None:
            try:
                await self._refuse(share, job, hopeless)
                accounted = await self._read(share, job)
            except DocumentError as error:
                accounted = await self._fail(share, job, error, hopeless=hopeless is not None)
        await self._close(share, job, accounted)

    async def _read(self, share: Share, job: Job) -> dict[str, Any]:
        """From the source to durable outputs; the account of it."""
        started = time.monotonic()
        path = await self._source(share, job)
        info = await self._inspect(path)
        sha256 = await share.threads.run_long(hash_file, path)
        key = self._checkpoint_key(share, sha256)
        await self._recognize(share, job, path, info, key)
        job = uncharged(self.running[job.job_id].job)
        outputs, summary = await self._assemble(share, job, info, key)
        accounted = account(
            job, summary=summary, engine=self.engine, sha256=sha256, source_type=info.kind, outputs=outputs,
            instance=self._instance, task=share.settings.task, now=self._clock(), seconds=time.monotonic() - started,
        )  # fmt: skip
        await self._publish(share, job, outputs, accounted)
        return accounted

    async def _refuse(self, share: Share, job: Job, hopeless: DocumentError | None) -> None:
        """Raise what makes reading pointless."""
        if hopeless is not None:
            if await share.threads.run(has_content, share.folders.source(job)):
                raise SourceChanged  # while it waited for its claim
            raise hopeless
        if exhausted(job, self.max_attempts):
            raise GaveUp(f"{self.max_attempts} attempts to read it ended the service or failed unexpectedly")

    async def _source(self, share: Share, job: Job) -> Path:
        """The source, unchanged since its claim."""
        path = share.folders.source(job)
        if await share.threads.run(take_sample, path) != job.sample:
            raise SourceChanged
        return path

    def _checkpoint_key(self, share: Share, sha256: str) -> str:
        parts = {
            "source": sha256,
            "engine": [self.engine["name"], self.engine["model"], self.engine["mode"]],
            "task": [share.settings.task, share.settings.prompt, share.settings.text],
            "format": VERSION,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    async def _recognize(self, share: Share, job: Job, path: Path, info: DocumentInfo, key: str) -> None:
        """Read every page that has no checkpoint yet, as many at once as there are slots."""
        kept = await share.threads.run(kept_pages, share.folders.job_folder(job), key, info.page_count)
        progress = self.running[job.job_id]
        progress.page_count, progress.pages_done = info.page_count, len(kept)
        # Beside those in the engine, all of which one long document may take.
        unwritten = asyncio.Semaphore(self.slots.capacity + MAX_UNWRITTEN)
        try:
            async with asyncio.TaskGroup() as pages:
                for number in range(1, info.page_count + 1):
                    if number in kept:
                        continue
                    await unwritten.acquire()
                    # Asked for one by one: that makes the order of asking a round robin over documents.
                    await self.slots.acquire(share.name, share.settings.priority)
                    if self.draining:
                        self.slots.release()
                        break
                    release = self.slots.releaser()
                    task = pages.create_task(self._one_page(share, progress, path, number, key, release, unwritten))
                    # A page that is cancelled before it begins never gets to give its slot back.
                    task.add_done_callback(lambda _, release=release: release())  # type: ignore[misc]
        except BaseExceptionGroup as group:
            raise deciding(group) from group
        if progress.pages_done < info.page_count:
            raise Draining

    async def _one_page(
        self, share: Share, progress: Progress, path: Path, number: int, key: str, release: Callable[[], None],
        unwritten: asyncio.Semaphore,
    ) -> None:  # fmt: skip
        try:
            page = await self._read_page(path, number - 1, share.settings.options)
        finally:
            # Before the checkpoint: a share that hangs must not keep the engine from other inboxes.
            release()
            self.progress_at = time.monotonic()
        if page.problem:
            log.warning("page.unreadable", page_number=number, problem=page.problem)
        await share.threads.run(write_checkpoint, share.folders.job_folder(progress.job), key, page)
        log.debug("page.recognized", page_number=number, seconds=page.seconds)
        progress.pages_done += 1
        unwritten.release()
        self.page_times.append(time.monotonic())
        del self.page_times[:-100]
        if progress.job.solo:
            progress.job = replace(progress.job, solo=False, attempts=progress.job.attempts - 1)
            await share.threads.run(share.folders.save, progress.job)

    async def _assemble(self, share: Share, job: Job, info: DocumentInfo, key: str) -> tuple[list[str], Summary]:
        """Write all outputs but the manifest into staging."""
        name = Path(job.name).name
        head = DocumentHead(
            source_name=Path(display(job.path)).name, source_type=info.kind, engine=self.engine["name"],
            model=self.engine["model"], mode=self.engine["mode"], task=share.settings.task, page_count=info.page_count,
        )  # fmt: skip

        def write() -> Summary:
            staging = share.folders.open_staging(job)
            folder = share.folders.job_folder(job)
            return write_document(staging, name, head, lambda: checkpointed_pages(folder, key, info.page_count))

        summary = await share.threads.run(write)
        return [f"{name}.json", f"{name}.md"], summary

    async def _publish(self, share: Share, job: Job, outputs: list[str], accounted: dict[str, Any]) -> None:
        """Out they go, the manifest last; from then on nothing of the document changes."""

        def publish() -> None:
            if take_sample(share.folders.source(job)) != job.sample:
                raise SourceChanged
            write_manifest(share.root.staging / job.job_id, Path(job.name).name, accounted)
            share.folders.publish(job, outputs)
            share.folders.mark(job, PUBLISHED, accounted)

        await share.threads.run(publish)

    async def _fail(self, share: Share, job: Job, error: DocumentError, *, hopeless: bool) -> dict[str, Any]:
        """Put the reason where the source will lie."""
        job = uncharged(self.running[job.job_id].job)
        accounted = failure(job, error, engine=self.engine, instance=self._instance, now=self._clock())
        last_word = hopeless or isinstance(error, GaveUp)
        if not last_word:
            # A copy that stalled for longer than `settle_s` looks corrupt, too; it may go on in a moment.
            await self.rest(asyncio.sleep(share.watcher.settler.settle_s))

        def write() -> None:
            if not last_word and take_sample(share.folders.source(job)) != job.sample:
                raise SourceChanged
            share.folders.write_error(job, accounted, failure_sentence(job, error))
            share.folders.mark(job, FAILED, accounted)

        await share.threads.run(write)
        return accounted

    async def _close(self, share: Share, job: Job, accounted: dict[str, Any]) -> None:
        """The line, the ledger, and last the source; every step may be repeated after a crash."""
        self.running[job.job_id].closing = True
        job = uncharged(self.running[job.job_id].job)
        failed = accounted["status"] == "failed"
        await share.add_line(accounted)
        await self._ledger.closed(job, share.root.root_id, accounted)
        await share.threads.run(share.folders.finish, job, FAILED if failed else PUBLISHED)
        advance(job, State.FAILED if failed else State.DONE, accounted["status"])
        self.finished[accounted["status"]] += 1
        write = log.warning if failed else log.info
        write(
            "job.failed" if failed else "job.done", status=accounted["status"], reason=accounted["reason"],
            pages=accounted.get("pages", 0), bad_pages=accounted.get("bad_pages", 0), attempts=job.attempts,
            seconds=accounted.get("seconds"), name=accounted["name"],
        )  # fmt: skip


def _name_anew(share: Share, job: Job) -> Job:
    return share.folders.rename(job)


def _sample_anew(share: Share, job: Job) -> Job:
    """The job with its source as it is now; checkpoints of the old content no longer match by themselves."""
    job = replace(job, sample=take_sample(share.folders.source(job)))
    share.folders.save(job)
    return job
