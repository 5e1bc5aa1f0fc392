"""The engine that gives the text embedded in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.completion import Engine, PageImage, Region
from deepseek_ocr.engine.textlayer import TextLayerEngine
from deepseek_ocr.errors import PageError
from deepseek_ocr.prompt import READING_TASKS, Options, Task
from tests import documents
from tests.documents import load, write

if TYPE_CHECKING:
    from pathlib import Path


def page(*texts: str, ink: float) -> PageImage:
    """A page with this text."""
    regions = tuple(Region("text", text, (0.1, 0.1, 0.9, 0.2)) for text in texts)
    return PageImage(0, 595, 842, "pt", None, ink, regions)


async def test_gives_the_text_of_the_page() -> None:
    """Regions come out as they are, and as text with a blank line between them."""
    engine: Engine = TextLayerEngine()
    await engine.start()
    completion = await engine.recognize(page("one", "two", ink=0.1), Options())
    await engine.stop()
    assert completion.text == "one\n\ntwo"
    assert completion.finish_reason == "stop"
    assert [region.text for region in completion.regions] == ["one", "two"]


async def test_blank_page_is_empty() -> None:
    """A page without ink is read well when nothing comes out."""
    completion = await TextLayerEngine().recognize(page(ink=0), Options(Task.FREE))
    assert (completion.text, completion.finish_reason, completion.regions) == ("", "stop", ())


async def test_ink_without_text_is_an_error_of_the_page() -> None:
    """A scan has nothing to give, and must not pass for blank."""
    with pytest.raises(PageError, match="no text in the file"):
        await TextLayerEngine().recognize(page(ink=0.01), Options())


def test_says_what_it_is() -> None:
    """It reads without looking at pixels, and its version is part of its name."""
    info = TextLayerEngine().info
    assert (info.name, info.needs, info.tasks) == ("textlayer", "nothing", READING_TASKS)
    assert info.model.startswith("pymupdf-")
    assert info.capacity >= 2
    assert TextLayerEngine().health().ok


async def test_reads_a_real_page(tmp_path: Path) -> None:
    """From the file to the text."""
    path = write(tmp_path, documents.text_pdf(2, lines=1, words="Sphinx of black quartz"))
    completion = await TextLayerEngine().recognize(load(path, 1, pixels=False), Options())
    assert "Page 2" in completion.text
    assert "Sphinx of black quartz 2.1" in completion.text
