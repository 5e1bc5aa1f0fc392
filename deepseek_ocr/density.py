"""Whether the view of a page shows its print well enough, or crops are needed; pure.

Base mode shows an A4 page at 1024 pixels in 273 tokens, gundam with crops of 1.9 times that detail in 903.  In the view
the gaps between letters and words of a line are closed; what is left are bands as high as small letters, for ascenders
and descenders stand apart.  Over generated pages (bench/accuracy_pages.py; 8 to 14 pt, Helvetica, Times and Courier)
their median is the x-height within a pixel, and their length over it the number of letters within a third.

Left to others: the view, and where text is (`ink.py`).
Residual risks: the limits come from published figures for other pages, none was measured with the model's weights;
print under six points looks like no text, so a page of which little is seen gets crops; a footnote in tiny print below
a quarter of the text is not noticed; light print on dark ground is measured between its letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from deepseek_ocr.ink import TEXT, run_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepseek_ocr.ink import Ink

#: Grey levels by which print is darker than paper at least.
CONTRAST: Final = 64
#: Pixels between words of one line at most, some 10 points on A4.
WORD_GAP_PX: Final = 12
#: Heights of bands that count, in pixels: lower ones are rules and dust, higher ones pictures.
BAND_PX: Final = (2, 40)
#: Length of a band per letter, in heights of it: 0.7 (Helvetica) to 1.3 (Courier).
LETTER_WIDTH: Final = 0.9
#: Letters' height in pixels of the view, below which crops are needed: 9-point Times on A4 has 5.  A quarter of the
#: text may be lower (sub- and superscripts, broken letters).
MIN_HEIGHT_PX: Final = 5
#: Letters above which crops are needed.  DeepSeek-OCR's paper (Table 2) has 96.8 % precision at 900 to 1,000 text
#: tokens in 100 vision tokens and 91.5 % above; so 1,000 tokens, of four letters, in base's 256 is on the safe side.
MAX_LETTERS: Final = 4000
#: Letters of which nothing can be said.
MIN_LETTERS: Final = 20


def is_seen_well(view: NDArray[np.uint8], ink: Ink) -> bool:
    """Whether base mode is enough for a page; its view is one plane (height, width), the darkest, unpadded."""
    if ink.sideways or ink.grid is None:
        return False
    bands = band_heights(view, ink.grid == TEXT)
    letters = letter_count(bands)
    return MIN_LETTERS <= letters <= MAX_LETTERS and float(np.percentile(bands, 25)) >= MIN_HEIGHT_PX


def letter_count(bands: NDArray[np.int32]) -> float:
    """About how many letters these bands have."""
    return len(bands) / (LETTER_WIDTH * float(np.median(bands))) if len(bands) else 0.0


def band_heights(view: NDArray[np.uint8], text: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Heights of the bands in pixels of the view, once for each pixel of their length, where a grid has text."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(view.shape, text.shape, strict=True))
    paper = float(np.percentile(view[::8, ::8], 90))
    dark = (view < paper - CONTRAST) & text[rows][:, columns]
    gaps = run_lengths(~dark)
    heights = run_lengths((dark | ((gaps > 0) & (gaps <= WORD_GAP_PX))).T)
    begins = heights > 0
    begins[:, 1:] &= heights[:, :-1] == 0
    found = heights[begins]
    low, high = BAND_PX
    return np.asarray(found[(found >= low) & (found <= high)])
