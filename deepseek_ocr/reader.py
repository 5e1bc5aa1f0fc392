"""One document, page by page, through everything: load, recognize, judge, and what helps where that failed.

`Reader.read_page` is the straight line for one page and `read` the one for a document.  A page always comes back:
read, blank, from the file's own text, or empty with the reason, never not at all.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from deepseek_ocr.attempt import EVERYTHING, page_from, reading_of, recognize, text_layer_completion
from deepseek_ocr.completion import Completion
from deepseek_ocr.document import Flag, Page
from deepseek_ocr.errors import Corrupt, EngineStartError, PageError, WorkerDied, WorkerTimeout
from deepseek_ocr.figures import TASKS as SECOND_PASS
from deepseek_ocr.figures import look_closer
from deepseek_ocr.lookout import Lookout
from deepseek_ocr.pages import Limits, initialize_worker, inspect, load_page
from deepseek_ocr.processes import ProcessPool
from deepseek_ocr.recovery import Judges, recover
from deepseek_ocr.tile_memory import TileMemory
from deepseek_ocr.view import WHOLE, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from deepseek_ocr.completion import Engine, EngineInfo, Needs, PageImage
    from deepseek_ocr.pages import DocumentInfo
    from deepseek_ocr.prompt import ModeChoice, Options

T = TypeVar("T")

log = structlog.get_logger()

#: Rendering one page must not take longer; sound pages take a hundredth of it.  With the next three, and a second for
#: each of three processes to start, it is less than 60 s, after which a page that cannot be loaded is given up.
PAGE_LOAD_TIMEOUT_S = 22.0
#: The same again, after the process died.
PAGE_LOAD_AGAIN_TIMEOUT_S = 10.0
#: The text layer of a page that cannot be rendered.
TEXT_LAYER_TIMEOUT_S = 15.0
#: Reading a few bytes of a file in a fresh process.
PROBE_TIMEOUT_S = 8.0
PROBE_BYTES = 65_536
#: Opening and, if need be, repairing a document.
INSPECT_TIMEOUT_S = 120.0
#: A process that is killed may still write for a moment, so nobody else gets its place before.
KILLED_S = 1.0
#: A process is replaced after so many pages, against slow leaks in the libraries.
RENDER_MAX_CALLS = 2000


class Reader:
    """Reads pages with one engine, many at once; enter it to start engine and processes."""

    def __init__(
        self,
        engine: Engine,
        *,
        limits: Limits | None = None,
        workers: int = 0,
        pool: ProcessPool | None = None,
        memory: TileMemory | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        self.engine = engine
        self.limits = limits or Limits()
        self._pool = pool or ProcessPool(
            workers or len(os.sched_getaffinity(0)),
            initializer=initialize_worker,
            max_calls=RENDER_MAX_CALLS,
        )
        #: Where the tiles of pages lie that are in flight.
        self._memory = memory or (_memory(engine.info.capacity) if engine.info.needs == "tiles" else None)
        self._judges = Judges()
        self._lookout = lookout or Lookout()
        #: Looks of the second pass at once, over all pages: each has a picture in memory.
        self._looks = asyncio.Semaphore(engine.info.capacity)

    def with_engine(self, engine: Engine) -> Reader:
        """A reader that shares the processes and the lookout; entered and left with this one, never by itself."""
        return Reader(engine, limits=self.limits, pool=self._pool, memory=self._memory, lookout=self._lookout)

    async def __aenter__(self) -> Self:
        """Start the engine and the processes; raises `EngineStartError`."""
        starting = [asyncio.create_task(self.engine.start()), asyncio.create_task(self._pool.warm())]
        try:
            await asyncio.gather(*starting)
        except BaseException as error:
            # To its end: an engine that is stopped while it still starts may come up afterwards, and nobody knows it.
            for one in starting:
                if not one.cancelling():  # twice would break off what it does at its end
                    one.cancel()
            await asyncio.wait(starting)
            await self.__aexit__()
            if isinstance(error, WorkerDied | WorkerTimeout):
                raise EngineStartError(f"the processes that render pages cannot start: {error}") from error
            raise
        return self

    def close(self) -> None:
        """Kill the rendering processes, at once."""
        self._pool.close()

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        self.close()
        await self.engine.stop()
        self._lookout.close()  # nothing streams any more
        if self._memory:
            self._memory.close()

    async def inspect(self, path: Path) -> DocumentInfo:
        """What kind of document it is and how many pages it has.

        Raises `DocumentError`; `WorkerTimeout` where opening it takes too long, though the file can be read; `OSError`
        where the file system does not answer.
        """
        try:
            return await _twice(lambda _: self._pool.run_within(INSPECT_TIMEOUT_S, inspect, path, self.limits))
        except WorkerDied as error:
            await self._probe(path)  # which dies too if it is the machine's fault, or the end of this reader
            raise Corrupt(f"opening it crashes the library that reads it, twice: {error}") from error
        except WorkerTimeout:
            await self._probe(path)
            raise

    async def _probe(self, path: Path) -> None:
        """Raise an `OSError` if the file system is why a process hung: no document is to be blamed for a dead share."""
        try:
            await self._pool.run_within(PROBE_TIMEOUT_S, read_ends, path)
        except WorkerTimeout as error:
            raise TimeoutError(errno.ETIMEDOUT, "the file does not answer", str(path)) from error

    async def read_page(
        self,
        path: Path,
        page_index: int,
        options: Options = EVERYTHING,
        on_text: Callable[[str], None] | None = None,
    ) -> Page:
        """Read one page, whatever it takes; raises only what concerns the document, its file system or the engine.

        `on_text` gets the raw text so far whenever there is more of it, where the engine can say; it begins anew with
        each further try.
        """
        info = self.engine.info
        try:
            image = await self._seen(path, page_index, WHOLE, options)
        except PageError as error:
            if isinstance(error, WorkerTimeout):
                await self._probe(path)
            if info.needs == "nothing":  # there is nothing less to ask for
                return _unreadable(page_index, str(error))
            return await self._without_picture(path, page_index, options, str(error))
        if image.ink == 0 and not image.text_layer and not image.damage:
            nothing = Completion("", "stop", 0.0)
            return page_from(image, nothing, source=info.name, blank=True, options=options, info=info)
        try:
            completion = await self._recognize(image, options, on_text)
        except PageError as error:
            return _from_text_layer(await self._with_text(path, image), str(error), options, info)

        async def ask(view: View, options: Options) -> tuple[PageImage, Completion]:
            seen = image if view == WHOLE else await self._seen(path, page_index, view, options)
            return seen, await self._recognize(seen, options, on_text)

        first = await self._judges.run(reading_of, image, completion, options)
        if first.verdict.problem:
            image = await self._with_text(path, image)
        return await recover(image, first, info=info, options=options, ask=ask, judges=self._judges)

    async def look(self, path: Path, page_index: int, view: View, options: Options) -> Completion:
        """What the engine says of a part of a page, once, unjudged; raises as `Engine.recognize` does."""
        return await self._recognize(await self._seen(path, page_index, view, options), options, None)

    async def look_closer(self, path: Path, page: Page, options: Options = EVERYTHING) -> Page:
        """The page with what a second look at its figures and broken tables found; raises as `read_page` does.

        Where the engine cannot be asked about figures, the page as it is.
        """
        info = self.engine.info
        if not info.tasks >= SECOND_PASS:
            return page

        async def ask(view: View, asked: Options) -> Completion:
            asked = replace(asked, mode=options.mode)
            async with self._looks:
                try:
                    image = await self._load(path, page.page_number - 1, info.needs, asked.mode or info.mode, view)
                except WorkerTimeout:
                    await self._probe(path)
                    raise
                return await self._recognize(image, asked, None)

        return await look_closer(page, ask)

    async def picture(self, path: Path, page_index: int, view: View = WHOLE) -> bytes:
        """A PNG of a page, or of a part of it; raises `PageError`, also where nothing is to be seen there."""
        image = await self._load(path, page_index, "png", None, view)
        if not image.png:
            raise PageError("there is nothing to be seen")
        return image.png

    async def _seen(self, path: Path, page_index: int, view: View, options: Options) -> PageImage:
        """A part of a page as the engine wants it."""
        info = self.engine.info
        return await self._load(path, page_index, info.needs, options.mode or info.mode, view)

    async def _load(
        self, path: Path, page_index: int, needs: Needs, mode: ModeChoice | None, view: View = WHOLE
    ) -> PageImage:
        place = self._memory.take() if self._memory and needs == "tiles" else None
        image, wait_s = None, 0.0
        try:
            image = await _twice(
                lambda again: self._pool.run_within(
                    PAGE_LOAD_AGAIN_TIMEOUT_S if again else PAGE_LOAD_TIMEOUT_S,
                    load_page, path, page_index, needs=needs, mode=mode, limits=self.limits, view=view, place=place,
                )
            )  # fmt: skip
        except (WorkerDied, WorkerTimeout, asyncio.CancelledError):
            wait_s = KILLED_S
            raise
        finally:
            if self._memory and image and image.stored:
                self._memory.keep(image.stored)
            elif self._memory and place:
                asyncio.get_running_loop().call_later(wait_s, self._memory.give_back, place)
        return image

    async def _recognize(self, image: PageImage, options: Options, on_text: Callable[[str], None] | None) -> Completion:
        return await _twice(lambda _: recognize(self.engine, image, options, on_text, lookout=self._lookout))

    async def _with_text(self, path: Path, image: PageImage) -> PageImage:
        """The page with the text embedded in it, which one that came as tiles lacks."""
        if image.unit != "pt" or self.engine.info.needs != "tiles" or image.text_layer:
            return image
        try:
            text = await self._load(path, image.page_index, "nothing", None)
        except PageError:
            return image
        return replace(image, text_layer=text.text_layer)

    async def _without_picture(self, path: Path, page_index: int, options: Options, problem: str) -> Page:
        """The page cannot be rendered: its text layer may still be readable, in a process of its own again."""
        try:
            image = await self._pool.run_within(
                TEXT_LAYER_TIMEOUT_S, load_page, path, page_index, needs="nothing", limits=self.limits
            )
        except PageError:
            return _unreadable(page_index, problem)
        return _from_text_layer(image, problem, options, self.engine.info)


def _memory(count: int) -> TileMemory | None:
    """Places for so many pages, or none where the system refuses: tiles then travel as they are."""
    try:
        return TileMemory(count)
    except OSError as error:  # a filter of system calls, too many files
        log.warning("tiles.unshared", reason=str(error))
        return None


def read_ends(path: Path) -> int:
    """Read the beginning and the end of a file; how many bytes that were.  Hangs where its file system does."""
    with path.open("rb") as file:
        count = len(file.read(PROBE_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - PROBE_BYTES))
        return count + len(file.read())


async def read(
    path: str | Path, engine: Engine | None = None, options: Options = EVERYTHING, *, limits: Limits | None = None
) -> AsyncIterator[Page]:
    """The pages of one document in order, as they come; raises `DocumentError` and `EngineError`.

    `engine` is one that was not started, such as `deepseek_ocr.engine.vllm.VllmEngine("deepseek-ai/DeepSeek-OCR")`;
    without one this machine's processor reads.  It is stopped after the last page, or when the caller leaves: to read
    many documents, enter one `Reader` and keep it.

    In a notebook::

        from deepseek_ocr import read
        async for page in read("letter.pdf"):
            print(page.page_number, [block.text for block in page.blocks])
    """
    path = Path(path)
    if engine is None:
        from deepseek_ocr.engine.cpu import CpuEngine  # noqa: PLC0415 - each engine loads its own libraries

        engine = CpuEngine()
    async with Reader(engine, limits=limits) as reader:
        info = await reader.inspect(path)
        ahead: deque[asyncio.Task[Page]] = deque()
        try:
            for page_index in range(info.page_count):
                ahead.append(asyncio.create_task(reader.read_page(path, page_index, options)))
                if len(ahead) >= engine.info.capacity:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for waiting in ahead:
                waiting.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)


async def _twice(attempt: Callable[[bool], Awaitable[T]]) -> T:
    """`attempt(False)`, and `attempt(True)` after a process died: perhaps for its neighbour's hunger for memory."""
    try:
        return await attempt(False)
    except WorkerDied:
        return await attempt(True)


def _unreadable(page_index: int, problem: str) -> Page:
    """A page of which nothing is known but why."""
    return Page(
        page_number=page_index + 1,
        width=1,
        height=1,
        unit="px",
        blocks=(),
        problem=problem,
        source="none",
        seconds=0,
    )


def _from_text_layer(image: PageImage, problem: str, options: Options, info: EngineInfo) -> Page:
    """What the file itself says, where nothing better can be had; marked as such."""
    regions = image.text_layer
    note = f"{problem}; the text is the file's own" if regions else problem
    source = "textlayer" if regions else "none"
    page = page_from(image, text_layer_completion(regions), source=source, problem=note, options=options, info=info)
    blocks = tuple(block.model_copy(update={"flags": (*block.flags, Flag.FALLBACK)}) for block in page.blocks)
    return page.model_copy(update={"blocks": blocks})
