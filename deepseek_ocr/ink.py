"""What of a page is not background, whatever paper and scanner it came from; and what of it looks like lines of text.

The page is looked at in cells of about two points (an A4 page becomes 300 x 420).  Averaging over a cell removes most
noise and JPEG artefacts, and a letter still covers several cells.  The background is found block by block, so that
grey paper, a shadow towards the spine or a dark slide are background too.  A cell is ink when it differs from the
background by more than the noise does and has such a cell beside it, so that dust is none.

Lines of text are flat stretches of ink with paper above and below them once the gaps between words are closed; a page
lies sideways when more of its ink makes such lines upright than level.

Left to others: what follows from it for a page (`quality.py`).
Residual risks: a uniform picture (a black page, a plain colour field) is background; print paler than a tenth of the
grey scale (a faint watermark, pencil) is overlooked; coffee stains are ink; print below six points runs together and
looks like no text; a chart's grid, a wire fence or a striped shirt looks like text; Chinese and Japanese in columns lie
sideways.
"""

from __future__ import annotations

from dataclasses import dataclass
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


#: Values of `Ink.grid`.
PAPER: Final = 0
INKED: Final = 1
TEXT: Final = 2
#: Cells between words of one line at most: ten-point type has spaces of 1 to 3 cells, justified lines up to 5.
WORD_GAP: Final = 6
#: Height of a line in cells (3 to 28 points), and how many times as long as high it is at least.
LINE_CELLS: Final = (1, 14)
LINE_RATIO: Final = 4
#: A stretch of at least so many cells without any gap, all over its height, is a rule or a bar; of a line of small
#: print that runs together, only its middle is.
SOLID_CELLS: Final = 48
#: Share of the ink around it that is in lines if a line is one of text: in pictures flat stretches lie among others.
TEXT_SHARE: Final = 0.6
#: Cells that look like text, below which nothing is said of how a page lies: two lines of print.
MIN_TEXT_CELLS: Final = 400
#: How many times as many cells must lie in upright lines as in level ones for a page that lies sideways.  Seen: upright
#: samples have 0.02 to 0.6 times as many, the same turned by a quarter 1.6 and more.
SIDEWAYS_RATIO: Final = 1.5
#: Share of the ink that must lie in such lines: pictures have 0.25 at most, pages 0.3 to 0.99.
SIDEWAYS_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Ink:
    """The ink of a page."""

    #: The share of the page that is ink, 0 to 1.
    share: float
    #: (rows, columns) over the whole page, the longest side about `GRID_CELLS`: `PAPER`, `INKED` or `TEXT`; None where
    #: nobody looked.
    grid: NDArray[np.uint8] | None
    #: Whether the lines run from top to bottom, or from bottom to top.
    sideways: bool


def ink_share(image: Image.Image) -> float:
    """The share of an upright page image (modes L or RGB) that is ink, 0 to 1."""
    return look(image).share


def cell_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the grid in which `look` sees an image of this size; one of just this size it takes as is."""
    factor = max(1, round(max(width, height) / GRID_CELLS))
    return -(-width // factor), -(-height // factor)


def look(image: Image.Image) -> Ink:
    """The ink of an upright page image (modes L or RGB)."""
    factor = max(1, round(max(image.size) / GRID_CELLS))
    cells = np.asarray((image.reduce(factor) if factor > 1 else image).convert("L"))
    shape = cells.shape
    rim_y, rim_x = (int(side * RIM) for side in shape)
    cells = cells[rim_y : cells.shape[0] - rim_y, rim_x : cells.shape[1] - rim_x]
    background, noise = _background(cells)
    contrast = min(max(MIN_CONTRAST, 6 * noise), MAX_CONTRAST)
    ink = _with_neighbour(np.abs(cells - background) > contrast)
    share = float(ink.mean())
    lines = _in_lines(ink)
    # No more cells than are inked can be in upright lines, so most pages need not be asked.
    needed = max(MIN_TEXT_CELLS, SIDEWAYS_RATIO * int(lines.sum()), SIDEWAYS_SHARE * int(ink.sum()))
    sideways = False
    if needed <= int(ink.sum()):
        upright = _in_lines(ink.T).T
        sideways = int(upright.sum()) >= needed
        lines = upright if sideways else lines
    grid = np.zeros(shape, np.uint8)
    inside = grid[rim_y : shape[0] - rim_y, rim_x : shape[1] - rim_x]
    inside[ink] = INKED
    inside[lines] = TEXT
    return Ink(share if share >= BLANK_SHARE else 0.0, grid, sideways)


def _in_lines(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The inked cells that lie in level lines of text."""
    gaps = run_lengths(~ink)
    closed = ink | ((gaps > 0) & (gaps <= WORD_GAP))
    height = run_lengths(closed.T).T
    low, high = LINE_CELLS
    flat = closed & (height >= low) & (height <= high)
    length = run_lengths(flat)
    rule = run_lengths(ink) >= SOLID_CELLS
    if rule.any():
        thickness = run_lengths(rule.T).T
        rule &= thickness >= height
    lines = ink & flat & (length >= LINE_RATIO * height) & ~rule
    return np.asarray(lines & (_around(lines) >= TEXT_SHARE * _around(ink & ~rule)))


def _around(marked: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each cell how many marked ones there are in its block and the next ones."""
    rows, columns = marked.shape
    height, width = -(-rows // BLOCK_CELLS), -(-columns // BLOCK_CELLS)
    # A block more on each side, so that those at the edge have neighbours too.
    padded = np.zeros(((height + 2) * BLOCK_CELLS, (width + 2) * BLOCK_CELLS), np.int32)
    padded[BLOCK_CELLS : BLOCK_CELLS + rows, BLOCK_CELLS : BLOCK_CELLS + columns] = marked
    blocks = padded.reshape(height + 2, BLOCK_CELLS, width + 2, BLOCK_CELLS).sum(axis=(1, 3))
    sums = blocks.cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    near = sums[3:, 3:] - sums[:-3, 3:] - sums[3:, :-3] + sums[:-3, :-3]
    return np.repeat(np.repeat(near, BLOCK_CELLS, axis=0), BLOCK_CELLS, axis=1)[:rows, :columns]


def run_lengths(marked: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each marked cell how many marked ones in a row it belongs to, along the last axis; 0 for others."""
    rows, columns = marked.shape
    # A column of paper on both sides, so that no run goes on in the next row.
    padded = np.zeros((rows, columns + 2), np.bool_)
    padded[:, 1:-1] = marked
    flat = padded.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    # Gaps and runs follow each other, a gap first and last.
    lengths = np.diff(edges, prepend=-1, append=len(flat) - 1)
    values = lengths.astype(np.int32)
    values[::2] = 0
    return np.repeat(values, lengths).reshape(rows, columns + 2)[:, 1:-1]


def _background(cells: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
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
