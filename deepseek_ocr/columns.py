"""Pieces of text with their places -> blocks of one column each, in reading order.  Pure.

A gutter is an x that two groups of lines leave free over some height.  It splits a band of the page into columns, each
of which is cut again; a line that crosses it (a heading, a figure caption) ends the band.  A free strip of white is
not enough for a gutter: the cells of a table leave one too, and they are to be read row by row.

Left to others: rows, paragraphs and headings inside a block (`layout.py`).
Residual risks: a table of wide text cells looks like columns and is read cell by cell downwards; a figure with text
inside mixes its labels into the flow; right-to-left scripts keep the order of the boxes, left to right.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

# Lengths below are in units of the letter size of the lines concerned, unless they say otherwise.

#: Narrowest gutter between two columns.  Newspapers have about one letter size, and recognizers' boxes overhang by up
#: to a third on both sides (measured on scans).
MIN_GUTTER = 0.4
#: Gutter where there are few lines on both sides together: they may be a line in pieces and its neighbour.
MIN_GUTTER_FEW = 2.0
FEW_LINES = 8
#: A side whose median piece is shorter than this many letters is a table column or a margin number, not prose.
MIN_COLUMN_LETTERS = 12
#: Share of the shorter side's lines that stand level with one of the other side in a table.
LEVEL_SHARE = 0.6
#: Columns within columns: more levels than any page has, and a bound on the work.
MAX_DEPTH = 6
#: Gutter positions tried per level before common left edges, and as many after common right edges.  With 8, 2 of 250
#: generated pages were read across their columns: under a title that ends within the gutter only the longest lines of
#: a ragged column show where it is.  With 16 none was, and 48 gain nothing.
MAX_CANDIDATES = 16

_PAGE_NUMBER = re.compile(r"\W*(?:page\s*)?(?:\d{1,5}|[ivxlc]{1,6})(?:\s*(?:of|/)\s*\d{1,5})?\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A line of text, or a part of one, in units of the page height on both axes: widths and heights compare."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    #: Whether `size` is a font size and not a box height.
    exact: bool
    confidence: float | None
    bold: bool
    vertical: bool
    #: The number of the table that it stands for, whose text it has.
    table: int | None = None

    @property
    def middle(self) -> float:
        """Height of the middle of the box on the page."""
        return (self.top + self.bottom) / 2


def blocks(pieces: list[Piece]) -> list[list[Piece]]:
    """The page in blocks of one column each, in reading order."""
    if not pieces:
        return []
    ordered = sorted(pieces, key=lambda piece: (piece.middle, piece.left))
    size = statistics.median(piece.size for piece in ordered)
    head = _marginal_row(ordered, size)
    body = ordered[len(head) :]
    foot = _marginal_row(body[::-1], size)[::-1]
    body = body[: len(body) - len(foot)]
    return [block for block in (head, *_columns(body, 0), foot) if block]


def _marginal_row(ordered: list[Piece], size: float) -> list[Piece]:
    """The first row if it is a running head or foot: a page number among its pieces, and some space to the rest."""
    if not ordered:
        return []
    middle = ordered[0].middle
    count = next((i for i, piece in enumerate(ordered) if abs(piece.middle - middle) > size / 2), len(ordered))
    row, rest = ordered[:count], ordered[count:]
    if not rest or not any(_PAGE_NUMBER.fullmatch(piece.text) for piece in row):
        return []
    gap = max(
        min(piece.top for piece in rest) - max(piece.bottom for piece in row),
        min(piece.top for piece in row) - max(piece.bottom for piece in rest),
    )
    return row if gap > size / 2 else []


def _columns(ordered: list[Piece], depth: int) -> list[list[Piece]]:
    """Blocks of these pieces (sorted by height), cut at the gutter that explains most of them."""
    if depth == MAX_DEPTH:
        return [ordered]
    size = statistics.median(piece.size for piece in ordered)
    best: list[_Band] = []
    best_score = 0
    for gutter in _gutter_candidates(ordered, size):
        bands = _bands(ordered, gutter, size)
        score = sum(len(band.left) + len(band.right) for band in bands if band.is_columns)
        if score > best_score:
            best, best_score = bands, score
    if not best:
        return [ordered]
    blocks: list[list[Piece]] = []
    flow: list[Piece] = []
    for band in best:
        flow += band.crossing
        if not band.is_columns:
            flow = sorted(flow + band.left + band.right, key=lambda piece: (piece.middle, piece.left))
            continue
        if flow:
            blocks += _columns(flow, depth + 1)
            flow = []
        blocks += _columns(band.left, depth + 1)
        blocks += _columns(band.right, depth + 1)
    if flow:
        blocks += _columns(flow, depth + 1)
    return blocks


def _gutter_candidates(pieces: list[Piece], size: float) -> list[float]:
    """Positions just before common left edges and just after common right edges."""
    step = size / 2
    lefts = Counter(round(piece.left / step) for piece in pieces)
    rights = Counter(round(piece.right / step) for piece in pieces)
    half = MIN_GUTTER / 2 * size
    return [edge * step - half for edge, _ in lefts.most_common(MAX_CANDIDATES)] + [
        edge * step + half for edge, _ in rights.most_common(MAX_CANDIDATES)
    ]


@dataclass(frozen=True, slots=True)
class _Band:
    """Lines that cross the gutter, then those left and right of it down to the next crossing line."""

    crossing: list[Piece]
    left: list[Piece]
    right: list[Piece]
    is_columns: bool


def _bands(ordered: list[Piece], gutter: float, size: float) -> list[_Band]:
    # A box may overhang into the gutter by this much and still belong to its side.
    slack = 0.3 * size
    bands: list[_Band] = []
    crossing: list[Piece] = []
    left: list[Piece] = []
    right: list[Piece] = []
    for piece in ordered:
        if piece.left < gutter - slack and piece.right > gutter + slack:
            if left or right:
                bands.append(_Band(crossing, left, right, _are_columns(left, right, size)))
                crossing, left, right = [], [], []
            crossing.append(piece)
        elif piece.left + piece.right < 2 * gutter:
            left.append(piece)
        else:
            right.append(piece)
    bands.append(_Band(crossing, left, right, _are_columns(left, right, size)))
    return bands


def _are_columns(left: list[Piece], right: list[Piece], size: float) -> bool:
    """Whether these stand side by side and are to be read one after the other, not row by row."""
    if not left or not right or len(left) + len(right) < 3:  # noqa: PLR2004
        return False
    gap = min(piece.left for piece in right) - max(piece.right for piece in left)
    beside = min(left[-1].bottom, right[-1].bottom) - max(left[0].top, right[0].top)
    narrowest = MIN_GUTTER_FEW if len(left) + len(right) < FEW_LINES else MIN_GUTTER
    if gap < narrowest * size or beside <= 0:
        return False
    few, many = sorted((left, right), key=len)
    middles = [piece.middle for piece in many]
    level = sum(_has_near(middles, piece.middle, 0.35 * size) for piece in few) > LEVEL_SHARE * len(few)
    return not level or min(_median_letters(left), _median_letters(right)) >= MIN_COLUMN_LETTERS


def _has_near(ordered: list[float], value: float, distance: float) -> bool:
    index = bisect_left(ordered, value - distance)
    return index < len(ordered) and ordered[index] <= value + distance


def _median_letters(pieces: list[Piece]) -> float:
    return statistics.median(len(piece.text) + sum(map(is_cjk, piece.text)) for piece in pieces)


def is_cjk(letter: str) -> bool:
    """Whether this is of a script written without spaces: Han, kana, their punctuation and full-width forms."""
    return letter > "\u2e7f" and unicodedata.east_asian_width(letter) in "WF" and not "\uac00" <= letter <= "\ud7a3"
