"""A whole document: its pages in order, and nothing left of a reader that ends early or cannot start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_ocr.engine.textlayer import TextLayerEngine
from deepseek_ocr.errors import EngineStartError, UnsupportedType
from deepseek_ocr.reader import Reader, read
from tests.documents import text_pdf
from tests.fakes import FakeEngine
from tests.page_text import text


async def test_read_gives_all_pages_in_order(tmp_path: Path) -> None:
    """Pages are read side by side and come in order, with an engine of one's own in three lines."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(7))
    numbers = []
    async for page in read(path, TextLayerEngine()):
        assert f"Page {page.page_number}\n" in text(page)
        numbers.append(page.page_number)
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


def test_the_package_offers_its_reader() -> None:
    """`from deepseek_ocr import read` works, importing the package alone stays light, other names are errors."""
    code = """
import sys
import deepseek_ocr
assert "deepseek_ocr.reader" not in sys.modules and "pydantic" not in sys.modules
from deepseek_ocr import Reader, read
from deepseek_ocr import reader
assert (Reader, read) == (reader.Reader, reader.read)
assert not hasattr(deepseek_ocr, "write")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


async def test_read_stops_what_it_began(tmp_path: Path) -> None:
    """Whoever leaves after the first page leaves no task, process or engine behind."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(5))
    engine = FakeEngine(capacity=3)
    pages = read(str(path), engine)
    assert (await anext(pages)).page_number == 1
    await pages.aclose()  # type: ignore[attr-defined]
    assert (engine.starts, engine.stops) == (1, 1)


async def test_read_raises_what_concerns_the_document(tmp_path: Path) -> None:
    """A file that is no document is told at the first page, and the engine is stopped."""
    path = tmp_path / "x.pdf"
    path.write_bytes(b"plain words")
    engine = FakeEngine()
    with pytest.raises(UnsupportedType):
        async for _ in read(path, engine):
            pass
    assert engine.stops == 1


async def test_an_engine_that_cannot_start_leaves_nothing() -> None:
    """The reader is not entered, its processes end, and the engine is stopped all the same."""
    engine = FakeEngine()
    engine.start_faults = [EngineStartError("there is no card")]
    with pytest.raises(EngineStartError, match="there is no card"):
        await Reader(engine, workers=1).__aenter__()
    assert engine.stops == 1


class SlowEngine(FakeEngine):
    """Its start takes until it is cancelled, and many turns of the loop to clean up."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.cleaned_up = False

    async def start(self) -> None:
        """Never ready."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            self.cleaned_up = True

    async def stop(self) -> None:
        """Not while it still starts."""
        assert self.cleaned_up, "stopped in the middle of its start: it could come up afterwards"
        await super().stop()


@pytest.mark.parametrize("broken", [True, False], ids=["processes that die", "cancelled"])
async def test_an_engine_is_stopped_only_after_its_start_has_ended(broken: bool) -> None:
    """Else it could come up when nobody knows of it any more, and hold its card for good."""
    engine = SlowEngine()
    reader = Reader(engine, workers=1)
    if broken:
        reader.close()
    entering = asyncio.create_task(reader.__aenter__())
    if broken:
        with pytest.raises(EngineStartError, match="the processes that render pages cannot start"):
            await entering
    else:
        await engine.begun.wait()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
    assert engine.stops == 1


async def test_rendering_processes_that_cannot_start_are_no_page_error() -> None:
    """Without processes there is no service: that is said like an engine that cannot start."""
    engine = FakeEngine()
    reader = Reader(engine, workers=1)
    reader.close()
    with pytest.raises(EngineStartError, match="the processes that render pages cannot start"):
        await reader.__aenter__()
    assert engine.stops == 1
