"""The engine that recognizes nothing: the text embedded in a born-digital PDF, as `pages.py` found it.

Left to others: extracting it, and deciding whether it is text at all (`pages_pdf.py`).
Residual risk: a scan with a bad text layer under it gives that bad text, and nothing here can tell.
"""

from __future__ import annotations

import os
import time
from importlib import metadata
from typing import TYPE_CHECKING

from deepseek_ocr.completion import Completion, EngineInfo, Health
from deepseek_ocr.errors import PageError
from deepseek_ocr.layout import VERSION as LAYOUT
from deepseek_ocr.prompt import READING_TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.prompt import Options

#: Pages in flight per core: one that is extracted, one whose result is on its way.
PAGES_PER_CORE = 2


class TextLayerEngine:
    """Gives the text layer of each page; holds nothing, so it cannot fail."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self.info = EngineInfo(
            name="textlayer",
            model=f"pymupdf-{metadata.version('pymupdf')} {LAYOUT}",
            tasks=READING_TASKS,
            needs="nothing",
            capacity=PAGES_PER_CORE * len(os.sched_getaffinity(0)),
        )

    async def start(self) -> None:
        """Nothing to load."""

    async def recognize(
        self,
        page: PageImage,
        options: Options,  # noqa: ARG002 - reading is the only task
        on_text: Callable[[str], None] | None = None,  # noqa: ARG002 - all at once
    ) -> Completion:
        """The text layer of the page; raises `PageError` where there is ink but no text, as on a scan."""
        started = time.perf_counter()
        if not page.text_layer and page.ink > 0:
            raise PageError("there is ink on the page but no text in the file; another engine is needed to read it")
        text = "\n\n".join(region.text for region in page.text_layer)
        return Completion(text, "stop", seconds=time.perf_counter() - started, regions=page.text_layer)

    async def stop(self) -> None:
        """Nothing to release."""

    def health(self) -> Health:
        """Always well."""
        return Health(ok=True, detail="reads the text embedded in PDF files")
