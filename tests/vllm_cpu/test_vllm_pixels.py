"""Pixels that come by shared memory are those that were stored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deepseek_ocr.engine.vllm_model import ResidentDeepseekOCR
from deepseek_ocr.engine.vllm_pixels import PixelReader, address
from deepseek_ocr.prompt import Mode
from deepseek_ocr.tile_memory import StoredTiles, TileMemory, store
from deepseek_ocr.tiles import NO_CROPS, tile

CPU = torch.device("cpu")


def test_pages_of_a_step_are_those_that_were_stored() -> None:
    """Coloured and grey ones, with and without crops, together; as the model gets their addresses from vLLM."""
    memory = TileMemory(3)
    noise = np.random.default_rng(0).integers(0, 255, (900, 700, 3), np.uint8)
    pages = [
        tile(noise, Mode.GUNDAM),
        tile(np.full((300, 200, 3), 7, np.uint8), Mode.BASE),
        tile(np.repeat(noise[:, :, :1], 3, axis=2), Mode.GUNDAM),
    ]
    places = [memory.take() for _ in pages]
    stored = [store(page, place) for page, place in zip(pages, places, strict=True) if place is not None]
    assert [page.planes for page in stored] == [3, 1, 1]
    model: Any = SimpleNamespace(image_newline=torch.zeros(1), reader=None)
    found = ResidentDeepseekOCR.pictures(
        model,
        {
            "pixel_addresses": [address(page) for page in stored],
            "images_spatial_crop": [list(page.grid) for page in stored],
        },
    )
    for page, view, crops, grid in zip(pages, found.views, found.crops, found.grids, strict=True):
        assert np.array_equal(view.numpy(), page.view)
        assert np.array_equal(crops.numpy(), page.crops)
        assert grid == page.grid
    memory.close()


def test_pages_of_another_memory_are_found() -> None:
    """Of a service that began anew with the same numbers: never what the first one had stored there."""
    reader = PixelReader(CPU)
    for value in (3, 5):
        memory = TileMemory(1)
        place = memory.take()
        assert place is not None
        page = tile(np.full((300, 200, 3), value, np.uint8), Mode.SMALL)
        found = reader.fetch(address(store(page, place)))
        assert np.array_equal(found.view.numpy(), page.view)
        memory.close()


def test_pages_that_are_gone_are_an_error() -> None:
    """The service ended, or its memory is shorter than it said."""
    memory = TileMemory(1)
    place = memory.take()
    assert place is not None
    gone = StoredTiles(Mode.LARGE, NO_CROPS, place, 3, 0)
    far = address(gone)
    far[2] = 1 << 40
    with pytest.raises(OSError, match="ends before"):
        PixelReader(CPU).fetch(far)
    memory.close()
    with pytest.raises(OSError, match="No such file"):
        PixelReader(CPU).fetch(address(gone))
