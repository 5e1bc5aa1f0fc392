"""Text lines with their places -> regions in reading order: paragraphs, headings, list items.  Pure.

Lines of one column are joined to rows, rows to paragraphs by spacing, size, indent, list marks and by whether the
next word would still have fitted; what stands out in size or weight is a heading.

Left to others: recognizing letters and font sizes; the order of columns (`columns.py`); tables (their cells stay side
by side, one region per row).
Residual risks: headings of the body's size and weight stay text; a paragraph that runs on in the next column stays two
regions.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek_ocr.columns import Piece, blocks, is_cjk
from deepseek_ocr.completion import Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepseek_ocr.completion import Box

# Lengths below are in units of the letter size of the lines concerned, unless they say otherwise.

#: Gap between pieces of a row that makes them cells of a table; words of a justified line stay closer.
CELL_GAP = 2.0
#: Letters of a list mark at most ("(iv)").
MAX_MARK_LETTERS = 4
#: Row distance, against the usual one, that starts a paragraph; the usual extra space is half a line.
PARAGRAPH_PITCH = 1.25
#: Row distance assumed when the page has too few rows to tell.
DEFAULT_PITCH = 1.6
#: Letter size, against the body's, that makes a heading: font sizes are exact, box heights vary by about a tenth
#: with the ascenders and descenders in the line.
HEADING_RATIO = 1.15
HEADING_RATIO_BOX = 1.3
#: A line that stands alone among prose and ends without a stop needs less to be one (generated scans: headings of 14 pt
#: over 11 pt come out at 1.20 and more, salutations and signatures at 0.91 to 1.00).
HEADING_RATIO_ALONE = 1.14
MAX_ALONE_LETTERS = 80
MIN_PROSE_ROWS = 2
#: Letters in a heading at most; anything longer is large prose.
MAX_HEADING_LETTERS = 200
#: First parts that keep their hyphen at a line end ("well-" "known"), unless the page has the word without.
HYPHEN_PREFIXES = frozenset(
    {"all", "anti", "cross", "ex", "full", "half", "high", "ill", "large", "long", "low", "multi", "non", "one"}
    | {"real", "self", "short", "single", "small", "so", "two", "well"}
)
HYPHENS = "-\u00ad\u2010"

_BULLET = re.compile(r"[\u2022\u2023\u25aa\u25cf\u25e6\u2013\u2014\u00b7*-]\s*(?=[^\W_])|[\u2022\u25aa\u25cf\u25e6]")
_NUMBERED = re.compile(r"(?:\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)])+\d{0,2}\s+\S")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text, or a part of one, as a recognizer or a text layer gives it."""

    text: str
    box: Box
    #: Height of the letters as a share of the page height, where known better than from the box (a font size).
    size: float | None = None
    confidence: float | None = None
    bold: bool = False


def regions_from_lines(lines: Sequence[Line], *, aspect: float) -> tuple[Region, ...]:
    """Regions in reading order; `aspect` is the page's width divided by its height, as boxes are fractions of both.

    Every line with text is in exactly one region.  Odd boxes are clamped to the page, never refused.
    """
    if not (math.isfinite(aspect) and aspect > 0):
        aspect = 1.0
    pieces = [_piece(line, aspect) for line in lines if line.text.strip()]
    upright = [piece for piece in pieces if not piece.vertical]
    vertical = sorted((piece for piece in pieces if piece.vertical), key=lambda piece: (-piece.right, piece.top))
    rows = [row for block in blocks(upright) for row in _rows(block)]
    paragraphs = _paragraphs(rows) + [[_row([piece], piece.left, piece.right)] for piece in vertical]
    words = Counter(word.lower() for piece in pieces for word in _WORD.findall(piece.text))
    labels = _labels(paragraphs)
    return tuple(_region(label, paragraph, words, aspect) for label, paragraph in zip(labels, paragraphs, strict=True))


