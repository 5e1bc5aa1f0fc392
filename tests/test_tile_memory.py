"""Tiles in shared memory: what is read there is what was stored, and places come back."""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deepseek_ocr.completion import Completion, EngineInfo, Health
from deepseek_ocr.prompt import Mode, Task
from deepseek_ocr.reader import Reader
from deepseek_ocr.tile_memory import PLACE_BYTES, Place, StoredTiles, TileMemory, store
from deepseek_ocr.tiles import NO_CROPS, VIEW_SIDE_PX, Tiles, tile
from tests import documents
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.prompt import Options

GREY = np.repeat(np.random.default_rng(0).integers(0, 255, (900, 700, 1), np.uint8), 3, axis=2)
COLOURED = np.random.default_rng(1).integers(0, 255, (900, 700, 3), np.uint8)


def open_memories() -> list[str]:
    """The files of tiles that this process has open."""
    return [link for file in Path("/proc/self/fd").iterdir() if "ocr-daemon-tiles" in (link := os.path.realpath(file))]


def read_back(stored: StoredTiles) -> Tiles:
    """As the engine does, with plain NumPy."""
    side, planes = VIEW_SIDE_PX[stored.mode], stored.planes
    content = Path(stored.place.path).read_bytes()[stored.place.offset :]
    view = np.frombuffer(content, np.uint8, planes * side * side).reshape(planes, side, side)
    count = stored.crop_count
    crops = np.frombuffer(content, np.uint8, count * planes * 640 * 640, view.nbytes).reshape(count, planes, 640, 640)
    return Tiles(
        stored.mode, np.broadcast_to(view, (3, side, side)), np.broadcast_to(crops, (count, 3, 640, 640)), stored.grid
    )


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("pixels", [GREY, COLOURED], ids=["grey", "coloured"])
def test_what_is_stored_is_read(pixels: np.ndarray, mode: Mode) -> None:
    """In every mode, beside another page, a third of the bytes where it is grey."""
    memory = TileMemory(2)
    tiles = tile(pixels, mode)
    for _ in range(2):
        place = memory.take()
        assert place is not None
        stored = store(tiles, place)
        found = read_back(stored)
        assert np.array_equal(found.view, tiles.view)
        assert np.array_equal(found.crops, tiles.crops)
        assert stored.token_count == tiles.token_count
        assert stored.planes == (1 if pixels is GREY else 3)
    memory.close()


def test_another_process_stores() -> None:
    """As the processes do that render."""
    memory = TileMemory(1)
    place = memory.take()
    assert place is not None
    tiles = tile(COLOURED, Mode.GUNDAM)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        stored = pool.apply(store, (tiles, place))
    assert np.array_equal(read_back(stored).crops, tiles.crops)
    memory.close()


def test_places_come_back() -> None:
    """With the last who holds the tiles, never before, and none is given twice."""
    memory = TileMemory(2)
    places = [memory.take(), memory.take()]
    assert None not in places
    assert memory.take() is None
    assert places[0] is not None
    stored = StoredTiles(Mode.BASE, NO_CROPS, places[0], 3, 0)
    memory.keep(stored)
    held = [stored]
    del stored
    gc.collect()
    assert memory.take() is None
    held.clear()
    gc.collect()
    assert memory.take() == places[0]
    assert memory.take() is None
    memory.close()


def test_nothing_is_left_behind() -> None:
    """The file ends with its memory, also where nobody closes it."""
    memory = TileMemory(1000)
    assert len(open_memories()) == 1
    place = memory.take()
    assert place is not None
    assert Path(place.path).stat().st_size == 1000 * PLACE_BYTES
    assert Path(place.path).stat().st_blocks == 0
    del memory
    gc.collect()
    assert open_memories() == []


def test_a_place_of_a_closed_memory_is_gone() -> None:
    """Its number may be another file's by then, which nobody may write to."""
    memory = TileMemory(1)
    place = memory.take()
    assert place is not None
    memory.close()
    memory.give_back(place)
    assert memory.take() is None


def test_without_room_is_an_error() -> None:
    """Of a file that is gone, `OSError`; the page then travels as it is."""
    with pytest.raises(OSError, match="No such file"):
        store(tile(GREY, Mode.BASE), Place(os.getpid(), 99_999, 0))


class Looker:
    """An engine that wants tiles and keeps what it gets."""

    def __init__(self, capacity: int) -> None:
        self.info = EngineInfo(
            name="looker", model="looker", tasks=frozenset(Task), needs="tiles", capacity=capacity, mode=Mode.GUNDAM
        )
        self.pages: list[PageImage] = []

    async def start(self) -> None:
        """Nothing to do."""

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Nothing to say."""
        del options, on_text
        self.pages.append(page)
        return Completion("a word", "stop", 0.0)

    async def stop(self) -> None:
        """Nothing to do."""

    def health(self) -> Health:
        """Always well."""
        return Health(ok=True, detail="")


async def test_the_reader_stores_pages(tmp_path: Path) -> None:
    """While there is a place; the next page travels as it is, and the places are free again afterwards."""
    path = documents.write(tmp_path, documents.text_pdf(3))
    engine = Looker(capacity=2)
    async with Reader(engine, workers=1) as reader:
        for index in range(3):
            await reader.read_page(path, index)
        first, second, *_, last = engine.pages
        assert first.stored
        assert second.stored
        assert not first.tiles
        assert not last.stored
        assert last.tiles
        assert read_back(first.stored).view.min() == 0, "there is ink"
        del first, second, last, _
        engine.pages.clear()
        gc.collect()
        await reader.read_page(path, 0)
        assert engine.pages[0].stored is not None


async def test_a_system_without_such_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memfd_create(2) is refused, as by a filter of system calls, pages travel as they are."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    path = documents.write(tmp_path, documents.text_pdf(1))
    engine = Looker(capacity=1)
    async with Reader(engine, workers=1) as reader:
        await reader.read_page(path, 0)
    assert engine.pages[0].tiles is not None


async def test_a_page_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    """A page that is not there needs none."""
    path = documents.write(tmp_path, documents.text_pdf(1))
    engine = Looker(capacity=1)
    async with Reader(engine, workers=1) as reader:
        for _ in range(3):
            await reader.read_page(path, 7)
        await reader.read_page(path, 0)
        assert engine.pages[0].stored is not None


async def test_a_page_that_is_given_up_gives_its_place_back(tmp_path: Path) -> None:
    """Once its process, which is killed, cannot write any more."""
    path = documents.write(tmp_path, documents.text_pdf(1))
    memory = TileMemory(1)
    async with Reader(Looker(capacity=1), workers=1, memory=memory) as reader:
        reading = asyncio.create_task(reader.read_page(path, 0))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert memory.take() is None
        await eventually(memory.take)
