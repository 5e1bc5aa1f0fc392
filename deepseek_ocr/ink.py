"""How much of a page is not background: 0 for a blank one, whatever paper and scanner it came from.

The page is looked at in cells of about two points (an A4 page becomes 300 x 420).  Averaging over a cell removes most
noise and JPEG artefacts, and a letter still covers several cells.  The background is found block by block, so that
grey paper, a shadow towards the spine or a dark slide are background too.  A cell is ink when it differs from the
background by more than the noise does and has such a cell beside it, so that dust is none.

Residual risks: a uniform picture (a black page, a plain colour field) is background; print paler than a tenth of the
grey scale (a faint watermark, pencil) is overlooked; coffee stains are ink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

#: Longest side of the grid of cells.
GRID_CELLS: Final = 420
#: Side of a block with one background of its own, in cells: half an inch, more than the height of any body text.
BLOCK_CELLS: Final = 18
#: Grey levels (of 255) by which ink differs from its background at least and, on noisy paper, at most.  Ten-point type
#: in black averages to 60 to 150 levels per cell; paper grain of sigma 20 averages to about 5.
MIN_CONTRAST: Final = 24
MAX_CONTRAST: Final = 48
#: Margin left out on every side, as a share of that side: scanners leave a dark rim there.
RIM: Final = 0.015
#: Shares below this are reported as 0: about five cells of an A4 page, less than two letters of ten-point type.
BLANK_SHARE: Final = 0.00004


def ink_share(image: Image.Image) -> float:
    """The share of an upright page image (modes L or RGB) that is ink, 0 to 1."""
    factor = max(1, round(max(image.size) / GRID_CELLS))
    cells = np.asarray((image.reduce(factor) if factor > 1 else image).convert("L"), dtype=np.float32)
    rim_y, rim_x = (int(side * RIM) for side in cells.shape)
    cells = cells[rim_y : cells.shape[0] - rim_y, rim_x : cells.shape[1] - rim_x]
    background, noise = _background(cells)
    contrast = min(max(MIN_CONTRAST, 6 * noise), MAX_CONTRAST)
    ink = np.abs(cells - background) > contrast
    share = float(_with_neighbour(ink).mean())
    return share if share >= BLANK_SHARE else 0.0


def _background(cells: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The grey level of the paper at every cell, and the standard deviation of its grain."""
    height, width = cells.shape
    rows, columns = -(-height // BLOCK_CELLS), -(-width // BLOCK_CELLS)
    padded = np.pad(cells, ((0, rows * BLOCK_CELLS - height), (0, columns * BLOCK_CELLS - width)), mode="edge")
    tiled = padded.reshape(rows, BLOCK_CELLS, columns, BLOCK_CELLS).swapaxes(1, 2)
    blocks = tiled.reshape(rows, columns, BLOCK_CELLS * BLOCK_CELLS)
    # Paper is the lighter part of a block on a light page and the darker part on a dark one; text rarely covers more
    # than half a block, so the quarter on the paper's side of the median is paper.
    quartiles = np.percentile(blocks, (25, 50, 75), axis=2)
    paper = quartiles[2] if float(np.median(cells)) >= 128 else quartiles[0]  # noqa: PLR2004 - mid grey
    # The calmest blocks show the grain alone; for normal noise the quartiles lie 1.35 deviations apart.
    grain = float(np.percentile(quartiles[2] - quartiles[0], 20)) / 1.35
    spread = np.repeat(np.repeat(paper, BLOCK_CELLS, axis=0), BLOCK_CELLS, axis=1)
    return spread[:height, :width].astype(np.float32), grain


def _with_neighbour(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells that have an inked cell above, below, left or right of them."""
    neighbour = np.zeros_like(ink)
    neighbour[1:] |= ink[:-1]
    neighbour[:-1] |= ink[1:]
    neighbour[:, 1:] |= ink[:, :-1]
    neighbour[:, :-1] |= ink[:, 1:]
    return ink & neighbour
