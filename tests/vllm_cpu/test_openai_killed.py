"""What the openai engine makes of a real `vllm serve` that dies: a module of its own, as it needs its own server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deepseek_ocr.errors import EngineDeadError
from tests.vllm_cpu.serve import LONG, VllmServe, engine_for, page

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


async def test_a_killed_core_is_a_dead_engine(
    model_folder: Path, tmp_path: Path, pictures: dict[str, Image.Image]
) -> None:
    """Pages in flight raise for the engine, not for themselves."""
    with VllmServe(model_folder, tmp_path) as server:
        async with engine_for(server) as engine:
            pages = [asyncio.create_task(engine.recognize(page(pictures["small"]), LONG)) for _ in range(2)]
            # The second may come so late to the model that the first is done: either way both are in flight.
            await server.works_on(1)
            server.kill_core()
            found = await asyncio.gather(*pages, return_exceptions=True)
            assert [type(error) for error in found] == [EngineDeadError] * len(pages), found
            assert not engine.health().ok
