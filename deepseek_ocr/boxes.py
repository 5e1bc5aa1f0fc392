"""How the model writes boxes, well or badly -> numbers -> places on the page.  Pure, linear, never raises.

Left to others: the tags around them (`grounding.py`).
Residual risk: four numbers in a plausible notation are believed; one with a minus for a comma is put to the edge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from deepseek_ocr.completion import Box

#: x1, y1, x2, y2 as the model wrote them; meant as 0 to 999 of the page, origin top left.
WrittenBox = tuple[float, float, float, float]
#: What is wrong with a list of boxes: numbers that are not four, or none; something else among them; commas or
#: brackets missing, double or misplaced.
Flaw = Literal["not_a_box", "junk", "notation"]

#: The far edge of the page (DeepSeek-OCR, run_dpsk_ocr_image.py: v / 999 * size).
SCALE: Final = 999
#: Characters that may stand where none belong for the rest still to be trusted; of those seen, 19 were the most.
MAX_JUNK_CHARS: Final = 40
#: A list of boxes is not longer: an answer has 8192 tokens at most, and a box of 20 characters takes at least eight.
MAX_BOXES_CHARS: Final = 20_000
#: A longer number is no coordinate.
_MAX_NUMBER_CHARS: Final = 12

# Possessive, all of them: what a part has taken it never gives back, so a text is looked at once.
_NUMBER = re.compile(r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)", re.ASCII)
_USUAL_BOX = re.compile(r"\[(\[)?(\d{1,4}+), ?(\d{1,4}+), ?(\d{1,4}+), ?(\d{1,4}+)\](?(1)\])", re.ASCII)
_FOUR = rf"\s*+{_NUMBER.pattern}(?:\s*+,\s*+{_NUMBER.pattern}){{3}}\s*+"
#: A list of boxes as it should be, or one box in single brackets (Unlimited-OCR).
BOXES = re.compile(rf"\[\s*+(?:\[{_FOUR}\](?:\s*+,\s*+\[{_FOUR}\])*+\s*+|{_FOUR})\]", re.ASCII)
_LOOSE_BOX = rf"[\[\s]*+{_NUMBER.pattern}(?:[\s,;]++{_NUMBER.pattern}){{3}}[\s,;]*+\]++"
#: The same with the marks missing, double or misplaced.
LOOSE_BOXES = re.compile(rf"\s*+\[{_LOOSE_BOX}(?:[\s,;]*+\[{_LOOSE_BOX})*+", re.ASCII)
_JUNK = re.compile(r"[^\s\[\](),;\d.+-]++", re.ASCII)
_BETWEEN_BRACKETS = re.compile(r"[^\[\]()]++")


def read_boxes(inside: str) -> tuple[list[WrittenBox], Flaw | None]:
    """The boxes in what stands for them, without space around it, and what is wrong with it."""
    usual = _USUAL_BOX.fullmatch(inside)
    if usual:
        x1, y1, x2, y2 = map(float, usual.group(2, 3, 4, 5))
        return [(x1, y1, x2, y2)], None
    if len(inside) > MAX_BOXES_CHARS:
        return [], "not_a_box"
    flaw: Flaw | None = None
    if BOXES.fullmatch(inside):
        found = _NUMBER.findall(inside)
        groups = [found[at : at + 4] for at in range(0, len(found), 4)]
    else:
        groups = [_NUMBER.findall(group) for group in _BETWEEN_BRACKETS.findall(inside)]
        flaw = "junk" if _JUNK.search(inside) else "notation"
    boxes: list[WrittenBox] = []
    for numbers in groups:
        if len(numbers) == 4 and max(map(len, numbers)) <= _MAX_NUMBER_CHARS:  # noqa: PLR2004 - the sides of a box
            x1, y1, x2, y2 = map(float, numbers)
            boxes.append((x1, y1, x2, y2))
        elif numbers:
            flaw = "not_a_box"
    return boxes, flaw if boxes else "not_a_box"


def is_nearly_numbers(inside: str) -> bool:
    """Whether there is so little else among numbers and brackets that it may stand for boxes."""
    junk = _JUNK.findall(inside)
    return not junk or ("\n" not in inside and sum(map(len, junk)) <= MAX_JUNK_CHARS)


def place(written: WrittenBox) -> tuple[Box, bool, bool]:
    """The box in fractions of the page, whether it had to be clamped, and whether it is degenerate.

    Degenerate is one without width or height, or written with its sides exchanged; they are put in order.
    """
    x1, y1, x2, y2 = written
    if 0 <= x1 < x2 <= SCALE and 0 <= y1 < y2 <= SCALE:
        return (x1 / SCALE, y1 / SCALE, x2 / SCALE, y2 / SCALE), False, False
    clamped = min(written) < 0 or max(written) > SCALE
    if clamped:
        x1, y1, x2, y2 = (min(max(value, 0.0), SCALE) for value in written)
    left, right = (x1, x2) if x1 < x2 else (x2, x1)
    top, bottom = (y1, y2) if y1 < y2 else (y2, y1)
    return (left / SCALE, top / SCALE, right / SCALE, bottom / SCALE), clamped, x1 >= x2 or y1 >= y2
