"""Which part of a page is looked at, how it lies, and how finely; and where what was seen there stands on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box


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
