"""Pictures for the tests of `tiles.py`, and what vLLM's processor makes of them.

The processor lives in another environment than the other tests, with a Pillow of its own, so its result is kept here as
digests: `tests/vllm_cpu/test_tiles.py` holds it against them, `tests/test_tiles.py` ours.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from deepseek_ocr.prompt import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Name -> width and height in pixels, and the grid of its crops in gundam mode.
SIZES: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "A4 portrait at 144 dpi": ((1191, 1684), (2, 3)),
    "A4 landscape at 144 dpi": ((1684, 1191), (3, 2)),
    "letter at 200 dpi": ((1700, 2200), (2, 3)),
    "slide 16:9": ((1920, 1080), (2, 1)),
    "slide 4:3": ((1024, 768), (3, 2)),
    "square": ((1000, 1000), (2, 2)),
    "size of the view": ((1024, 1024), (2, 2)),
    "size of the crops": ((1280, 1920), (2, 3)),
    "largest without crops": ((640, 640), (1, 1)),
    "a column more": ((641, 640), (2, 2)),
    "a row more": ((640, 641), (2, 2)),
    "a thumbnail": ((512, 512), (1, 1)),
    "one pixel": ((1, 1), (1, 1)),
    "a few pixels": ((20, 30), (1, 1)),
    "odd sides": ((333, 617), (1, 1)),
    "column 1:50": ((40, 2000), (1, 6)),
    "strip 50:1": ((2000, 40), (6, 1)),
    "strip that vanishes when padded": ((3000, 1), (6, 1)),
    "column of three": ((700, 2100), (1, 3)),
    "strip of five": ((3000, 600), (5, 1)),
    # 7:4 lies between 2:1 and 3:2; half of the pixels of six crops are 1,228,800.
    "tie, over half of the larger grid": ((1470, 840), (3, 2)),
    "tie, under half of it": ((1463, 836), (2, 1)),
}

#: What the first 16 digits of `digest` are for vLLM's result, for modes and sizes that cover every path.
DIGESTS: Mapping[tuple[Mode, str], str] = {
    (Mode.GUNDAM, "A4 portrait at 144 dpi"): "97be247faa27f407",
    (Mode.GUNDAM, "A4 landscape at 144 dpi"): "6e39a44344845d43",
    (Mode.GUNDAM, "slide 16:9"): "ee2eca8f44e433b0",
    (Mode.GUNDAM, "square"): "09b0636cdfeae6f0",
    (Mode.GUNDAM, "largest without crops"): "cd19a1c02876c4db",
    (Mode.GUNDAM, "a column more"): "9a904b1ea1b70ab9",
    (Mode.GUNDAM, "one pixel"): "bbd05cf6097ac9b1",
    (Mode.GUNDAM, "strip 50:1"): "66a60ac2915e58a2",
    (Mode.TINY, "A4 portrait at 144 dpi"): "8ce7ca2e4fad2707",
    (Mode.TINY, "a few pixels"): "2c34bcf21ee80e42",
    (Mode.SMALL, "A4 portrait at 144 dpi"): "d220df61d8a9da8d",
    (Mode.SMALL, "a few pixels"): "d3a8c6e760f829da",
    (Mode.BASE, "A4 portrait at 144 dpi"): "cc49d9dc72d86c5b",
    (Mode.BASE, "a few pixels"): "fcbc6909e713d5ff",
    (Mode.LARGE, "A4 portrait at 144 dpi"): "8fc245d8243baddf",
    (Mode.LARGE, "a few pixels"): "c6d98b03442311be",
}


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """A picture (height, width, 3) with edges, slopes and noise, other ones in each channel; always the same."""
    y, x = np.mgrid[:height, :width].astype(np.uint32)
    noise = (x * 2_654_435_761 + y * 2_246_822_519) * (x ^ y | 1) >> 24
    stripes = (x // 7 + y // 11) % 2 * 255
    slope = (x + y) * 255 // max(1, width + height - 2)
    return np.stack([noise, stripes, slope], axis=-1).astype(np.uint8)


def digest(view: NDArray[np.uint8], crops: NDArray[np.uint8]) -> str:
    """A short name for these bytes; not for their shapes, as vLLM's empty array of crops has other sides than ours."""
    return hashlib.sha256(view.tobytes() + crops.tobytes()).hexdigest()[:16]
