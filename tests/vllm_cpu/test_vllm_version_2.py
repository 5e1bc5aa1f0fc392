"""DeepSeek-OCR-2 through our engine: vLLM's own class and processor, with dummy weights on the CPU."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest_asyncio
import torch

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.vllm import V2_TASKS, VllmEngine
from deepseek_ocr.engine.vllm_input import BOS, PUBLISHED_IDS
from deepseek_ocr.prompt import Options, Task, prompt_for
from tests.vllm_cpu.conftest import draw, session_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    import pytest

pytestmark = session_loop

#: Tokens of the words behind the picture: one for each byte of this tokenizer, and one for <|grounding|>; and BOS.
WORDS = len("\nConvert the document to markdown.") + 2
#: A view of 16 x 16 tokens and a separator; 12 x 12 for each of two crops (vLLM's deepseek_ocr2.py).
VIEW, CROP = 16 * 16 + 1, 12 * 12


class Dummy(VllmEngine):
    """Without weights: what it says means nothing, but it says it."""

    #: Another guard than the published one.
    guard: dict[str, Any] | None = None
    #: What went to vLLM last, and the ids that came back.
    prompt: Any = None
    answer_ids: list[int]

    def engine_arguments(self) -> dict[str, Any]:
        """As benchmarks do."""
        return {"load_format": "dummy", "dtype": "float32"}

    def sampling_params(self, page: PageImage, options: Options, room: int) -> Any:
        """The recipe, with another guard where a test sets one."""
        params = super().sampling_params(page, options, room)
        params.extra_args = self.guard or params.extra_args
        return params

    async def _prompt(self, engine: Any, page: PageImage, options: Options) -> Any:
        self.prompt = await super()._prompt(engine, page, options)
        return self.prompt

    async def _generate(self, engine: Any, page: PageImage, options: Options) -> AsyncGenerator[Any, None]:
        self.answer_ids = []
        async for output in super()._generate(engine, page, options):
            self.answer_ids += output.outputs[0].token_ids
            yield output


def page(width: int, height: int) -> PageImage:
    """As a worker process makes it for an engine that needs pixels."""
    return PageImage(0, width, height, "px", np.asarray(draw(width, height)), 0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dummy]:
    """One that has read its warm-up page."""
    from tests.vllm_cpu.tiny_model import build_version_2  # noqa: PLC0415 - imports torch

    del model_folder  # it tells vLLM of tiny towers
    engine = Dummy(str(build_version_2(tmp_path_factory.mktemp("second") / "DeepSeek-OCR-2")))
    await engine.start()
    yield engine
    await engine.stop()


async def test_pages_are_read(engine: Dummy) -> None:
    """With the token counts of its own views and crops, several at once, and cut where it is asked."""
    assert (engine.info.needs, engine.info.mode, engine.info.tasks) == ("pixels", None, V2_TASKS)
    small, wide = await asyncio.gather(
        engine.recognize(page(600, 400), Options(max_tokens=3)),
        engine.recognize(page(1600, 800), Options(Task.FREE, max_tokens=5)),
    )
    assert (small.prompt_tokens, small.completion_tokens) == (VIEW + WORDS, 3)
    assert (wide.prompt_tokens, wide.completion_tokens) == (VIEW + 2 * CROP + len("\nFree OCR.") + 1, 5)
    assert small.finish_reason == wide.finish_reason == "length"


def fields(prompt: Any) -> dict[str, Any]:
    """The tensors of a page on its way to vLLM."""
    [item] = prompt["mm_kwargs"]["image"]
    return {name: field.data for name, field in item.items()}


async def test_a_page_goes_to_vllm_as_published(engine: Dummy) -> None:
    """What vLLM makes of the published prompt and the picture: the same ids behind BOS, pixels and grid."""
    picture = draw(1600, 800)
    await engine.recognize(page(1600, 800), Options(max_tokens=1))
    raw = {"prompt": prompt_for(Options()), "multi_modal_data": {"image": picture}}
    [wanted] = engine._engine.renderer.render_cmpl([raw])  # noqa: SLF001 - as for a raw prompt
    # Which this tokenizer does not put first by itself.
    assert engine.prompt["prompt_token_ids"] == [PUBLISHED_IDS[BOS], *wanted["prompt_token_ids"]]
    mine, theirs = fields(engine.prompt), fields(wanted)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert max(float(values.float().std()) for values in mine.values()) > 0.1, "the picture is not blank"


async def test_the_guard_acts(engine: Dummy) -> None:
    """Without weights it says one thing over and over; the published guard acts later than this one."""
    options = Options(max_tokens=12)
    await engine.recognize(page(600, 400), options)
    said = engine.answer_ids
    assert len(set(pairwise(said))) < len(said) - 1
    engine.guard = {"ngram_size": 2, "window_size": 40, "whitelist_token_ids": []}
    try:
        await engine.recognize(page(600, 400), options)
    finally:
        engine.guard = None
    assert len(set(pairwise(engine.answer_ids))) == len(engine.answer_ids) - 1 == 11