@dataclass(frozen=True, slots=True)
class _Row:
    """Pieces on one baseline, with the edges of the column they stand in."""

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

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def _piece(line: Line, aspect: float) -> Piece:
    x0, y0, x1, y1 = (min(1.0, max(0.0, edge)) if math.isfinite(edge) else 0.0 for edge in line.box)
    left, right = min(x0, x1) * aspect, max(x0, x1) * aspect
    top, bottom = min(y0, y1), max(y0, y1)
    text = " ".join(line.text.split())
    width, height = right - left, bottom - top
    # Three letters: a lone "I" or "1." is taller than wide and still upright.
    vertical = height > 1.5 * width and len(text) >= 3 and height > 0  # noqa: PLR2004
    exact = line.size is not None and math.isfinite(line.size) and line.size > 0
    size = line.size if line.size is not None and exact else min(width, height) if vertical else height
    # A box without height still needs a scale; a thousandth of the page is below any printed letter.
    return Piece(text, left, top, right, bottom, max(size, 0.001), exact, line.confidence, line.bold, vertical)


# Rows


def _rows(block: list[Piece]) -> list[_Row]:
    """Pieces of one column joined to rows, top to bottom."""
    column_left = min(piece.left for piece in block)
    column_right = max(piece.right for piece in block)
    rows: list[_Row] = []
    current: list[Piece] = []
    for piece in sorted(block, key=lambda piece: (piece.middle, piece.left)):
        if current:
            middle = statistics.fmean(other.middle for other in current[-8:])
            if abs(piece.middle - middle) > min(piece.size, max(other.size for other in current[-8:])) / 2:
                rows.append(_row(current, column_left, column_right))
                current = []
        current.append(piece)
    rows.append(_row(current, column_left, column_right))
    return rows


def _row(pieces: list[Piece], column_left: float, column_right: float) -> _Row:
    ordered = tuple(sorted(pieces, key=lambda piece: (piece.left, piece.right)))
    text = ordered[0].text
    for piece in ordered[1:]:
        text += _space_between(text, piece.text) + piece.text
    letters = sum(len(piece.text) for piece in ordered)
    longest = max(ordered, key=lambda piece: len(piece.text))
    return _Row(
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
    )


# Paragraphs


def _paragraphs(rows: list[_Row]) -> list[list[_Row]]:
    if not rows:
        return []
    pitch = _pitch(rows)
    body = _body_size(rows)
    paragraphs = [[rows[0]]]
    for row in rows[1:]:
        if _starts_paragraph(row, paragraphs[-1], pitch=pitch, body=body):
            paragraphs.append([row])
        else:
            paragraphs[-1].append(row)
    return paragraphs


def _pitch(rows: list[_Row]) -> float:
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


def _body_size(rows: Iterable[_Row]) -> float:
    """The letter size that most of the text has (median over letters)."""
    by_size = sorted((row.size, len(row.text)) for row in rows)
    half = sum(letters for _, letters in by_size) / 2
    seen = 0
    for size, letters in by_size:
        seen += letters
        if seen >= half:
            return size
    return by_size[-1][0]


def _same_size(one: _Row, other: _Row) -> bool:
    limit = HEADING_RATIO if one.exact and other.exact else HEADING_RATIO_BOX
    return max(one.size, other.size) < limit * min(one.size, other.size)


def _starts_paragraph(row: _Row, paragraph: list[_Row], *, pitch: float, body: float) -> bool:  # noqa: PLR0911
    """Whether `row` begins a new paragraph after the rows of `paragraph`; one reason per line, the surest first."""
    previous = paragraph[-1]
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
    if _BULLET.match(row.text):
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


def _next_word_fits(previous: _Row, row: _Row) -> bool:
    """Whether the first word of `row` would have had room on the row before, so that its writer broke the line."""
    letter = (row.right - row.left) / max(len(row.text), 1)
    first = row.text.split(maxsplit=1)[0]
    word = 1 if is_cjk(first[0]) else len(first)
    # Two letters more than needed: justified lines stretch and boxes end a little early.
    return previous.right + (word + 3) * letter < previous.column_right


def _is_list_item(row: _Row) -> bool:
    return bool(_BULLET.match(row.text) or _NUMBERED.match(row.text))


# Labels and text


