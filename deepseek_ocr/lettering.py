"""How large and how bold the type of a line is, from its picture and its text.  Runs in worker processes.

The box around a line says little: those of the detector are 0.75 to 1.6 times as high as the type (333 lines in five
faces, 11 to 22 pt at 144 dpi).  The width of a line against what its letters take in a common face differs by 3 %
within one face; the height of its small letters by 9 %, more often too large than too small; the width of its strokes
tells bold type.  All are taken against the usual line of the page.

Left to others: what a heading is (`titles.py`).
Residual risks: spaced-out type seems large; a page in two faces of unlike width seems to have two sizes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from deepseek_ocr.columns import is_cjk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

#: Widths of the letters of Helvetica in thousandths of the type size (Adobe's font metrics), rounded to groups.
WIDTHS = {
    letter: width / 1000
    for letters, width in {
        "'ijl|": 220, " !,./:;I[\\]ft": 280, "()`r-": 333, "*": 389, "^": 469, "Jcksvxyz": 500, "+<=>~": 584,
        "FTZ": 611, "&ABEKPSVXY": 667, "CDHNRUw": 722, "GOQ": 778, "Mm": 833, "%": 889, "W": 944, "@": 1015,
    }.items()
    for letter in letters
}  # fmt: skip
DIGIT_WIDTH, CAPITAL_WIDTH, CJK_WIDTH = 0.556, 0.69, 1.0
#: What a box is wider than its letters, in type sizes.
BOX_RIM = 0.3
#: Heights of small letters, of capitals and digits, and of ideographs, in type sizes.
SMALL_HEIGHT, CAPITAL_HEIGHT, CJK_HEIGHT = 0.52, 0.73, 0.9
#: Lines of fewer letters say too little by their width, and the face of a page is that of lines with many.
MIN_LETTERS, MANY_LETTERS = 4, 10
#: The height may say so much less than the width before the width is doubted.
DOUBT = 1.12
#: Strokes this many times as wide as those of the usual line are bold; the same lines have 1.33 and more in bold type
#: (1.15 in Times with grain and blur), 1.15 at most in regular, figures alone 1.25.
BOLD_RATIO = 1.25
#: Shares of the pixels of a line that are darker than its ink, and than its paper, at most.
BLACK_SHARE, PAPER_SHARE = 0.02, 0.7
#: From half of the way between the two on a pixel belongs to a stroke.
INK = 0.5


@dataclass(frozen=True, slots=True)
class Lettering:
    """What can be measured of one line."""

    letters: int
    is_cjk: bool
    #: The type size by the width of the line and by the height of its letters, in pixels; 0 = not known.
    by_width: float
    by_height: float
    #: The usual width of a stroke in pixels.
    stroke: float


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a line as it stands among those of its page."""

    #: In pixels.
    size: float
    bold: bool


def lettering_of(picture: Image, text: str) -> Lettering:
    """Measure a line of text in a picture of nothing else, whose letters stand upright."""
    cjk = 2 * sum(map(is_cjk, text)) > len(text)
    has_small = any(letter.islower() for letter in text)
    height = CJK_HEIGHT if cjk else SMALL_HEIGHT if has_small else CAPITAL_HEIGHT
    by_width = picture.shape[1] / (sum(map(_width, text)) + BOX_RIM)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if has_light_letters(grey):
        grey = cv2.subtract(np.full_like(grey, 255), grey)
    black, paper = _levels(grey, BLACK_SHARE, PAPER_SHARE)
    letters = sum(map(str.isalnum, text))
    if paper - black < 2 or not letters:  # noqa: PLR2004 - an empty picture
        return Lettering(letters, cjk, by_width, 0.0, 0.0)
    dark = cv2.subtract(np.full_like(grey, paper), grey)
    _, dark = cv2.threshold(dark, INK / 2 * (paper - black), 0, cv2.THRESH_TOZERO)
    rows = cv2.reduce(dark, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    full = np.flatnonzero(rows >= 0.45 * np.percentile(rows, 90))
    _, ink = cv2.threshold(dark, INK * (paper - black), 255, cv2.THRESH_BINARY)
    strokes = cv2.countNonZero(cv2.subtract(ink[:, 1:], ink[:, :-1]))
    area = float(np.minimum(dark, paper - black).sum()) / (paper - black)
    return Lettering(letters, cjk, by_width, float(full[-1] - full[0] + 1) / height, area / strokes if strokes else 0.0)


def has_light_letters(grey: NDArray[np.uint8]) -> bool:
    """Whether a line in shades of grey is light on dark: less than half of it are strokes."""
    black, middle, white = _levels(grey, BLACK_SHARE, 0.5, 1 - BLACK_SHARE)
    return middle - black < white - middle


def _levels(grey: NDArray[np.uint8], *shares: float) -> list[int]:
    """The grey levels up to which so many of the pixels go."""
    levels = np.cumsum(np.bincount(grey.ravel(), minlength=256)) / grey.size
    return [int(np.searchsorted(levels, share)) for share in shares]


def _width(letter: str) -> float:
    """The width of a letter in type sizes."""
    if letter in WIDTHS:
        return WIDTHS[letter]
    if is_cjk(letter):
        return CJK_WIDTH
    return CAPITAL_WIDTH if letter.isupper() else DIGIT_WIDTH


def types_of(lines: Sequence[Lettering]) -> list[Type | None]:
    """The type of each line; None where nothing is known of it."""
    sure = [line for line in lines if line.letters >= MANY_LETTERS and line.by_height] or [
        line for line in lines if line.by_height
    ]
    if not sure:
        return [None] * len(lines)
    # The width of the page's own face against the common one.
    face = statistics.median(line.by_height / line.by_width for line in sure)
    sizes = [_size(line, face) for line in lines]
    known = [(line, size) for line, size in zip(lines, sizes, strict=True) if size]
    usual = {
        cjk: _usual([(line.stroke / size, line.letters) for line, size in known if line.is_cjk == cjk])
        for cjk in (False, True)
    }
    return [
        Type(size, bold=line.letters > 1 and line.stroke / size > BOLD_RATIO * usual[line.is_cjk]) if size else None
        for line, size in zip(lines, sizes, strict=True)
    ]


def _size(line: Lettering, face: float) -> float:
    if not line.by_height:
        return 0.0
    if line.letters < MIN_LETTERS:
        return line.by_height
    return min(face * line.by_width, DOUBT * line.by_height)


def _usual(strokes: list[tuple[float, int]]) -> float:
    """The median over the letters; infinite if there are none."""
    half = sum(letters for _, letters in strokes) / 2
    seen = 0
    for stroke, letters in sorted(strokes):
        seen += letters
        if seen >= half:
            return stroke
    return float("inf")
