"""One try at a page: ask an engine, stop it when it loops, and what came of it as a page with a verdict.

Left to others: what is a good page (`quality.py`), what to try next (`recovery.py`).
Residual risk: how many tokens an answer had that was stopped is estimated, as no engine tells.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from deepseek_ocr.blocks import blocks_of
from deepseek_ocr.completion import Completion
from deepseek_ocr.document import Attempt, Flag, Page, Provenance
from deepseek_ocr.loops import STRIDE, LoopWatch
from deepseek_ocr.prompt import Options
from deepseek_ocr.quality import judge, loop_of, mean_confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepseek_ocr.completion import Engine, EngineInfo, PageImage, Region
    from deepseek_ocr.document import Block, PageOddity
    from deepseek_ocr.lookout import Lookout
    from deepseek_ocr.loops import Loop
    from deepseek_ocr.quality import Verdict

#: Unless asked for something else: the whole page, as the engine does it best.
EVERYTHING: Final = Options()
#: Characters of a token, for answers that were stopped: real outputs have about 3, a low figure counts too many.
TOKEN_CHARS: Final = 3


class _Watch:
    """Hears what an engine has written so far, and gives the page up at the first loop."""

    def __init__(self, lookout: Lookout, on_text: Callable[[str], None] | None) -> None:
        #: The first loop, or why nobody can look for one.
        self.found: Loop | BaseException | None = None
        self.text = ""
        #: Characters of it that are looked at, or will be.
        self.handed_over = 0
        #: What reads the page.
        self.reading: asyncio.Task[Completion] | None = None
        self._on_text = on_text
        self._lookout = lookout
        self._watch = LoopWatch()

    def __call__(self, text: str) -> None:
        """Take all the text so far; one that does not go on from the last begins anew."""
        if not text.startswith(self.text):
            self._watch, self.handed_over = LoopWatch(), 0
        self.text = text
        # It looks at whole strides only, and an engine may tell of each token.
        whole = len(text) - len(text) % STRIDE
        if whole > self.handed_over:
            self._lookout.hand_over(self._watch, text[self.handed_over : whole], partial(self._tell, self._watch))
            self.handed_over = whole
        if self._on_text is not None:
            self._on_text(text)

    def _tell(self, watch: LoopWatch, found: Loop | BaseException) -> None:
        if watch is self._watch and self.found is None and self.reading is not None:
            self.found = found
            self.reading.cancel()


async def recognize(
    engine: Engine,
    image: PageImage,
    options: Options,
    on_text: Callable[[str], None] | None = None,
    *,
    lookout: Lookout,
) -> Completion:
    """What the engine reads; up to a loop, with `repetition`, where it says what it writes while it writes."""
    if image.ink == 0 and engine.info.needs != "nothing":
        return Completion("", "stop", 0.0)  # what a model reads where nothing can be seen is made up
    started = time.perf_counter()
    watch = _Watch(lookout, on_text)
    watch.reading = asyncio.create_task(engine.recognize(image, options, watch))
    try:
        completion = await watch.reading
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if watch.found is None or (this is not None and this.cancelling()):
            raise
        completion = Completion(
            watch.text,
            "repetition",
            seconds=time.perf_counter() - started,
            completion_tokens=len(watch.text) // TOKEN_CHARS,
        )
    if watch.handed_over:
        # Whether a loop is noticed must not depend on which of two threads is faster.
        await lookout.caught_up()
    if isinstance(watch.found, BaseException):
        raise watch.found
    return completion if watch.found is None else replace(completion, finish_reason="repetition")


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one try."""

    #: What was asked, and what differs from the first try.
    way: str
    completion: Completion
    blocks: tuple[Block, ...]
    oddities: tuple[PageOddity, ...]
    verdict: Verdict
    #: Characters of one round of its loop; 0 where there is none, or the rounds are not equally long.
    period: int = 0

    @property
    def attempt(self) -> Attempt:
        """For the account of the page."""
        return Attempt(
            way=self.way,
            outcome=self.verdict.problem or "",
            seconds=round(self.completion.seconds, 3),
            prompt_tokens=self.completion.prompt_tokens,
            completion_tokens=self.completion.completion_tokens,
        )

    @property
    def tokens(self) -> int:
        """Of the answer; estimated where the engine counts none."""
        return self.completion.completion_tokens or len(self.completion.text) // TOKEN_CHARS

    def flagged(self, *flags: Flag) -> Reading:
        """The same with these flags at every block."""
        return replace(self, blocks=tuple(_flagged(block, *flags) for block in self.blocks))


def reading_of(image: PageImage, completion: Completion, options: Options, way: str = "") -> Reading:
    """Blocks and verdict of an answer, which is cut where it loops; pure, linear, for a thread."""
    loop = loop_of(completion)
    kept = completion if loop is None else replace(completion, text=completion.text[: loop.cut])
    blocks, oddities = blocks_of(image, kept, options.task)
    if blocks and (loop is not None or completion.finish_reason == "repetition"):
        blocks = (*blocks[:-1], _flagged(blocks[-1], Flag.LOOP_CUT))
    verdict = judge(image, kept, blocks, options.task, loop)
    return Reading(way or options.task, kept, blocks, oddities, verdict, loop.period if loop else 0)


def text_layer_completion(regions: Sequence[Region]) -> Completion:
    """What the file itself says."""
    return Completion("\n\n".join(region.text for region in regions), "stop", 0.0, tuple(regions))


def _flagged(block: Block, *flags: Flag) -> Block:
    return block.model_copy(update={"flags": tuple(sorted({*block.flags, *flags}))})


def page_from(
    image: PageImage, completion: Completion, *, source: str, problem: str | None = None, blank: bool = False,
    options: Options = EVERYTHING, info: EngineInfo | None = None,
) -> Page:  # fmt: skip
    """What is known of a page, in the document model; a damaged one is never without a problem.

    `info` is of the engine that was asked, whoever the text comes from.
    """
    blocks, oddities = blocks_of(image, completion, options.task)
    return assembled(
        image, completion, blocks, oddities, source=source, problem=problem, blank=blank, options=options, info=info
    )


def assembled(
    image: PageImage, completion: Completion, blocks: tuple[Block, ...], oddities: tuple[PageOddity, ...], *,
    source: str, problem: str | None, blank: bool = False, options: Options = EVERYTHING,
    info: EngineInfo | None = None, attempts: Sequence[Attempt] = (),
) -> Page:  # fmt: skip
    """The same of blocks that are made."""
    confidence = mean_confidence(completion)
    seconds = sum(attempt.seconds for attempt in attempts) if attempts else completion.seconds
    return Page(
        page_number=image.page_index + 1,
        width=image.width,
        height=image.height,
        unit=image.unit,
        blocks=blocks,
        blank=blank,
        problem=problem or image.damage or None,
        source=source,
        confidence=None if confidence is None else round(confidence, 4),
        seconds=round(seconds, 3),
        provenance=info and _provenance(image, completion, options, info, attempts),
        oddities=oddities,
    )


def _provenance(
    image: PageImage, completion: Completion, options: Options, info: EngineInfo, attempts: Sequence[Attempt]
) -> Provenance:
    seen = image.stored or image.tiles
    return Provenance(
        engine=info.name,
        model=info.model,
        mode=info.mode and (seen.mode if seen else options.mode or info.mode),
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        attempts=tuple(attempts),
    )
