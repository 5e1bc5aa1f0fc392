"""The two passes over a document's pages: reading them, and looking closer at their figures and tables.

Pages run side by side, as many as there are slots; each is kept as soon as it is there, so that after a crash nothing
is read twice.  Left to others: what becomes of a fault (`worker.py`), how a page is read (`deepseek_ocr.reader`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from daemon.checkpoints import checkpointed_page, checkpoints, write_checkpoint
from daemon.faults import deciding
from deepseek_ocr.figures import looks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from daemon.fair import PageSlots
    from daemon.job import Job
    from daemon.share import Share
    from deepseek_ocr.document import Page
    from deepseek_ocr.pages import DocumentInfo, Limits
    from deepseek_ocr.prompt import Options

log = structlog.get_logger()

#: Pages of one document that wait for their checkpoint to be written; only a share that hangs lets them pile up.
MAX_UNWRITTEN = 64


class Draining(Exception):
    """No new page is begun: the service stops, and the job resumes at the next start."""


class PageReader(Protocol):
    """What the worker needs of a `Reader`; tests pass their own."""

    limits: Limits

    def inspect(self, path: Path, /) -> Awaitable[DocumentInfo]:
        """Kind and number of pages; raises what concerns the document."""
        ...

    def read_page(self, path: Path, page_index: int, options: Options, /) -> Awaitable[Page]:
        """One page, always; raises only what concerns the document or the engine."""
        ...

    def look_closer(self, path: Path, page: Page, options: Options, /) -> Awaitable[Page]:
        """The page with what a second look at its figures and tables found; raises as `read_page` does."""
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


class Passes:
    """What the pages of all jobs share: the reader and its slots."""

    def __init__(self, reader: PageReader, slots: PageSlots) -> None:
        self._reader = reader
        self.slots = slots
        self.draining = False
        #: Times (steady clock) at which pages were finished, newest last; the last hundred.
        self.page_times: list[float] = []
        #: Steady clock: when the engine last gave something back.
        self.progress_at = 0.0

    def drain(self) -> None:
        """Begin no new page; those in flight finish."""
        self.draining = True
        self.slots.let_all_go()

    async def recognize(self, share: Share, progress: Progress, path: Path, key: str) -> None:
        """Read every page that has no checkpoint yet."""
        folder = share.folders.job_folder(progress.job)

        def kept_numbers() -> set[int]:
            return {kept.page.page_number for kept in checkpoints(folder, key, progress.page_count)}

        kept = await share.threads.run_long(kept_numbers)
        progress.pages_done = len(kept)

        async def read(number: int) -> Page:
            return await self._reader.read_page(path, number - 1, share.settings.options)

        async def keep(page: Page) -> None:
            if page.problem:
                log.warning("page.unreadable", page_number=page.page_number, problem=page.problem)
            await share.threads.run(write_checkpoint, folder, key, page)
            log.debug("page.recognized", page_number=page.page_number, seconds=page.seconds)
            progress.pages_done += 1
            self.page_times.append(time.monotonic())
            del self.page_times[:-100]

        numbers = [number for number in range(1, progress.page_count + 1) if number not in kept]
        await self._each(share, progress, numbers, read, keep)

    async def look_closer(self, share: Share, progress: Progress, path: Path, key: str) -> None:
        """The second pass: look again at what deserves it, on all pages of the document side by side."""
        folder = share.folders.job_folder(progress.job)

        def deserving() -> list[int]:
            every = checkpoints(folder, key, progress.page_count)
            return [kept.page.page_number for kept in every if not kept.closer and looks(kept.page)]

        async def look(number: int) -> Page:
            page = await share.threads.run(checkpointed_page, folder, key, number)
            return await self._reader.look_closer(path, page, share.settings.options)

        async def keep(page: Page) -> None:
            await share.threads.run(partial(write_checkpoint, folder, key, page, closer=True))
            log.debug("page.looked_closer", page_number=page.page_number)

        await self._each(share, progress, await share.threads.run_long(deserving), look, keep)

    async def _each(
        self, share: Share, progress: Progress, numbers: list[int], read: Callable[[int], Awaitable[Page]],
        keep: Callable[[Page], Awaitable[None]],
    ) -> None:  # fmt: skip
        """Read and keep these pages, as many at once as there are slots; raises `Draining` if not all were begun."""
        begun = 0
        # Beside those in the engine, all of which one long document may take.
        unwritten = asyncio.Semaphore(self.slots.capacity + MAX_UNWRITTEN)

        async def one(number: int, release: Callable[[], None]) -> None:
            try:
                page = await read(number)
            finally:
                # Before the checkpoint: a share that hangs must not keep the engine from other inboxes.
                release()
                self.progress_at = time.monotonic()
            await keep(page)
            unwritten.release()
            if progress.job.solo:
                progress.job = replace(progress.job, solo=False, attempts=progress.job.attempts - 1)
                await share.threads.run(share.folders.save, progress.job)

        try:
            async with asyncio.TaskGroup() as pages:
                for number in numbers:
                    await unwritten.acquire()
                    # Asked for one by one: that makes the order of asking a round robin over documents.
                    await self.slots.acquire(share.name, share.settings.priority)
                    if self.draining:
                        self.slots.release()
                        break
                    begun += 1
                    release = self.slots.releaser()
                    task = pages.create_task(one(number, release))
                    # A page that is cancelled before it begins never gets to give its slot back.
                    task.add_done_callback(lambda _, release=release: release())  # type: ignore[misc]
        except BaseExceptionGroup as group:
            raise deciding(group) from group
        if begun < len(numbers):
            raise Draining
