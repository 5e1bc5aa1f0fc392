"""What to try when a page was not read well: the recovery ladder.

Again with another guard, turned upright, as plain text, in halves, and at last the file's own text; each step only
where it can help, the first good reading ends it, and of bad ones the best is kept.  All that was tried is in the page.

Left to others: what is a good page (`quality.py`), asking the engine (`attempt.py`), loading a view (`reader.py`).
Residual risk: a page that is read badly and passes for good is never tried again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar

from deepseek_ocr.attempt import Reading, assembled, reading_of, text_layer_completion
from deepseek_ocr.completion import Completion
from deepseek_ocr.document import Attempt, Flag
from deepseek_ocr.errors import PageError
from deepseek_ocr.guard import SHORT, WIDE
from deepseek_ocr.halves import halves_of, joined, placed
from deepseek_ocr.ink import MIN_TEXT_CELLS, TEXT
from deepseek_ocr.prompt import READING_TASKS, Options, Task
from deepseek_ocr.quality import Fault, judge
from deepseek_ocr.view import WHOLE, View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deepseek_ocr.completion import EngineInfo, PageImage
    from deepseek_ocr.document import Page

    #: Loads a view of the page and has the engine read it; raises `PageError`.
    Ask = Callable[[View, Options], Awaitable[tuple[PageImage, Completion]]]

P = ParamSpec("P")
T = TypeVar("T")

#: Tokens of the answer to one further try: twice what the longest of 427 good real outputs has (5,674 characters,
#: bench/false_alarms.py, at some 3 a token).
TRY_TOKENS: Final = 4096
#: Tokens of all further tries of one page: four full ones.  With the first (8,192 less the picture) a page costs 24,000
#: at most, as 26 pages of print; a loop is given up long before, so that the usual bad page costs far less.
MORE_TOKENS: Final = 4 * TRY_TOKENS
#: A try with fewer tokens left is not worth its picture.
LEAST_TOKENS: Final = 512
#: No further try of a model begins so long after the first one: half of what makes a hanging engine of one page
#: (`completion.LONGEST_PAGE_S`).  With hundreds of pages in flight a full try takes one to two minutes (15 to 25 ms a
#: token, see the research).
MORE_S: Final = 300.0
#: An engine that is not asked in words is as slow as the processor: all its tries of a page end within so long, if
#: each takes no longer than the slowest before; the customer's limit for a page.
PAGE_S: Final = 60.0
#: Characters of a loop's round from which on the published guard cannot see it (61 tokens), nor a shorter one.
LONG_ROUND_CHARS: Final = 180
#: Answers that are judged at once, each in a thread: more would only wait for each other.
JUDGES: Final = 4

#: What another guard may help against.
_LOOPING: Final = frozenset({Fault.LOOP, Fault.LENGTH})
_INCOMPLETE: Final = _LOOPING | {Fault.BROKEN}
#: What a page that lies on its head may look like.
_DEGENERATE: Final = frozenset(Fault) - {Fault.LENGTH, Fault.BROKEN}
#: What halves help an engine with that reads letter by letter: it had too little time, or overlooked some.
_HALVES_HELP: Final = frozenset({Fault.LENGTH, Fault.EMPTY, Fault.UNDER_READ})


class Judges:
    """Threads that judge, so that a long text does not hold up the event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(JUDGES)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` in a thread."""
        async with self._free:
            return await asyncio.to_thread(function, *args, **kwargs)


@dataclass(slots=True)
class _Ladder:
    """One page on its way; `best` is the best reading so far, on the page as displayed."""

    image: PageImage
    info: EngineInfo
    options: Options
    ask: Ask
    judges: Judges
    clock: Callable[[], float]
    best: Reading
    #: The page as `best` saw it.
    seen: PageImage
    #: All tries, the first among them, and when that began.
    tried: list[Attempt]
    began: float
    #: How `best` looked at the page.
    view: View = WHOLE
    #: Of the answers to all further tries.
    tokens: int = 0

    @property
    def bad(self) -> bool:
        return self.best.verdict.problem is not None

    async def attempt(self, view: View, options: Options, way: str) -> tuple[PageImage, Reading] | None:
        """Another reading, also noted; None where it is refused, or all is spent."""
        left = MORE_TOKENS - self.tokens
        if left < LEAST_TOKENS or not self._has_time():
            return None
        began = self.clock()
        try:
            image, completion = await self.ask(view, replace(options, max_tokens=min(TRY_TOKENS, left)))
        except PageError as error:
            self.tried.append(Attempt(way=way, outcome=str(error), seconds=round(self.clock() - began, 3)))
            return None
        reading = await self.judges.run(reading_of, image, completion, options, way)
        if self.info.prompted:
            self.tokens += reading.tokens
        self.tried.append(reading.attempt)
        return image, replace(reading, blocks=tuple(placed(reading.blocks, view, self.image.width, self.image.height)))

    def _has_time(self) -> bool:
        elapsed = self.clock() - self.began
        if self.info.prompted:
            return elapsed <= MORE_S
        return elapsed + max(one.seconds for one in self.tried) <= PAGE_S

    def keep(self, reading: Reading, view: View, seen: PageImage) -> None:
        """Take it for the best if it is better."""
        if reading.verdict.rank > self.best.verdict.rank:
            self.best, self.view, self.seen = reading, view, seen

    # The steps

    async def guarded_otherwise(self) -> None:
        """Again with another guard: a wider one for a loop of long rounds, which the others cannot see."""
        if not self.info.guarded or self.best.verdict.fault not in _LOOPING:
            return
        guard = WIDE if self.best.period > LONG_ROUND_CHARS else SHORT
        options = replace(self.options, guard=guard)
        if found := await self.attempt(self.view, options, _way(self.options.task, self.view, f"guard {guard}")):
            self.keep(found[1], self.view, found[0])

    async def upright(self) -> None:
        """Turned by a quarter where the lines run sideways, else by half where it may stand on its head."""
        turns: tuple[Literal[90, 180, 270], ...] = (180,)
        if self.image.sideways:
            # Line by line RapidOCR turns such lines to the left, so where it could read them the page needs the same.
            turns = (90, 270) if self.bad else (270, 90)
        elif self.best.verdict.fault not in _DEGENERATE or not _has_lines(self.image):
            return
        for turn in turns:
            view = View(turn=turn)
            found = await self.attempt(view, self.options, _way(self.options.task, view))
            if found is None:
                continue
            seen, reading = found
            if reading.verdict.problem is None:
                # Lines that are level now are better evidence than a score.
                self.best, self.view, self.seen = reading, view, seen
                return
            self.keep(reading, view, seen)

    async def plain(self) -> None:
        """As plain text, which asks less of the model."""
        if self.options.task is not Task.DOCUMENT or not self.info.prompted or Task.FREE not in self.info.tasks:
            return
        options = replace(self.options, task=Task.FREE)
        if found := await self.attempt(self.view, options, _way(options.task, self.view)):
            self.keep(found[1].flagged(Flag.FALLBACK), self.view, found[0])

    async def in_halves(self) -> None:
        """Half by half: more letters to the pixel, and shorter answers."""
        if not self.info.prompted and self.best.verdict.fault not in _HALVES_HELP:
            return
        halves = halves_of(self.seen, self.view)
        readings = []
        for view, name in ((halves.first, halves.names[0]), (halves.second, halves.names[1])):
            found = await self.attempt(view, self.options, _way(self.options.task, view, name))
            if found is None:
                return  # a page of which a half is missing is no better
            readings.append(found[1])
        first, second = readings
        whole = await self.judges.run(self._whole, first, second, overlap=halves.overlap)
        self.keep(whole, self.view, self.seen)

    def _whole(self, first: Reading, second: Reading, *, overlap: bool) -> Reading:
        """Both halves as one reading."""
        one, other = first.completion, second.completion
        blocks = joined(first.blocks, second.blocks, overlap=overlap)
        bad = next((half for half in (first, second) if half.verdict.fault in _INCOMPLETE), second)
        completion = Completion(
            f"{one.text}\n\n{other.text}",
            bad.completion.finish_reason,
            one.seconds + other.seconds,
            (*one.regions, *other.regions),
            one.prompt_tokens + other.prompt_tokens,
            one.completion_tokens + other.completion_tokens,
        )
        # Only what is incomplete stays so: a half without text is no fault where the other has all of it.
        verdict = judge(self.image, completion, blocks, self.options.task)
        if bad.verdict.fault in _INCOMPLETE:
            verdict = replace(verdict, problem=bad.verdict.problem, fault=bad.verdict.fault)
        return Reading("halves", completion, blocks, (*first.oddities, *second.oddities), verdict)


async def recover(
    image: PageImage, first: Reading, *, info: EngineInfo, options: Options, ask: Ask, judges: Judges,
    clock: Callable[[], float] = time.monotonic,
) -> Page:  # fmt: skip
    """The page as it is read best, with all that was tried; raises what `ask` raises beside `PageError`.

    Whoever bounds the tokens gets one try, and without a picture another look would be the same.
    """
    began = first.attempt
    if first.verdict.problem is None and _reads_lines_apart(image, info, options):
        began = began.model_copy(update={"outcome": "the lines run sideways"})
    ladder = _Ladder(image, info, options, ask, judges, clock, first, image, [began], clock() - began.seconds)
    if began.outcome and not options.max_tokens and info.needs != "nothing" and image.ink > 0:
        await _climb(ladder)
    best = ladder.best
    problem, source = best.verdict.problem, info.name
    if problem and options.task in READING_TASKS and image.text_layer:
        own = await judges.run(reading_of, image, text_layer_completion(image.text_layer), options, "the file's text")
        better = own.verdict.score > best.verdict.score and not options.max_tokens
        if better or not best.blocks:
            ladder.tried.append(own.attempt)
            best, source = own.flagged(Flag.FALLBACK), "textlayer"
            problem = f"{problem}; the text is the file's own"
    if len(ladder.tried) > 1 and source != "textlayer":
        best = best.flagged(Flag.RETRIED)
    return assembled(
        image, best.completion, best.blocks, best.oddities, source=source, problem=problem, options=options, info=info,
        attempts=ladder.tried if len(ladder.tried) > 1 else (),
    )  # fmt: skip


def _reads_lines_apart(image: PageImage, info: EngineInfo, options: Options) -> bool:
    """Whether lines that run sideways were read one by one, each turned, and so stand in no order."""
    return image.sideways and not info.prompted and options.task in READING_TASKS


async def _climb(ladder: _Ladder) -> None:
    """Step by step, until one is good."""
    steps = [ladder.guarded_otherwise]
    if ladder.options.task in READING_TASKS:
        steps = [ladder.guarded_otherwise, ladder.upright, ladder.plain, ladder.in_halves]
        if ladder.image.sideways:  # which explains more than a guard does
            steps = [ladder.upright, ladder.guarded_otherwise, ladder.plain, ladder.in_halves]
            await steps.pop(0)()
    for step in steps:
        if not ladder.bad:
            return
        await step()


def _way(task: Task, view: View, *more: str) -> str:
    """What is asked, in words."""
    turned = f"turned {view.turn}" if view.turn else ""
    return ", ".join(part for part in (str(task), turned, *more) if part)


def _has_lines(image: PageImage) -> bool:
    return image.ink_grid is not None and int((image.ink_grid == TEXT).sum()) >= MIN_TEXT_CELLS
