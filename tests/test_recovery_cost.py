"""What the ladder may cost: each try and all of them together are bounded, in tokens and in seconds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.prompt import CONTEXT_TOKENS, Options
from deepseek_ocr.recovery import MORE_S, MORE_TOKENS, PAGE_S, TRY_TOKENS
from deepseek_ocr.view import WHOLE
from tests.ladder import FAILED, GOOD, READER, answer, image, read, says
from tests.page_text import text

if TYPE_CHECKING:
    from deepseek_ocr.completion import Completion
    from deepseek_ocr.view import View


async def test_a_page_costs_a_bounded_number_of_tokens() -> None:
    """However long the answers are: each try has its limit, and all together have one."""
    spent = 0

    def say(view: View, options: Options) -> Completion:
        nonlocal spent
        tokens = options.max_tokens or CONTEXT_TOKENS
        spent += tokens if (view, options) != (WHOLE, Options()) else 0
        return answer(f"{view.turn} {options.guard} {GOOD}", "length", tokens=tokens)

    _, asked = await read(say, page=image(sideways=True))
    assert {options.max_tokens for _, options in asked.calls} == {TRY_TOKENS}
    assert spent == MORE_TOKENS
    assert len(asked.calls) == MORE_TOKENS // TRY_TOKENS


async def test_a_slow_model_is_not_tried_for_ever() -> None:
    """No step begins after a time; the one that runs may end."""
    ticks = itertools.count(step=MORE_S / 4)
    _, asked = await read(says(FAILED), clock=lambda: next(ticks))
    assert 1 <= len(asked.calls) <= 3


@pytest.mark.parametrize(("seconds", "tries"), [(PAGE_S / 4, 2), (PAGE_S / 3, 2), (PAGE_S / 2, 1), (PAGE_S / 1.9, 0)])
async def test_a_slow_processor_keeps_to_the_time_of_a_page(seconds: float, tries: int) -> None:
    """Another try is made only if there is time for one as slow as the slowest."""
    said = replace(answer(GOOD, confidence=0.5), seconds=seconds)
    now = 0.0

    def say(view: View, options: Options) -> Completion:
        nonlocal now
        del view, options
        now += seconds
        return said

    _, asked = await read(say, page=image(sideways=True), info=READER, clock=lambda: now)
    assert len(asked.calls) == tries


async def test_who_bounds_the_tokens_gets_one_try() -> None:
    """As at a warm-up: it is cut off on purpose."""
    bounded = Options(max_tokens=9)
    page, asked = await read(says(answer("half", "length")), options=bounded, page=image(text_layer=GOOD))
    assert asked.calls == []
    assert (text(page), page.source) == ("half", "model")
