"""Where the tiles of pages lie between the process that makes them and the engine that looks at them.

A page in gundam mode has 10.5 MB.  Sent as an object it is copied half a dozen times on its way, at last by the thread
of the engine core that has to keep the card busy; here it is written once and read once.  One anonymous file
(memfd_create(2)) is cut into places of a page each.  Processes of the same user open it as /proc/PID/fd/FD, so nothing
is left behind however they end.

Left to others: reading it on its way to the card (`engine/vllm_pixels.py`), and when a page is done with (`reader.py`).
Residual risks: a killed process that still writes after `reader.KILLED_S` tears another page; the memory grows to what
the most pages at once took, and shrinks only when the reader ends.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.prompt import Mode
from deepseek_ocr.tiles import CROP_SIDE_PX, MAX_CROPS, VIEW_SIDE_PX, token_count

if TYPE_CHECKING:
    from deepseek_ocr.tiles import Grid, Tiles

#: Bytes of the largest page: gundam mode with six crops.
PLACE_BYTES: Final = 3 * (VIEW_SIDE_PX[Mode.GUNDAM] ** 2 + MAX_CROPS * CROP_SIDE_PX**2)


@dataclass(frozen=True, slots=True)
class Place:
    """Room for the tiles of one page."""

    #: The process that owns the file, and the file's number there.
    pid: int
    descriptor: int
    #: In bytes.
    offset: int

    @property
    def path(self) -> str:
        """The file, for other processes."""
        return f"/proc/{self.pid}/fd/{self.descriptor}"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class StoredTiles:
    """Tiles that lie in a place: the planes of the view, then those of each crop."""

    mode: Mode
    grid: Grid
    place: Place
    #: 1 for a grey page, else 3.
    planes: int
    crop_count: int

    @property
    def token_count(self) -> int:
        """Tokens that this page takes in the prompt."""
        return token_count(self.mode, self.grid)


class TileMemory:
    """Places for the pages of one process."""

    def __init__(self, count: int) -> None:
        descriptor = os.memfd_create("ocr-daemon-tiles", os.MFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, descriptor)
        # A hole: memory is taken when a place is first written to.
        os.ftruncate(descriptor, count * PLACE_BYTES)
        #: The last one given back is the first to be taken: its memory is there already.
        self._free = [Place(os.getpid(), descriptor, n * PLACE_BYTES) for n in reversed(range(count))]

    def take(self) -> Place | None:
        """A free place, if there is one; without, tiles travel as they are."""
        return self._free.pop() if self._free else None

    def give_back(self, place: Place) -> None:
        """Nobody writes or reads there any more."""
        if self._close.alive:  # else the number may be another file's by now
            self._free.append(place)

    def keep(self, tiles: StoredTiles) -> None:
        """Give the place back when nobody holds the tiles any more."""
        weakref.finalize(tiles, self.give_back, tiles.place)

    def close(self) -> None:
        """Free the memory, as soon as nobody else has the file open; no place is taken afterwards."""
        self._free.clear()
        self._close()


def store(tiles: Tiles, place: Place) -> StoredTiles:
    """Write tiles into a place, one plane of them where all three are equal; raises `OSError`."""
    import numpy as np  # noqa: PLC0415 - in worker processes only

    pixels = (tiles.view[None], tiles.crops)
    grey = all(np.array_equal(part[:, 0], part[:, channel]) for part in pixels for channel in (1, 2))
    planes = 1 if grey else 3
    file = os.open(place.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        offset = place.offset
        for part in pixels:
            offset += _write(file, np.ascontiguousarray(part[:, :planes]), offset)
    finally:
        os.close(file)
    return StoredTiles(tiles.mode, tiles.grid, place, planes, len(tiles.crops))


def _write(file: int, array: Any, offset: int) -> int:
    """Write all bytes of an array; how many they are."""
    left = memoryview(array).cast("B") if array.size else memoryview(b"")
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
    return int(array.nbytes)
