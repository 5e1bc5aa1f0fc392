"""Text lines with their places -> regions in reading order: paragraphs, headings, list items.  Pure.

Lines of one column are joined to rows, rows to paragraphs by spacing, size, indent, list marks and by whether the
next word would still have fitted; what stands out in size or weight is a heading.

Left to others: recognizing letters and font sizes; the order of columns (`columns.py`); what is a table (`grids.py`)
and what a heading (`titles.py`).
Residual risks: a paragraph that runs on in the next column stays two regions; the cells of a table that is not seen as
one stay side by side, a region for each row.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepseek_ocr.aligned import with_tables
from deepseek_ocr.columns import Piece, blocks, is_cjk
from deepseek_ocr.completion import Region
from deepseek_ocr.grids import Rule, ruled_tables
from deepseek_ocr.rows import BULLET, HYPHENS, WORD, body_size, joined, row_of, rows_of
from deepseek_ocr.tables import Cell, Table, to_html
from deepseek_ocr.titles import HEADING_RATIO, HEADING_RATIO_BOX, labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.completion import Box
    from deepseek_ocr.grids import Slot, TableFound
    from deepseek_ocr.rows import Row

#: Changes whenever the same lines make other regions; a part of what an engine says of itself.
VERSION: Final = "layout-3"

# Lengths below are in units of the letter size of the lines concerned, unless they say otherwise.

#: Row distance, against the usual one, that starts a paragraph; the usual extra space is half a line.
PARAGRAPH_PITCH = 1.25
#: Row distance assumed when the page has too few rows to tell.
DEFAULT_PITCH = 1.6

_NUMBERED = re.compile(r"(?:\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)])+\d{0,2}\s+\S")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text, or a part of one, as a recognizer or a text layer gives it."""

    text: str
    box: Box
    #: Height of the letters as a share of the page height, where known better than from the box (a font size).
    size: float | None = None
    confidence: float | None = None
    bold: bool = False
    #: `size` was measured in a picture, and differs by some hundredths between lines of the same type.
    is_measured: bool = False


def regions_from_lines(lines: Sequence[Line], *, aspect: float, rules: Sequence[Box] = ()) -> tuple[Region, ...]:
    """Regions in reading order; `aspect` is the page's width divided by its height, as boxes are fractions of both.

    `rules` are the straight lines drawn on the page.  Every line with text is in exactly one region; that of a table
    has its HTML.  Odd boxes are clamped to the page, never refused.
    """
    if not (math.isfinite(aspect) and aspect > 0):
        aspect = 1.0
    pieces = [_piece(line, aspect) for line in lines if line.text.strip()]
    words = Counter(word.lower() for piece in pieces for word in WORD.findall(piece.text))
    # Far off the page is no rule of it, and sums of such numbers overflow.
    drawn = [_rule(box, aspect) for box in rules if all(-1 <= side <= 2 for side in box)]  # noqa: PLR2004 - a page each
    tables, free = ruled_tables(pieces, drawn)
    upright = [piece for piece in free if not piece.vertical]
    upright += [_standing_for(table, number) for number, table in enumerate(tables)]
    vertical = sorted((piece for piece in free if piece.vertical), key=lambda piece: (-piece.right, piece.top))

    def stand_for(table: TableFound) -> Row:
        tables.append(table)
        return row_of([_standing_for(table, len(tables) - 1)], table.left, table.right)

    # Over the whole width first: what is short and flush in columns may look like columns of text.
    if upright:
        page = with_tables(rows_of(upright), drawn, stand_for, whole_page=True)
        upright = [piece for row in page for piece in row.pieces]
    columns = [with_tables(rows_of(block), drawn, stand_for, whole_page=False) for block in blocks(upright)]
    rows = [row for column in columns for row in column]
    paragraphs = _paragraphs(rows) + [[row_of([piece], piece.left, piece.right)] for piece in vertical]
    regions = []
    for label, paragraph in zip(labels_of(paragraphs), paragraphs, strict=True):
        number = paragraph[0].table
        if number is None:
            regions.append(_region(label, paragraph, words, aspect))
        else:
            regions.append(_table_region(tables[number], words, aspect))
    return tuple(regions)


def _piece(line: Line, aspect: float) -> Piece:
    x0, y0, x1, y1 = (min(1.0, max(0.0, edge)) if math.isfinite(edge) else 0.0 for edge in line.box)
    left, right = min(x0, x1) * aspect, max(x0, x1) * aspect
    top, bottom = min(y0, y1), max(y0, y1)
    text = " ".join(line.text.split())
    width, height = right - left, bottom - top
    # Three letters: a lone "I" or "1." is taller than wide and still upright.
    vertical = height > 1.5 * width and len(text) >= 3 and height > 0  # noqa: PLR2004
    known = line.size is not None and math.isfinite(line.size) and line.size > 0
    size = line.size if line.size is not None and known else min(width, height) if vertical else height
    exact = known and not line.is_measured
    # A box without height still needs a scale; a thousandth of the page is below any printed letter.
    return Piece(text, left, top, right, bottom, max(size, 0.001), exact, line.confidence, line.bold, vertical)


def _rule(box: Box, aspect: float) -> Rule:
    left, top, right, bottom = box[0] * aspect, box[1], box[2] * aspect, box[3]
    if right - left >= bottom - top:
        return Rule(True, (top + bottom) / 2, left, right)
    return Rule(False, (left + right) / 2, top, bottom)


