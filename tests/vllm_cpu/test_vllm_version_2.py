"""DeepSeek-OCR-2 through our engine: vLLM's own class and processor, with dummy weights on the CPU."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest_asyncio

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.vllm import V2_TASKS, VllmEngine
from deepseek_ocr.prompt import Options, Task
from tests.vllm_cpu.conftest import draw, session_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

pytestmark = session_loop

#: Tokens of the words behind the picture: one for each byte of this tokenizer, and one for <|grounding|>; and BOS.
WORDS = len("\nConvert the document to markdown.") + 2
#: A view of 16 x 16 tokens and a separator; 12 x 12 for each of two crops (vLLM's deepseek_ocr2.py).
VIEW, CROP = 16 * 16 + 1, 12 * 12


class Dummy(VllmEngine):
    """Without weights: what it says means nothing, but it says it."""

    def engine_arguments(self) -> dict[str, Any]:
        """As benchmarks do."""
        return {"load_format": "dummy", "dtype": "float32"}


def page(width: int, height: int) -> PageImage:
    """As a worker process makes it for an engine that needs pixels."""
    return PageImage(0, width, height, "px", np.asarray(draw(width, height)), 0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """One that has read its warm-up page."""
    from tests.vllm_cpu.tiny_model import build_version_2  # noqa: PLC0415 - imports torch

    del model_folder  # it tells vLLM of tiny towers
    engine = Dummy(str(build_version_2(tmp_path_factory.mktemp("second") / "DeepSeek-OCR-2")))
    await engine.start()
    yield engine
    await engine.stop()


async def test_pages_are_read(engine: VllmEngine) -> None:
    """With the token counts of its own views and crops, several at once, and cut where it is asked."""
    assert (engine.info.needs, engine.info.mode, engine.info.tasks) == ("pixels", None, V2_TASKS)
    small, wide = await asyncio.gather(
        engine.recognize(page(600, 400), Options(max_tokens=3)),
        engine.recognize(page(1600, 800), Options(Task.FREE, max_tokens=5)),
    )
    assert (small.prompt_tokens, small.completion_tokens) == (VIEW + WORDS, 3)
    assert (wide.prompt_tokens, wide.completion_tokens) == (VIEW + 2 * CROP + len("\nFree OCR.") + 1, 5)
    assert small.finish_reason == wide.finish_reason == "length"
