"""The straight lines drawn on a page, from its picture.  Runs in worker processes.

What is dark over a longer way than any stroke of a letter, level or upright, is a rule, or what is light where the
print is light; the page must lie straight.

Left to others: which rules make a table (`grids.py`), whether the print is light.
Residual risks: rules that are dotted, or hardly darker than the paper, are not found; underlines are rules too; on a
page with both kinds of print what is between the letters of the rarer kind may be taken for rules.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from deepseek_ocr.grids import Rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grey = NDArray[np.uint8]

#: Larger pictures are looked at in a whole fraction of their size: rules of a large page are thicker.
MAX_SIDE_PX = 3000
#: Grey levels (of 255) by which a rule is darker than what is around it.
CONTRAST = 14
#: The shortest stretch that is seen, in heights of the usual line of text; a row of a table is about as high as 1.2.
LEVEL_RUN = 1.5
UPRIGHT_RUN = 1.0
#: Thickest rule in the same unit, and in pixels at least.
MAX_THICKNESS = 0.4
MIN_THICKNESS_PX = 5


def find_rules(grey: Grey, line_px: float, *, light: bool = False) -> list[Rule]:
    """Rules on a level page, in pixels; `line_px` is the usual height of a line of text there, `light` its print."""
    factor = max(1, math.ceil(max(grey.shape) / MAX_SIDE_PX))
    if factor > 1:
        size = max(1, grey.shape[1] // factor), max(1, grey.shape[0] // factor)
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    line = line_px / factor
    if light:
        grey = 255 - grey
    around = 2 * max(5, round(line)) + 1
    dark = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, around, CONTRAST)
    thickest = max(MIN_THICKNESS_PX, MAX_THICKNESS * line)
    rules = []
    for is_level, run in ((True, round(LEVEL_RUN * line)), (False, round(UPRIGHT_RUN * line))):
        kernel = np.ones((1, max(run, 9)) if is_level else (max(run, 9), 1), np.uint8)
        runs = cv2.morphologyEx(dark, cv2.MORPH_OPEN, kernel)
        if not cv2.countNonZero(runs):  # as on most pages; the next takes 6 ms of A4
            continue
        _, _, found, _ = cv2.connectedComponentsWithStats(runs, connectivity=8)
        for x, y, width, height, _ in found[1:].tolist():
            thickness, at, start, length = (height, y, x, width) if is_level else (width, x, y, height)
            if thickness <= thickest and length > 2 * thickness:
                at, start, end = (factor * value for value in (at + thickness / 2, start, start + length))
                rules.append(Rule(is_level, at, start, end))
    return rules