def _standing_for(table: TableFound, number: int) -> Piece:
    """A piece in the place of a table, so that it comes in its turn."""
    pieces = table.pieces
    return Piece(
        " ".join(piece.text for piece in pieces), table.left, table.top, table.right, table.bottom,
        statistics.median(piece.size for piece in pieces), exact=pieces[0].exact, confidence=None, bold=False,
        vertical=False, table=number,
    )  # fmt: skip


# Paragraphs


def _paragraphs(rows: list[Row]) -> list[list[Row]]:
    if not rows:
        return []
    pitch = _pitch(rows)
    body = body_size(rows)
    paragraphs = [[rows[0]]]
    for row in rows[1:]:
        if _starts_paragraph(row, paragraphs[-1], pitch=pitch, body=body):
            paragraphs.append([row])
        else:
            paragraphs[-1].append(row)
    return paragraphs


def _pitch(rows: list[Row]) -> float:
    """The usual distance from row to row, in letter sizes."""
    distances = [
        (row.middle - previous.middle) / previous.size
        for previous, row in itertools.pairwise(rows)
        if _same_size(previous, row) and row.left < previous.right and previous.left < row.right
    ]
    # Outside these lies no line spacing: overlapping boxes below, from triple spacing on above.
    usual = [distance for distance in distances if 0.7 < distance < 3]  # noqa: PLR2004
    if not usual:
        return DEFAULT_PITCH
    if len(usual) < 4:  # noqa: PLR2004
        return min(DEFAULT_PITCH, *usual, 3)
    return statistics.median_low(usual)


def _same_size(one: Row, other: Row) -> bool:
    limit = HEADING_RATIO if one.exact and other.exact else HEADING_RATIO_BOX
    return max(one.size, other.size) < limit * min(one.size, other.size)


def _starts_paragraph(row: Row, paragraph: list[Row], *, pitch: float, body: float) -> bool:  # noqa: PLR0911
    """Whether `row` begins a new paragraph after the rows of `paragraph`; one reason per line, the surest first."""
    previous = paragraph[-1]
    if row.table is not None or previous.table is not None:
        return True
    size = (previous.size + row.size) / 2
    distance = row.middle - previous.middle
    if distance <= 0 or distance > PARAGRAPH_PITCH * pitch * size:
        return True
    if row.left > previous.right or row.right < previous.left:
        return True
    if row.cells or previous.cells:
        return True
    if not _same_size(previous, row) or row.bold != previous.bold:
        return True
    if BULLET.match(row.text):
        return True
    if row.size > HEADING_RATIO_BOX * body:
        return False  # a heading breaks its lines by sense
    in_list = _is_list_item(paragraph[0])
    fits = _next_word_fits(previous, row)
    if _NUMBERED.match(row.text) and (fits or in_list or previous.text.endswith((".", ":", ";"))):
        return True
    if previous.text.endswith(tuple(HYPHENS)) and len(previous.text) > 1 and previous.text[-2].isalpha():
        return False
    if in_list and row.left > paragraph[0].left + 0.3 * size:
        return False  # hangs under the text of its item
    if row.left > previous.left + size:
        return True
    if row.left < previous.left - size and len(paragraph) > 1:
        return True
    return fits


def _next_word_fits(previous: Row, row: Row) -> bool:
    """Whether the first word of `row` would have had room on the row before, so that its writer broke the line."""
    letter = (row.right - row.left) / max(len(row.text), 1)
    first = row.text.split(maxsplit=1)[0]
    word = 1 if is_cjk(first[0]) else len(first)
    # Two letters more than needed: justified lines stretch and boxes end a little early.
    return previous.right + (word + 3) * letter < previous.column_right


def _is_list_item(row: Row) -> bool:
    return bool(BULLET.match(row.text) or _NUMBERED.match(row.text))


# Regions


def _region(label: str, paragraph: list[Row], words: Counter[str], aspect: float) -> Region:
    text = paragraph[0].text
    for row in paragraph[1:]:
        text = joined(text, row.text, words)
    pieces = [piece for row in paragraph for piece in row.pieces]
    edges = (
        min(piece.left for piece in pieces), min(piece.top for piece in pieces),
        max(piece.right for piece in pieces), max(piece.bottom for piece in pieces),
    )  # fmt: skip
    return Region(label, text, _fractions(edges, aspect), _confidence(pieces))


def _table_region(table: TableFound, words: Counter[str], aspect: float) -> Region:
    rows = [[Cell(_cell_text(slot, words), slot.columns, slot.rows) for slot in row] for row in table.rows]
    edges = table.left, table.top, table.right, table.bottom
    return Region("table", to_html(Table(rows)), _fractions(edges, aspect), _confidence(table.pieces))


def _cell_text(slot: Slot, words: Counter[str]) -> str:
    if not slot.pieces:
        return ""
    text, *rows = (row.text for row in rows_of(list(slot.pieces)))
    for row in rows:
        text = joined(text, row, words)
    return text


def _fractions(edges: Box, aspect: float) -> Box:
    left, top, right, bottom = edges[0] / aspect, edges[1], edges[2] / aspect, edges[3]
    return min(1.0, max(0.0, left)), min(1.0, max(0.0, top)), min(1.0, max(0.0, right)), min(1.0, max(0.0, bottom))


def _confidence(pieces: Sequence[Piece]) -> float | None:
    """The mean over the letters, where it is known."""
    known = [(piece.confidence, len(piece.text)) for piece in pieces if piece.confidence is not None]
    return sum(value * letters for value, letters in known) / sum(n for _, n in known) if known else None