def _labels(paragraphs: list[list[_Row]]) -> list[str]:
    """`title` for the largest heading above the first paragraph, `sub_title` for the others, else `text`."""
    rows = [row for paragraph in paragraphs for row in paragraph]
    if not rows:
        return []
    body = _body_size(rows)
    letters = sum(len(row.text) for row in rows)
    body_is_bold = sum(len(row.text) for row in rows if row.bold) > letters / 2
    prose = any(len(paragraph) >= MIN_PROSE_ROWS for paragraph in paragraphs)
    labels = [
        "sub_title"
        if _is_heading(paragraph, body=body, bold_stands_out=not body_is_bold)
        or (prose and _stands_alone(paragraph, body))
        else "text"
        for paragraph in paragraphs
    ]
    before_body = itertools.takewhile(lambda n: labels[n] != "text" or len(paragraphs[n]) == 1, range(len(labels)))
    large = [n for n in before_body if labels[n] == "sub_title" and _is_large(paragraphs[n], body)]
    if large:
        labels[max(large, key=lambda n: paragraphs[n][0].size)] = "title"
    return labels


def _is_large(paragraph: list[_Row], body: float) -> bool:
    ratio = HEADING_RATIO if paragraph[0].exact else HEADING_RATIO_BOX
    return min(row.size for row in paragraph) >= ratio * body


def _is_heading(paragraph: list[_Row], *, body: float, bold_stands_out: bool) -> bool:
    text = " ".join(row.text for row in paragraph)
    if len(text) > MAX_HEADING_LETTERS or not any(map(str.isalpha, text)):
        return False
    if _is_large(paragraph, body):
        return True
    bold = bold_stands_out and all(row.bold for row in paragraph)
    short = len(paragraph) <= 2 and not text.endswith((".", ",", ";"))  # noqa: PLR2004
    return bold and short and paragraph[0].size >= 0.95 * body


def _stands_alone(paragraph: list[_Row], body: float) -> bool:
    row = paragraph[0]
    return (
        len(paragraph) == 1
        and len(row.pieces) == 1
        and row.size >= HEADING_RATIO_ALONE * body
        and len(row.text) <= MAX_ALONE_LETTERS
        and sum(map(str.isalpha, row.text)) > len(row.text) / 2
        and row.text[-1] not in ".,;:!?"
    )


def _region(label: str, paragraph: list[_Row], words: Counter[str], aspect: float) -> Region:
    text = paragraph[0].text
    for row in paragraph[1:]:
        text = _join(text, row.text, words)
    pieces = [piece for row in paragraph for piece in row.pieces]
    box = (
        min(min(piece.left for piece in pieces) / aspect, 1.0),
        min(piece.top for piece in pieces),
        min(max(piece.right for piece in pieces) / aspect, 1.0),
        max(piece.bottom for piece in pieces),
    )
    known = [(piece.confidence, len(piece.text)) for piece in pieces if piece.confidence is not None]
    confidence = sum(value * letters for value, letters in known) / sum(n for _, n in known) if known else None
    return Region(label, text, box, confidence)


def _join(text: str, more: str, words: Counter[str]) -> str:
    """The text of two rows of one paragraph, with a hyphen at the line end taken out where it only broke a word."""
    if not (text[-1] in HYPHENS and len(text) > 1 and text[-2].isalpha()):
        return text + _space_between(text, more) + more
    first = _WORD.findall(text[:-1])[-1].lower()
    second = (_WORD.match(more) or [""])[0].lower()
    if text[-1] == "\u00ad":
        return text[:-1] + more
    if not second or not more[0].islower():  # "COVID-" "19", "Jean-" "Paul"
        return text + more
    whole, compound = words[first + second], words[f"{first}-{second}"]
    keep = "-" in first or first in HYPHEN_PREFIXES if whole == compound else compound > whole
    return text + more if keep else text[:-1] + more


def _space_between(text: str, more: str) -> str:
    """A space, or none where East Asian text runs on."""
    before, after = text[-1], more[0]
    if is_cjk(before):
        return "" if not after.isalpha() or is_cjk(after) else " "
    if is_cjk(after):
        return "" if not before.isalpha() else " "
    return " "
