"""How large the image of a page becomes.  Pure.

Residual risk: a page that is very large and finely printed (an A0 plan) comes out coarser than print, and its smallest
letters are lost; the alternative is an image that no recognizer takes.
"""

from __future__ import annotations

import math
from typing import Final

#: Points per inch, the unit of PDF.
POINTS_PER_INCH: Final = 72
#: Area of a page image at most: an A3 scan at 350 dpi, a 24-megapixel photograph.  As RGB that is 72 MB, and a few of
#: them are in flight.  The model looks at 3.5 megapixels of a page, so nothing it can see is lost.
MAX_IMAGE_PX: Final = 24_000_000
#: Longest side of a page image: OpenCV's warps, which recognizers use, address pixels with 16 bits and refuse 32767.
#: It is far above what the area allows to common shapes; only receipts and screen scrolls get there, and bounding them
#: at less would leave their lines a few pixels high.
MAX_SIDE_PX: Final = 30_000
#: Longest side of a vector page at least: a visiting card at 144 dpi has letters of 12 pixels, too few to read well.
MIN_LONG_SIDE_PX: Final = 1_000


def image_size(
    width: float, height: float, *, scale: float, max_page_px: int, min_side_px: float = 0
) -> tuple[int, int]:
    """Pixels (width, height) for a page of this size in any unit, `scale` pixels per unit if the bounds allow it.

    The shape is kept while both sides stay at least one pixel.  A size that is no number, or not above zero, counts as
    one unit: damaged files have such pages, and they still get an image.
    """
    width, height = (side if math.isfinite(side) and side > 0 else 1.0 for side in (width, height))
    long_side = max(width, height)
    max_px = max(1, min(MAX_IMAGE_PX, max_page_px))
    # Square roots one by one: the product of two absurd sides is infinite.
    scale = min(
        max(scale, min_side_px / long_side),
        MAX_SIDE_PX / long_side,
        math.sqrt(max_px) / math.sqrt(width) / math.sqrt(height),
    )
    # The sides first, as int() refuses what a page of 1e-308 units gives: its scale is infinite.
    width_px = min(max(1, int(min(width * scale, MAX_SIDE_PX))), max_px)
    height_px = min(max(1, int(min(height * scale, MAX_SIDE_PX))), max_px // width_px)
    return min(width_px, max_px // max(1, height_px)), max(1, height_px)
