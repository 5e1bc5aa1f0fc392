"""Paragraphs of a page -> which of them are headings, by size, weight and standing alone, and tables' captions.  Pure.

Left to others: the levels of headings over the document (`headings.py`).
Residual risks: headings of the body's size and weight stay text.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from deepseek_ocr.rows import BULLET, body_size

if TYPE_CHECKING:
    from deepseek_ocr.rows import Row

#: Letter size, against the body's, that makes a heading: font sizes are exact, measured ones differ by some hundredths
#: (`lettering.py`), and by a tenth between faces of unlike width.
HEADING_RATIO = 1.15
HEADING_RATIO_BOX = 1.2
#: A line that stands alone among prose and ends without a stop needs less to be one (generated scans: headings of 14 pt
#: over 11 pt come out at 1.20 and more, salutations and signatures at 0.91 to 1.00).
HEADING_RATIO_ALONE = 1.14
MAX_ALONE_LETTERS = 80
MIN_PROSE_ROWS = 2
#: Letters in a heading at most; anything longer is large prose.
MAX_HEADING_LETTERS = 200
#: Rows of the caption of a table at most.
MAX_CAPTION_ROWS = 4

#: With its number, after which a sentence would go on with a small letter.
_CAPTION = re.compile(r"(?i:tab(?:le|elle|leau|la|ela|\.)?|таблица|表)\s*(?:[A-Z]?\.?\d+|[IVX]+\b)(?!\s+[a-z])")
_NUMBER = re.compile(r"\W*(?:(?:\w{1,3}\.)*\w{1,3}|chapter \w+|kapitel \w+)\W*", re.IGNORECASE)


def labels_of(paragraphs: list[list[Row]]) -> list[str]:
    """`title` for the largest heading above the first paragraph, `sub_title` for the others, `text` for other text.

    Those that stand for tables are `table`, and what says so beside one is its `table_caption`.
    """
    rows = [row for paragraph in paragraphs for row in paragraph]
    if not rows:
        return []
    body = body_size(rows)
    letters = sum(len(row.text) for row in rows)
    body_is_bold = sum(len(row.text) for row in rows if row.bold) > letters / 2
    prose = any(len(paragraph) >= MIN_PROSE_ROWS for paragraph in paragraphs)
    labels = [
        "table"
        if paragraph[0].table is not None
        else "sub_title"
        if _is_heading(paragraph, body=body, bold_stands_out=not body_is_bold)
        or (prose and _stands_alone(paragraph, body))
        else "text"
        for paragraph in paragraphs
    ]
    for n in range(len(labels)):
        beside = labels[max(0, n - 1)], labels[min(n + 1, len(labels) - 1)]
        if labels[n] != "table" and "table" in beside and _is_caption(paragraphs[n]):
            labels[n] = "table_caption"
    before_body = itertools.takewhile(
        lambda n: labels[n] == "sub_title" or (labels[n] == "text" and len(paragraphs[n]) == 1), range(len(labels))
    )
    large = [n for n in before_body if labels[n] == "sub_title" and _is_large(paragraphs[n], body)]
    if large:
        labels[max(large, key=lambda n: paragraphs[n][0].size)] = "title"
    return labels


def _is_caption(paragraph: list[Row]) -> bool:
    return len(paragraph) <= MAX_CAPTION_ROWS and bool(_CAPTION.match(paragraph[0].text))


def _is_large(paragraph: list[Row], body: float) -> bool:
    ratio = HEADING_RATIO if paragraph[0].exact else HEADING_RATIO_BOX
    return min(row.size for row in paragraph) >= ratio * body


def _is_heading(paragraph: list[Row], *, body: float, bold_stands_out: bool) -> bool:
    text = " ".join(row.text for row in paragraph)
    if len(text) > MAX_HEADING_LETTERS or not any(map(str.isalpha, text)) or any(map(_is_row_of_cells, paragraph)):
        return False
    if _is_large(paragraph, body):
        # Large print has items and sentences as other print has.
        return not BULLET.match(text) and (len(text) <= MAX_ALONE_LETTERS or not text.endswith((".", ",", ";")))
    bold = bold_stands_out and all(row.bold for row in paragraph)
    short = len(paragraph) <= 2 and not text.endswith((".", ",", ";"))  # noqa: PLR2004
    return bold and short and paragraph[0].size >= 0.95 * body


def _is_row_of_cells(row: Row) -> bool:
    """Whether a row is one of a table, as of its head in bold type; a heading may stand far from its number."""
    return row.cells and not (len(row.pieces) == 2 and _NUMBER.fullmatch(row.pieces[0].text))  # noqa: PLR2004


def _stands_alone(paragraph: list[Row], body: float) -> bool:
    row = paragraph[0]
    return (
        len(paragraph) == 1
        and len(row.pieces) == 1
        and row.size >= HEADING_RATIO_ALONE * body
        and len(row.text) <= MAX_ALONE_LETTERS
        and sum(map(str.isalpha, row.text)) > len(row.text) / 2
        and row.text[-1] not in ".,;:!?"
        and not BULLET.match(row.text)
    )
