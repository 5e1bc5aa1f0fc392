"""Stand-ins that tests pass in: documents, an engine, a reader of pages, and a service manager.

A fake document is text: `fake_document(3, "minutes")` says that it has three pages and what they are about.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from typing import TYPE_CHECKING, Self, TypeVar

from deepseek_ocr.completion import Completion, EngineInfo, Health, Region
from deepseek_ocr.document import Block, Page
from deepseek_ocr.errors import Corrupt, EngineDeadError
from deepseek_ocr.pages import DocumentInfo, Limits
from deepseek_ocr.prompt import READING_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepseek_ocr.completion import Needs, PageImage
    from deepseek_ocr.prompt import Options
    from deepseek_ocr.view import View

T = TypeVar("T")

# Documents and pages


def fake_document(pages: int = 1, words: str = "hello") -> bytes:
    """What `FakeReader` takes for a document; other words are another content."""
    return f"fake document\n{pages}\n{words}\n".encode()


def fake_page(page_number: int, text: str, *, problem: str | None = None) -> Page:
    """A page with one block of text."""
    block = Block(id=f"p{page_number}b1", category="text", label="text", text=text, box=(10, 10, 90, 20))
    return Page(
        page_number=page_number, width=100, height=100, unit="px", blocks=(block,) if text else (),
        problem=problem, source="fake", seconds=0.001,
    )  # fmt: skip


class FakeReader:
    """`inspect` and `read_page` of a reader, without processes or an engine.

    What goes wrong is said beforehand: the faults of a page are raised one per call, in order, before it is read.
    """

    def __init__(self) -> None:
        #: (words of the document, page number) of every call that began, in order.
        self.calls: list[tuple[str, int]] = []
        #: Words of every document that was inspected, in order.
        self.inspected: list[str] = []
        #: Exceptions to raise from `read_page`, by (words, page number).
        self.faults: dict[tuple[str, int], list[BaseException]] = defaultdict(list)
        #: Exceptions to raise from `inspect`, by words.
        self.inspect_faults: dict[str, list[BaseException]] = defaultdict(list)
        #: Pages that come back with a problem, by (words, page number).
        self.problems: dict[tuple[str, int], str] = {}
        #: Documents, and pages by (words, page number), that are never finished.
        self.held: set[str] = set()
        self.held_pages: set[tuple[str, int]] = set()
        #: Documents with a figure on every page, by words.
        self.illustrated: set[str] = set()
        #: (words, page number) of every second look that began, in order, and those that never end.
        self.looked_closer: list[tuple[str, int]] = []
        self.held_looks: set[tuple[str, int]] = set()
        self.limits = Limits()
        #: While it is cleared every page waits.
        self.gate = asyncio.Event()
        self.gate.set()
        #: Pages that are being read now, and the most there ever were.
        self.in_flight = 0
        self.most_in_flight = 0

    async def inspect(self, path: Path) -> DocumentInfo:
        """Kind and number of pages."""
        pages, words = _parse(path)
        self.inspected.append(words)
        if self.inspect_faults[words]:
            raise self.inspect_faults[words].pop(0)
        return DocumentInfo("fake", pages, repaired=False)

    async def read_page(self, path: Path, page_index: int, options: Options) -> Page:
        """One page: `<words> <page number>`."""
        del options
        _, words = _parse(path)
        number = page_index + 1
        self.calls.append((words, number))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            if words in self.held or (words, number) in self.held_pages:
                await asyncio.Event().wait()
            if self.faults[words, number]:
                raise self.faults[words, number].pop(0)
        finally:
            self.in_flight -= 1
        page = fake_page(number, f"{words} {number}", problem=self.problems.get((words, number)))
        return _illustrated(page) if words in self.illustrated else page

    async def look_closer(self, path: Path, page: Page, options: Options) -> Page:
        """The page with a description of each figure."""
        del options
        key = _parse(path)[1], page.page_number
        self.looked_closer.append(key)
        if key in self.held_looks:
            await asyncio.Event().wait()
        blocks = (
            block.model_copy(update={"description": "seen closer"}) if block.category == "figure" else block
            for block in page.blocks
        )
        return page.model_copy(update={"blocks": tuple(blocks)})

    async def picture(self, path: Path, page_index: int, view: View) -> bytes:
        """A part of a page, as bytes that say which."""
        return f"{path.name} {page_index} {view.box}".encode()


def _illustrated(page: Page) -> Page:
    """The page with a figure in its middle."""
    figure = Block(
        id=f"p{page.page_number}b2", category="figure", label="image", text="", box=(20, 30, 80, 70),
        relative_box=(0.2, 0.3, 0.8, 0.7),
    )  # fmt: skip
    return page.model_copy(update={"blocks": (*page.blocks, figure)})


async def run_here(function: Callable[..., T], /, *args: object) -> T:
    """Where a test needs no process."""
    return function(*args)


def _parse(path: Path) -> tuple[int, str]:
    kind, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if kind != "fake document":
        raise Corrupt("it is no fake document")
    return int(lines[0]), lines[1]


class FakeEngine:
    """An engine that says what it is told to: per page index a list of completions or exceptions, in order.

    A page nobody said anything about is read as `page <number>`.
    """

    def __init__(self, *, capacity: int = 2, needs: Needs = "pixels") -> None:
        self.info = EngineInfo("fake", "fake-1", READING_TASKS, needs=needs, capacity=capacity)
        #: Pages that came, in order.
        self.calls: list[PageImage] = []
        #: What to answer, by page index.
        self.answers: dict[int, list[Completion | BaseException]] = defaultdict(list)
        #: What to raise from `start`, one per call.
        self.start_faults: list[BaseException] = []
        #: While it is cleared every page waits.
        self.gate = asyncio.Event()
        self.gate.set()
        self.starts = 0
        self.stops = 0

    async def start(self) -> None:
        """Count, and fail if told to."""
        self.starts += 1
        if self.start_faults:
            raise self.start_faults.pop(0)

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The next answer for this page."""
        del options, on_text
        self.calls.append(page)
        await self.gate.wait()
        answers = self.answers[page.page_index]
        answer = answers.pop(0) if answers else completion(f"page {page.page_index + 1}")
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def stop(self) -> None:
        """Count."""
        self.stops += 1

    def health(self) -> Health:
        """Well between `start` and `stop`."""
        return Health(ok=self.starts > self.stops, detail="fake")


