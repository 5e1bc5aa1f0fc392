"""Pieces of one column -> rows of text, and rows joined to running text.  Pure.

Left to others: which rows make a paragraph (`layout.py`), a heading (`titles.py`) or a table (`aligned.py`).
Residual risk: rows of unlike sizes that stand less than half a letter apart in height become one.
"""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek_ocr.columns import is_cjk

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from deepseek_ocr.columns import Piece

# Lengths below are in units of the letter size of the lines concerned.

#: Gap between pieces of a row that makes them cells of a table; words of a justified line stay closer.
CELL_GAP = 2.0
#: Letters of a list mark at most ("(iv)").
MAX_MARK_LETTERS = 4
#: First parts that keep their hyphen at a line end ("well-" "known"), unless the page has the word without.
HYPHEN_PREFIXES = frozenset(
    {"all", "anti", "cross", "ex", "full", "half", "high", "ill", "large", "long", "low", "multi", "non", "one"}
    | {"real", "self", "short", "single", "small", "so", "two", "well"}
)
HYPHENS = "-\u00ad\u2010"

BULLET = re.compile(r"[\u2022\u2023\u25aa\u25cf\u25e6\u2013\u2014\u00b7*-]\s*(?=[^\W_])|[\u2022\u25aa\u25cf\u25e6]")
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Row:
    """Pieces on one baseline, with the edges of the column they stand in; or a whole table."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    exact: bool
    bold: bool
    pieces: tuple[Piece, ...]
    #: Whether it is a row of cells: wide gaps between pieces, other than after a list mark.
    cells: bool
    column_left: float
    column_right: float
    #: The number of the table that it stands for, whose text it has.
    table: int | None = None

    @property
    def middle(self) -> float:
        """Height of the middle of the row on the page."""
        return (self.top + self.bottom) / 2


def rows_of(block: list[Piece]) -> list[Row]:
    """Pieces of one column joined to rows, top to bottom; a table is a row of its own."""
    column_left = min(piece.left for piece in block)
    column_right = max(piece.right for piece in block)
    rows: list[Row] = []
    current: list[Piece] = []
    for piece in sorted(block, key=lambda piece: (piece.middle, piece.left)):
        if current:
            middle = statistics.fmean(other.middle for other in current[-8:])
            apart = abs(piece.middle - middle) > min(piece.size, max(other.size for other in current[-8:])) / 2
            if apart or piece.table is not None or current[-1].table is not None:
                rows.append(row_of(current, column_left, column_right))
                current = []
        current.append(piece)
    rows.append(row_of(current, column_left, column_right))
    return rows


def row_of(pieces: list[Piece], column_left: float, column_right: float) -> Row:
    """Pieces on one baseline as a row, left to right."""
    if len(pieces) == 1:  # most rows of most pages
        (only,) = pieces
        return Row(
            only.text, only.left, only.top, only.right, only.bottom, only.size, only.exact, only.bold, (only,),
            cells=False, column_left=column_left, column_right=column_right, table=only.table,
        )  # fmt: skip
    ordered = tuple(sorted(pieces, key=lambda piece: (piece.left, piece.right)))
    text = ordered[0].text
    for piece in ordered[1:]:
        text += space_between(text, piece.text) + piece.text
    letters = sum(len(piece.text) for piece in ordered)
    longest = max(ordered, key=lambda piece: len(piece.text))
    return Row(
        text=text,
        left=ordered[0].left,
        top=min(piece.top for piece in ordered),
        right=max(piece.right for piece in ordered),
        bottom=max(piece.bottom for piece in ordered),
        size=longest.size,
        exact=longest.exact,
        bold=sum(len(piece.text) for piece in ordered if piece.bold) > 0.8 * letters,
        pieces=ordered,
        cells=any(
            after.left - before.right > CELL_GAP * longest.size and len(before.text) > MAX_MARK_LETTERS
            for before, after in itertools.pairwise(ordered)
        ),
        column_left=column_left,
        column_right=column_right,
        table=longest.table,
    )


def body_size(rows: Iterable[Row]) -> float:
    """The letter size that most of the text has (median over letters)."""
    by_size = sorted((row.size, len(row.text)) for row in rows)
    half = sum(letters for _, letters in by_size) / 2
    seen = 0
    for size, letters in by_size:
        seen += letters
        if seen >= half:
            return size
    return by_size[-1][0]


def joined(text: str, more: str, words: Counter[str]) -> str:
    """The text of two rows of one paragraph, with a hyphen at the line end taken out where it only broke a word."""
    if not (text[-1] in HYPHENS and len(text) > 1 and text[-2].isalpha()):
        return text + space_between(text, more) + more
    first = WORD.findall(text[:-1])[-1].lower()
    second = (WORD.match(more) or [""])[0].lower()
    if text[-1] == "\u00ad":
        return text[:-1] + more
    if not second or not more[0].islower():  # "COVID-" "19", "Jean-" "Paul"
        return text + more
    whole, compound = words[first + second], words[f"{first}-{second}"]
    keep = "-" in first or first in HYPHEN_PREFIXES if whole == compound else compound > whole
    return text + more if keep else text[:-1] + more


def space_between(text: str, more: str) -> str:
    """A space, or none where East Asian text runs on."""
    before, after = text[-1], more[0]
    if is_cjk(before):
        return "" if not after.isalpha() or is_cjk(after) else " "
    if is_cjk(after):
        return "" if not before.isalpha() else " "
    return " "
