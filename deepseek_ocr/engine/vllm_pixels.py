"""Pixels of pages on their way to the card: read from shared memory into pinned buffers, copied from there unwatched.

Runs in vLLM's worker, in the thread that also schedules and launches, so it must cost that thread little: one read(2)
a page, 3.5 MB for a grey one, and a copy nobody waits for.

Left to others: who wrote them, and until when they stay (`tile_memory.py`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from deepseek_ocr.tile_memory import PLACE_BYTES, Place
from deepseek_ocr.tiles import CROP_SIDE_PX, VIEW_SIDE_PX

if TYPE_CHECKING:
    from deepseek_ocr.tile_memory import StoredTiles

#: Pages whose copies may be under way at once; beyond, the oldest is waited for.
BUFFERS: Final = 8


class Pixels(NamedTuple):
    """One page; uint8 on the device, not normalised."""

    #: (3, S, S).
    view: torch.Tensor
    #: (K, 3, 640, 640), K >= 0.
    crops: torch.Tensor


def address(tiles: StoredTiles) -> list[int]:
    """What `PixelReader` needs to know of a page, as plain numbers."""
    place = tiles.place
    return [place.pid, place.descriptor, place.offset, VIEW_SIDE_PX[tiles.mode], tiles.planes, tiles.crop_count]


class PixelReader:
    """Fetches pages that lie in shared memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._copied: list[Any] = []
        self._turn = 0

    def fetch(self, page: list[int]) -> Pixels:
        """The pixels of a page by its `address`; raises `OSError` where whoever wrote them is gone."""
        pid, descriptor, offset, side, planes, crops = page
        place = Place(pid, descriptor, offset)
        view_bytes, crop_bytes = planes * side**2, planes * CROP_SIDE_PX**2
        count = view_bytes + crops * crop_bytes
        if self._device.type == "cpu":
            there = torch.empty(count, dtype=torch.uint8)
            _read(place, there)
        else:
            there = self._copy(place, count)
        view = there[:view_bytes].view(planes, side, side).expand(3, side, side)
        rest = there[view_bytes:].view(crops, planes, CROP_SIDE_PX, CROP_SIDE_PX)
        return Pixels(view, rest.expand(crops, 3, CROP_SIDE_PX, CROP_SIDE_PX))

    def _copy(self, place: Place, count: int) -> torch.Tensor:
        """Bytes on the card, or on their way there in the order of the stream."""
        turn = self._turn % BUFFERS
        self._turn += 1
        if turn == len(self._buffers):
            self._buffers.append(torch.empty(PLACE_BYTES, dtype=torch.uint8, pin_memory=True))
            self._copied.append(torch.cuda.Event())
        else:
            self._copied[turn].synchronize()
        buffer = self._buffers[turn][:count]
        _read(place, buffer)
        there = buffer.to(self._device, non_blocking=True)
        self._copied[turn].record()
        return there


def _read(place: Place, buffer: torch.Tensor) -> None:
    """Fill the buffer; the file is opened for each page, as another one may get its number."""
    file = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left, offset = memoryview(buffer.numpy()), place.offset
        while left:
            count = os.preadv(file, [left], offset)
            if not count:
                raise OSError(f"{place.path} ends before {offset + len(left)}")
            left, offset = left[count:], offset + count
    finally:
        os.close(file)