class MortalEngine:
    """An engine that reads the text layer, and dies whenever a page is in flight that says "poison".

    A page takes as many turns of the loop as `turns` says of its text.
    """

    def __init__(self, *, capacity: int = 16, turns: Callable[[str], int] = lambda _: 2, deaf: bool = False) -> None:
        self.info = EngineInfo("mortal", "mortal-1", READING_TASKS, needs="nothing", capacity=capacity)
        self._turns = turns
        #: Whether pages in flight at a death never come back by themselves.
        self._deaf = deaf
        #: Whether the next page that ends its turns is the last of this life.
        self.doomed = False
        #: While it is cleared every page waits.
        self.gate = asyncio.Event()
        self.gate.set()
        #: What to raise from `start`, one per call, and the gate it waits at before.
        self.start_faults: list[BaseException] = []
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        #: Texts in flight, and the pages that were together in flight, since it was last idle, in order.
        self.in_flight: list[str] = []
        self.batches: list[set[str]] = []
        self.starts = 0
        self.stops = 0
        self._alive = False

    async def start(self) -> None:
        """A new life, unless told to fail."""
        assert not self._alive, "started twice"
        assert not self.in_flight, "what is left of the last life still runs"
        self.starts += 1
        await self.start_gate.wait()
        if self.start_faults:
            raise self.start_faults.pop(0)
        self._alive = True

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """The text of the page, unless it or another one kills."""
        del options
        text = " ".join(region.text for region in page.text_layer)
        if not self.in_flight:
            self.batches.append(set())
        self.batches[-1].add(text)
        self.in_flight.append(text)
        life = self.starts
        try:
            for turn in range(self._turns(text)):
                await self.gate.wait()
                await asyncio.sleep(0)
                await self._check(life)
                if on_text is not None:
                    on_text(text[: turn + 1])
            await self._check(life)
            if self.doomed or "poison" in text:
                self.doomed = self._alive = False
                raise EngineDeadError("it stumbled")
            return completion(text)
        finally:
            self.in_flight.remove(text)

    async def _check(self, life: int) -> None:
        if not self._alive or life != self.starts:
            if self._deaf:
                await asyncio.Event().wait()
            raise EngineDeadError("it is dead")

    async def stop(self) -> None:
        """The end of a life."""
        self.stops += 1
        self._alive = False

    def die(self) -> None:
        """The end of a life that nobody asked for."""
        self._alive = False

    def health(self) -> Health:
        """Whether it lives."""
        return Health(ok=self._alive, detail="alive" if self._alive else "dead")


def completion(text: str, *, finish_reason: str = "stop", confidence: float | None = None) -> Completion:
    """A completion of one region over the whole page."""
    regions = (Region("text", text, (0.0, 0.0, 1.0, 1.0), confidence),) if text else ()
    return Completion(text, finish_reason, 0.001, regions)  # type: ignore[arg-type]


# The service manager


class FakeServiceManager:
    """The other end of NOTIFY_SOCKET: a real socket, and what came over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(os.fspath(path))
        self._messages: list[str] = []

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket and remove its name."""
        self._socket.close()
        self.path.unlink(missing_ok=True)

    @property
    def messages(self) -> list[str]:
        """All datagrams so far, in order."""
        while True:
            try:
                self._messages.append(self._socket.recv(65_536).decode())
            except BlockingIOError:
                return self._messages

    @property
    def status(self) -> str:
        """The latest STATUS line."""
        return next((one.removeprefix("STATUS=") for one in reversed(self.messages) if one.startswith("STATUS=")), "")

    def count(self, message: str) -> int:
        """How often a message came (its first line counts)."""
        return sum(one.split("\n")[0] == message for one in self.messages)
