"""A page of which an engine says what it is told to at each step of the ladder; what was asked is noted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deepseek_ocr.attempt import reading_of
from deepseek_ocr.completion import Completion, EngineInfo, PageImage, Region
from deepseek_ocr.document import Page
from deepseek_ocr.ink import TEXT
from deepseek_ocr.prompt import READING_TASKS, Options, Task
from deepseek_ocr.recovery import Judges, recover
from deepseek_ocr.view import WHOLE, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import FinishReason

MODEL = EngineInfo("model", "m", frozenset(Task), needs="tiles", capacity=1, prompted=True, guarded=True)
#: Reads letter by letter.
READER = EngineInfo("cpu", "c", READING_TASKS, needs="pixels", capacity=1)

#: Some 2,000 characters in which nothing comes twice.
GOOD = " ".join(f"{number * 7919 % 10007:x}" for number in range(450))
SENTENCE = "The committee met twice and took note of the report of its chairman. "
LOOP = "Report of the harbour. " + SENTENCE * 30


def image(*, sideways: bool = False, text_layer: str = "", wide: bool = False, empty: bool = False) -> PageImage:
    """A page full of lines of text; `empty` is a photograph."""
    grid = np.zeros((280, 400) if wide else (400, 280), np.uint8)
    if not empty:
        grid[20:380:3, 20:260] = TEXT
    layer = (Region("text", text_layer, (0.1, 0.1, 0.9, 0.9)),) if text_layer else ()
    size = (842, 595) if wide else (595, 842)
    return PageImage(4, *size, "pt", None, 0.2, layer, ink_grid=grid, sideways=sideways)


def answer(text: str, reason: FinishReason = "stop", confidence: float | None = None, tokens: int = 10) -> Completion:
    """What an engine says; with a confidence as one that reads letter by letter."""
    regions = (Region("text", text, (0.0, 0.0, 1.0, 1.0), confidence),) if confidence is not None and text else ()
    return Completion(text, reason, 1.0, regions, prompt_tokens=900, completion_tokens=tokens)


class Asked:
    """Answers each try as told, by what is asked; notes what was."""

    def __init__(self, page: PageImage, says: Callable[[View, Options], Completion | Exception]) -> None:
        self._page = page
        self._says = says
        self.calls: list[tuple[View, Options]] = []

    async def __call__(self, view: View, options: Options) -> tuple[PageImage, Completion]:
        """A turned page that lay sideways is upright then."""
        self.calls.append((view, options))
        await asyncio.sleep(0)
        said = self._says(view, options)
        if isinstance(said, Exception):
            raise said
        return replace(self._page, sideways=False, text_layer=()), said

    @property
    def ways(self) -> list[str]:
        """What was asked, in short."""
        return [short(view, options) for view, options in self.calls]


def short(view: View, options: Options) -> str:
    """What differs from the first try."""
    part = "" if view.box == WHOLE.box else f"half at {view.box[1]:.1f}" if view.box[0] == 0 else "right half"
    words = (f"turn {view.turn}" if view.turn else "", part, "free" if options.task is Task.FREE else "")
    guard = "" if options.guard == Options().guard else f"guard {options.guard}"
    return " ".join(word for word in (*words, guard) if word) or "again"


async def read(
    says: Callable[[View, Options], Completion | Exception],
    *,
    page: PageImage | None = None,
    info: EngineInfo = MODEL,
    options: Options | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[Page, Asked]:
    """A page of which the engine says this, first of all at the first try."""
    page, options = page or image(), options or Options()
    asked = Asked(page, says)
    said = says(WHOLE, options)
    assert isinstance(said, Completion)
    first = reading_of(page, said, options)
    result = await recover(page, first, info=info, options=options, ask=asked, judges=Judges(), clock=clock)
    assert Page.model_validate_json(result.model_dump_json()) == result
    return result, asked


def says(first: Completion, **others: Completion | Exception) -> Callable[[View, Options], Completion | Exception]:
    """`first` to everything but what is named: guard, turn90, turn180, turn270, free, half."""

    def say(view: View, options: Options) -> Completion | Exception:
        if view.box != WHOLE.box:
            return others.get("half", first)
        if options.task is Task.FREE:
            return others.get("free", first)
        if options.guard != Options().guard:
            return others.get("guard", first)
        return others.get(f"turn{view.turn}", first)

    return say


FAILED, NOTHING = answer(LOOP), answer("")
