"""A reviving engine around a mortal one, with everything it does and says, and pages for it to read."""

from __future__ import annotations

import asyncio
from typing import Any

from deepseek_ocr.completion import Completion, Engine, Health, PageImage, Region
from deepseek_ocr.engine.reviving import RevivingEngine
from deepseek_ocr.prompt import Options
from tests.fakes import MortalEngine


def page(text: str = "a page", page_index: int = 0) -> PageImage:
    """A page that says so."""
    return PageImage(page_index, 595, 842, "pt", None, 0.1, (Region("text", text, (0.1, 0.1, 0.9, 0.2)),))


class Revived:
    """A reviving engine around a mortal one, with everything it does and says."""

    def __init__(self, inner: Engine | None = None, **arguments: Any) -> None:
        self.mortal = MortalEngine()
        self.healths: list[Health] = []
        #: Seconds it waited before rebuilds.
        self.waits: list[float] = []
        #: While it is cleared it waits for ever.
        self.patience = asyncio.Event()
        self.patience.set()
        self.engine = RevivingEngine(
            inner or self.mortal, on_health=self.healths.append, sleep=self._sleep, **arguments
        )  # fmt: skip

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.patience.wait()

    def read(self, *texts: str) -> dict[str, asyncio.Task[Completion]]:
        """Begin to read pages that say so."""
        return {
            text: asyncio.create_task(self.engine.recognize(page(text, index), Options()))
            for index, text in enumerate(texts)
        }


async def outcomes(tasks: dict[str, asyncio.Task[Completion]]) -> dict[str, str]:
    """What each page came to: its text, or the error."""
    answers = await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {
        text: answer.text if isinstance(answer, Completion) else f"{type(answer).__name__}: {answer}"
        for text, answer in zip(tasks, answers, strict=True)
    }


async def turns(count: int = 5) -> None:
    """Let what is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
