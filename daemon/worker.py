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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from daemon.assembly import Draft
from daemon.checkpoints import checkpointed_pages
from daemon.durable import remove_tree
from daemon.faults import GaveUp, SourceChanged
from daemon.folders import FAILED, PUBLISHED, has_content, hash_file, take_sample
from daemon.job import Job, State, advance, exhausted, uncharged
from daemon.outputs import account, display, failure, failure_sentence, write_manifest
from daemon.passes import Draining, Passes, Progress
from deepseek_ocr.document import VERSION, DocumentHead
from deepseek_ocr.errors import DocumentError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from daemon.assembly import Assembler
    from daemon.fair import PageSlots
    from daemon.ledger import Ledger
    from daemon.outputs import Summary
    from daemon.passes import PageReader
    from daemon.share import Share
    from deepseek_ocr.pages import DocumentInfo

log = structlog.get_logger()

#: Waits before another attempt after a fault nobody foresaw.
RETRY_S = (1.0, 5.0, 20.0)
#: Until a job is taken up again whose engine is at fault; one that dies is brought back beneath it, unseen from here.
ENGINE_AGAIN_S = 1.0


class Worker:
    """What all jobs share: the engine's two calls, the slots, the ledger."""

    def __init__(
        self,
        *,
        reader: PageReader,
        assembler: Assembler,
        slots: PageSlots,
        ledger: Ledger,
        engine: dict[str, Any],
        instance: str,
        max_attempts: int,
        ledger_fault: Callable[[Exception], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self.passes = Passes(reader, slots)
        self._assembler = assembler
        self._ledger = ledger
        #: What manifests and checkpoints say about the engine: name, model, reason, scripts.
        self.engine = engine
        self._instance = instance
        self.max_attempts = max_attempts
        self._ledger_fault = ledger_fault
        self._clock = clock
        self._stopping = asyncio.Event()
        #: Running jobs by id.
        self.running: dict[str, Progress] = {}
        self.finished: dict[str, int] = {"done": 0, "partial": 0, "failed": 0}

    def drain(self) -> None:
        """Begin no new page; those in flight finish, and documents that are complete with them."""
        self._stopping.set()
        self.passes.drain()

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
                if self.passes.draining:
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
        info = await self._reader.inspect(path)
        sha256 = await share.threads.run_long(hash_file, path)
        key = self._checkpoint_key(share, sha256)
        progress = self.running[job.job_id]
        progress.page_count = info.page_count
        await self.passes.recognize(share, progress, path, key)
        if share.settings.second_pass:
            await self.passes.look_closer(share, progress, path, key)
        job = uncharged(progress.job)
        outputs, summary = await self._assemble(share, job, path, info, key)
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

    async def _assemble(
        self, share: Share, job: Job, path: Path, info: DocumentInfo, key: str
    ) -> tuple[list[str], Summary]:
        """Make all outputs but the manifest, in staging."""
        head = DocumentHead(
            source_name=Path(display(job.path)).name, source_type=info.kind, engine=self.engine["name"],
            model=self.engine["model"], mode=self.engine["mode"], task=share.settings.task, page_count=info.page_count,
        )  # fmt: skip
        folder = share.folders.job_folder(job)
        draft = Draft(
            await share.threads.run(share.folders.open_staging, job), Path(job.name).name, path, head,
            partial(checkpointed_pages, folder, key, info.page_count), self._reader.limits, share.settings.wanted,
        )  # fmt: skip
        # A long document takes longer to write than a share may take to answer.
        return await self._assembler.assemble(draft, share.threads.run_long)

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
