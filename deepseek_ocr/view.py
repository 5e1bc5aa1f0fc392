"""Which part of a page is looked at, how it lies, and how finely; and where what was seen there stands on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from deepseek_ocr.errors import PageError

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box

#: A part narrower or lower than this share of the page is none: 0.06 points of A4, less than the thinnest rule.
MIN_SHARE: Final = 0.0001


@dataclass(frozen=True, slots=True)
class View:
    """A look at a page; by default at all of it, as it is displayed."""

    #: The part, in fractions of the page as displayed.
    box: Box = (0.0, 0.0, 1.0, 1.0)
    #: Degrees by which that part is turned clockwise before it is looked at.
    turn: Literal[0, 90, 180, 270] = 0
    #: Pixels of the picture's longer side: a PDF is rendered to have just these, a picture is never enlarged.  0 = as
    #: fine as whole pages are seen.
    side_px: int = 0

    def within(self) -> Box:
        """The part as far as it lies on the page; raises `PageError` where nothing of it does, or it has no size."""
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in self.box)
        if not (right - left >= MIN_SHARE and bottom - top >= MIN_SHARE):  # also where a side is no number
            raise PageError("the part that is to be looked at has no size, or is not on the page")
        return left, top, right, bottom

    def on_page(self, box: Box) -> Box:
        """A box in fractions of what is seen -> in fractions of the page as displayed."""
        left, top, right, bottom = box
        match self.turn:
            case 90:
                left, top, right, bottom = top, 1 - right, bottom, 1 - left
            case 180:
                left, top, right, bottom = 1 - right, 1 - bottom, 1 - left, 1 - top
            case 270:
                left, top, right, bottom = 1 - bottom, left, 1 - top, right
        x0, y0, x1, y1 = self.box
        return x0 + left * (x1 - x0), y0 + top * (y1 - y0), x0 + right * (x1 - x0), y0 + bottom * (y1 - y0)


#: All of a page, as it is displayed.
WHOLE: Final = View()
