"""vLLM as it comes, with the tiny model: what the other tests of this folder compare with means something."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from bench.dummy_model import TABLE
from deepseek_ocr.prompt import Mode, Options, prompt_for
from deepseek_ocr.tiles import grid_for, token_count
from tests.vllm_cpu.conftest import session_loop

if TYPE_CHECKING:
    from PIL import Image

    from tests.vllm_cpu.conftest import Upstream

pytestmark = session_loop

#: Of the published size, and one that acts on short answers.
WHITELIST = [TABLE["<td>"], TABLE["</td>"]]
PUBLISHED = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": WHITELIST}
SHORT = {"ngram_size": 2, "window_size": 40, "whitelist_token_ids": []}


def text_tokens() -> int:
    """Tokens of the prompt beside the picture's: this tokenizer has one for each byte, and one for <|grounding|>."""
    text = prompt_for(Options()).removeprefix("<image>")
    return len(text.replace("<|grounding|>", "").encode()) + 1


@pytest.mark.parametrize("name", ["small", "tall", "landscape", "a4"])
async def test_prompt_is_as_long_as_ours(upstream: Upstream, pictures: dict[str, Image.Image], name: str) -> None:
    """BOS, the picture's places by our own count, and the text."""
    answer = await upstream.read(pictures[name], max_tokens=1)
    places = token_count(Mode.GUNDAM, grid_for(*pictures[name].size))
    assert answer.prompt_tokens == 1 + places + text_tokens()


async def test_answer_depends_on_the_picture(upstream: Upstream, pictures: dict[str, Image.Image]) -> None:
    """Pages differ in what is read, and a page is read the same way twice."""
    answers = [await upstream.read(pictures[name]) for name in ("small", "tall", "small")]
    assert answers[0].ids == answers[2].ids
    assert answers[0].ids != answers[1].ids


async def test_together_is_as_alone(upstream: Upstream, pictures: dict[str, Image.Image]) -> None:
    """In float32 pages that are read at once get the answers that they get alone."""
    names = ["small", "tall", "small", "tall"]
    alone = {name: (await upstream.read(pictures[name])).ids for name in set(names)}
    together = await asyncio.gather(*(upstream.read(pictures[name]) for name in names))
    assert [answer.ids for answer in together] == [alone[name] for name in names]


async def test_guard_acts(upstream: Upstream, pictures: dict[str, Image.Image]) -> None:
    """Without it the answer repeats itself, with it no pair does; none is as long as the published size."""
    free = await upstream.read(pictures["small"], max_tokens=40)
    guarded = await upstream.read(pictures["small"], max_tokens=40, guard=SHORT)
    assert len(set(pairwise(free.ids))) < 39
    assert len(set(pairwise(guarded.ids))) == 39
    published = await upstream.read(pictures["small"], max_tokens=40, guard=PUBLISHED)
    assert published.ids == free.ids
