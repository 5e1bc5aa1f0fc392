"""An openai engine for servers of a test, which waits for nothing, and a page to read with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.openai import OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.prompt import Options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.openai_server import OpenAIServer

#: What the operator is told.
CORRECT = "correct engine.openai.base_urls"
REFUSED = "the key is refused ({}): put the right one into engine.openai.api_key_file or OCR_DAEMON_API_KEY"
PAGE = PageImage(0, 100, 100, "px", None, 0.1, png=b"\x89PNG picture")


class Waits:
    """Stands for `asyncio.sleep`: remembers how long it should have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Return at once."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def engine_for(*servers: OpenAIServer, **settings: Any) -> OpenAIEngine:
    """An engine for these servers, which waits for nothing."""
    own = {name: settings.pop(name) for name in ("model", "clock", "sleep", "keep_alive_s") if name in settings}
    urls = tuple(server.url for server in servers)
    return OpenAIEngine(OpenAISettings(urls, **settings), **{"sleep": Waits(), **own})


@asynccontextmanager
async def running(*servers: OpenAIServer, **settings: Any) -> AsyncIterator[OpenAIEngine]:
    """A started engine; servers that do not listen yet are started."""
    async with AsyncExitStack() as stack:
        for server in servers:
            if not server.port:
                await stack.enter_async_context(server)
        engine = engine_for(*servers, **settings)
        stack.push_async_callback(engine.stop)
        await engine.start()
        yield engine


async def read(engine: OpenAIEngine, **options: Any) -> str:
    """The text of the page."""
    return (await engine.recognize(PAGE, Options(**options))).text
