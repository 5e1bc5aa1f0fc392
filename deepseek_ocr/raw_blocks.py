"""What the raw text of the model is read as: blocks with boxes, and oddities; each knows where it stands in the text.

Left to others: how it is read (`grounding.py`), what labels mean (`document.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_ocr.boxes import WrittenBox
    from deepseek_ocr.completion import Box

#: Start and end in the raw text, the end not included.
Span = tuple[int, int]


class OddityKind(StrEnum):
    """What is not as the grammar says; the worst, where a tag has several."""

    REF_UNCLOSED = "ref_unclosed"
    """A label without its `<|/ref|>`."""
    REF_MISSING = "ref_missing"
    """A box without a label before it."""
    DET_MISSING = "det_missing"
    """A label without a box behind it."""
    DET_UNOPENED = "det_unopened"
    """No `<|det|>` before a box, or before its `<|/det|>`."""
    DET_UNCLOSED = "det_unclosed"
    """A box without its `<|/det|>`, often not finished either."""
    NOT_A_BOX = "not_a_box"
    """No four numbers between `<|det|>` and `<|/det|>`."""
    JUNK = "junk"
    """Something within a tag that does not belong there; the rest of it is good."""
    NOTATION = "notation"
    """Four numbers with commas or brackets missing, double or misplaced."""
    LONG_LABEL = "long_label"
    """A label that can be none, and is taken for text."""
    TAGS_LOST = "tags_lost"
    """A label and its box without the special tokens around them."""
    STRAY_TAG = "stray_tag"
    """A tag amid text, with what of a box stands before it."""
    WRAPPER = "wrapper"
    """What a host put around the answer."""
    ENDLESS = "endless"
    """All that follows when there were more heads or oddities than an answer can have."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """A stretch of the raw text that is not as the grammar says."""

    kind: OddityKind
    span: Span
    #: The stretch as written, tags included.
    text: str


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A piece of the page as the model put it, with its tag understood as far as that goes."""

    #: The model's own word, any; "" where there is none.
    label: str
    #: Without tags, and without space around it.
    text: str
    #: Fractions of the page, left <= right and top <= bottom.  One as a rule; none where it was not written or broken.
    boxes: tuple[Box, ...]
    #: The numbers behind each of `boxes`.
    written: tuple[WrittenBox, ...]
    #: Tag and text; in order and apart from those of all other blocks.
    span: Span
    #: Where the text stands; several where tags were cut out of it.
    text_spans: tuple[Span, ...]
    #: A number was below 0 or above 999, and is at the edge now.
    clamped: bool = False
    #: The tag was malformed; an oddity holds it.
    recovered: bool = False
    #: A box has no width or height, or was written with its sides exchanged.
    degenerate: bool = False


@dataclass(frozen=True, slots=True)
class Grounding:
    """All of a raw text: its blocks in the order they were written, and what was wrong with it, in order too."""

    blocks: tuple[RawBlock, ...]
    oddities: tuple[Oddity, ...]
