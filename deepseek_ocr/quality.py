"""Is this reading a good page?  One judgement, linear in text and blocks, and a score to compare readings by.

A reading is good unless something says that it is not: how the engine ended, a loop, text that is too dense, ink that
no block covers, confidence.  The sentence goes into the output and makes the document partial.

Left to others: where a loop is (`loops.py`), what looks like text (`ink.py`), what to try next (`recovery.py`).
Residual risks: a wrong reading that is as long as the right one passes where the engine has no confidence (a table with
its last columns missing, a page read upside down in fluent words); without a picture (text layer) no ink is compared.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from deepseek_ocr.ink import TEXT
from deepseek_ocr.loops import find_loop
from deepseek_ocr.prompt import READING_TASKS
from deepseek_ocr.repetition import compression_ratio, distinct_line_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box, Completion, PageImage
    from deepseek_ocr.document import Block
    from deepseek_ocr.loops import Loop
    from deepseek_ocr.prompt import Task


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All figures of the judgement.

    "Outputs" are the 427 good real ones of bench/false_alarms.py, "samples" the pages of OCRmyPDF's test files and of
    DeepSeek-OCR's README as the cpu engine reads them.
    """

    #: Mean confidence over the letters below which a page cannot be trusted: samples have 0.87 and more, the same ones
    #: upside down 0.70 and less.
    confidence: float = 0.75
    #: Share of the blocks above which those found but not read are more than a logo or a scribble.
    unreadable: float = 0.1
    #: Characters of an answer from which on the next two are looked at; shorter ones compress little.
    dense_chars: int = 1000
    #: Compression of the answer's end: outputs have 6.6 at most, the loops that `loops.py` finds 7 to 20.
    compression: float = 9.0
    #: Different lines among all: outputs have 0.45 and more, a list of equal answers may have less.
    distinct_lines: float = 0.2
    #: Share of the ink that looks like text above which it may not stand outside of all blocks, and the same in cells
    #: of the ink's grid, about six lines of print (a page of it has 24,000).  Samples have fewer, and of 5,000 and more
    #: 0.13 at most; the model leaves out running heads, feet and page numbers.
    unread: float = 0.3
    unread_cells: int = 1500
    #: Room around a block that counts as its own, as a share of the page: boxes are tight.
    margin: float = 0.01
    #: Share of the page that one figure covers if the whole page was taken for it (as in a production suite, see the
    #: research), and the letters beside it that are too few then.
    picture: float = 0.8
    picture_letters: int = 40
    #: Cells of text in such a picture, as a share of its ink: samples that are pictures have 0.15 at most, magazine
    #: pages half of pictures 0.17 to 0.5, pages of text 0.5 to 0.95.
    picture_text: float = 0.2
    #: Letters to a cell of ink that looks like text, below which it was not read: samples have 0.041 and more (large
    #: type), most 0.15; upside down some have 0.02.
    letters: float = 0.02


LIMITS: Final = Thresholds()
_FIGURES: Final = frozenset({"figure", "chart"})
#: Boxes from which on their number may not fit into 16 bits.
_MANY: Final = 2**13


class Fault(StrEnum):
    """What is wrong with a reading; what helps depends on it."""

    LOOP = "loop"
    """The engine repeated itself."""
    LENGTH = "length"
    """It was cut off at a limit."""
    BROKEN = "broken"
    """The engine failed, or was stopped."""
    EMPTY = "empty"
    """Ink, and no text."""
    PICTURE = "picture"
    """One figure, where text stands."""
    UNDER_READ = "under-read"
    """Much of what looks like text is in no block, or far too little was read."""
    UNREADABLE = "unreadable"
    """Lines were found that cannot be read."""
    UNSURE = "unsure"
    """The engine itself does not trust it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What there is to say of a reading."""

    #: One sentence; None for a good page.
    problem: str | None
    #: None for a good page.
    fault: Fault | None
    #: How much was read, as far as it can be trusted; only to compare readings of one page by.
    score: float

    @property
    def rank(self) -> tuple[bool, float]:
        """The greater, the better."""
        return self.problem is None, self.score


_ENDS: Final = {
    "length": (Fault.LENGTH, "the text was cut off at the engine's limit"),
    "repetition": (Fault.LOOP, "the engine repeated itself and was stopped"),
    "abort": (Fault.BROKEN, "the recognition was broken off"),
    "error": (Fault.BROKEN, "the engine failed on this page"),
}


def loop_of(completion: Completion) -> Loop | None:
    """The loop in what a model wrote; an engine that gives regions reads letter by letter and has none."""
    return None if completion.regions else find_loop(completion.text)


def judge(
    image: PageImage, completion: Completion, blocks: Sequence[Block], task: Task, loop: Loop | None = None
) -> Verdict:
    """Judge a reading; `blocks` are of the completion without its `loop`."""
    ink = _text_ink(image, blocks)
    found = _ending(completion, loop) or _emptiness(image, completion)
    if found is None and task in READING_TASKS:
        found = _repetition(completion) or _regions(completion) or (_unread(ink, blocks) if ink else None)
    fault, problem = found or (None, None)
    return Verdict(problem, fault, _score(completion, blocks, ink))


@dataclass(frozen=True, slots=True)
class _TextInk:
    """Cells of the ink's grid that look like text."""

    total: int
    #: Those in blocks, and those in figures; None where most blocks have no box.
    read: int | None
    drawn: int
    #: All that is ink.
    ink: int


def _text_ink(image: PageImage, blocks: Sequence[Block]) -> _TextInk | None:
    """None where nobody looked at the page."""
    if image.ink_grid is None:
        return None
    text = image.ink_grid == TEXT
    boxes = [block.relative_box for block in blocks if block.relative_box]
    figures = [block.relative_box for block in blocks if block.relative_box and block.category in _FIGURES]
    return _TextInk(
        int(np.count_nonzero(text)),
        int(np.count_nonzero(text & covered(text.shape, boxes))) if len(boxes) * 2 >= len(blocks) else None,
        int(np.count_nonzero(text & covered(text.shape, figures))) if figures else 0,
        int(np.count_nonzero(image.ink_grid)),
    )


_Found = tuple[Fault, str]


def _ending(completion: Completion, loop: Loop | None) -> _Found | None:
    if loop is not None:
        return Fault.LOOP, f"the engine repeated itself ({loop.kind}); the repetition was cut off"
    return None if completion.finish_reason == "stop" else _ENDS[completion.finish_reason]


def _emptiness(image: PageImage, completion: Completion) -> _Found | None:
    if image.ink > 0 and not completion.text.strip():
        return (
            Fault.EMPTY,
            "nothing was read although the page is not blank (a picture, or writing the engine does not know)",
        )
    return None


def _repetition(completion: Completion) -> _Found | None:
    """What no detector of loops knows, and is too dense for a page all the same."""
    text = completion.text
    if completion.regions or len(text) < LIMITS.dense_chars:
        return None
    if (ratio := compression_ratio(text)) > LIMITS.compression:
        return Fault.LOOP, f"the text repeats itself (it can be packed {ratio:.0f} times smaller)"
    if (share := distinct_line_ratio(text)) < LIMITS.distinct_lines:
        return Fault.LOOP, f"the text repeats itself ({share:.0%} of its lines are different)"
    return None


def _unread(ink: _TextInk, blocks: Sequence[Block]) -> _Found | None:
    """Ink that looks like text, against what was read of it."""
    letters = sum(_letters(block.text) for block in blocks)
    one_picture = any(block.category in _FIGURES and _area(block) >= LIMITS.picture for block in blocks)
    if one_picture and letters < LIMITS.picture_letters:
        if ink.total >= max(LIMITS.unread_cells, LIMITS.picture_text * ink.ink):
            return Fault.PICTURE, "the whole page was taken for one picture although it is full of text"
        return None
    unread = ink.total - ink.read if ink.read is not None else 0
    if unread > max(LIMITS.unread_cells, LIMITS.unread * ink.total):
        return Fault.UNDER_READ, f"{unread / ink.total:.0%} of what looks like text was not read"
    outside = ink.total - ink.drawn
    if outside > LIMITS.unread_cells and letters < LIMITS.letters * outside:
        return Fault.UNDER_READ, f"only {letters} letters were read where the page looks full of text"
    return None


def _regions(completion: Completion) -> _Found | None:
    """What an engine says of its own regions."""
    blocks, unreadable = len(completion.regions), sum(region.label == "unreadable" for region in completion.regions)
    if unreadable > LIMITS.unreadable * blocks:
        return (
            Fault.UNREADABLE,
            f"{unreadable} of {blocks} blocks could not be read; the script may be beyond the engine",
        )
    confidence = mean_confidence(completion)
    if confidence is not None and confidence < LIMITS.confidence:
        return (
            Fault.UNSURE,
            f"read with low confidence ({confidence:.2f}); the script or the scan may be beyond the engine",
        )
    return None


def covered(shape: tuple[int, ...], boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """The cells of a grid (rows, columns) that lie in a box (fractions of the page), or close to one."""
    rows, columns = shape
    # The corners of each box alone, summed up at the end: linear, however large the boxes are.
    edges = np.zeros((rows + 1, columns + 1), np.int16 if len(boxes) < _MANY else np.int32)
    for left, top, right, bottom in boxes:
        x0, x1 = (round(min(max(side, 0), 1) * columns) for side in (left - LIMITS.margin, right + LIMITS.margin))
        y0, y1 = (round(min(max(side, 0), 1) * rows) for side in (top - LIMITS.margin, bottom + LIMITS.margin))
        edges[y0, x0] += 1
        edges[y1, x1] += 1
        edges[y0, x1] -= 1
        edges[y1, x0] -= 1
    np.cumsum(edges, axis=0, out=edges)
    np.cumsum(edges, axis=1, out=edges)
    return np.asarray(edges[:-1, :-1] > 0)


def _score(completion: Completion, blocks: Sequence[Block], ink: _TextInk | None) -> float:
    """How much was read: the bytes that the text cannot be packed under, trusted as its engine and its places are."""
    if not blocks:
        return 0.0
    packed = len(zlib.compress("\n".join(block.text for block in blocks).encode("utf-8", "replace"), 1))
    confidence = mean_confidence(completion)
    # What is read upside down still has a confidence of some 0.6.
    trust = 1.0 if confidence is None else max(0.0, 2 * confidence - 1) ** 2
    seen = float(any(block.relative_box for block in blocks))
    if ink is not None:
        seen = (ink.read or 0) / max(1, ink.total)
    return packed * trust * (1 + seen) / 2


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _area(block: Block) -> float:
    if block.relative_box is None:
        return 0.0
    left, top, right, bottom = block.relative_box
    return (right - left) * (bottom - top)


def mean_confidence(completion: Completion) -> float | None:
    """The mean over the letters, 0 to 1; None where the engine gives none."""
    rated = [(region.confidence, len(region.text)) for region in completion.regions if region.confidence is not None]
    letters = sum(count for _, count in rated)
    return sum(confidence * count for confidence, count in rated) / letters if letters else None
