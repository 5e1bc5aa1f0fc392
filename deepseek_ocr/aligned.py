"""Rows of pieces that stand under each other in columns -> tables without upright rules.  Pure, and wary.

Three rows and more whose pieces leave the same gaps free and are flush in their columns are a table if one of the
columns holds figures, or if level rules frame them, as in print.  Two columns need more: a head, and three full rows
under it.  What looks like a list, a form or a table of contents, and whatever else is in doubt, stays text, row by row.

Left to others: rows (`rows.py`), what is ruled (`grids.py`), the order of columns (`columns.py`).
Residual risks: tables of words without a rule, cells on several lines and heads that span columns are not seen.
"""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepseek_ocr.grids import Slot, TableFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepseek_ocr.columns import Piece
    from deepseek_ocr.grids import Rule
    from deepseek_ocr.rows import Row

# Lengths below are in units of the letter size of the rows concerned.

MIN_ROWS = 3
#: Pieces closer than this are words of one cell; columns are farther apart.
WORD_GAP, COLUMN_GAP = 0.5, 0.8
#: Letters in a cell at most, and in the usual one.
MAX_CELL_LETTERS, MAX_USUAL_LETTERS = 60, 25
#: The same of each column where columns of text may stand beside it.
MAX_BESIDE_LETTERS = 20
#: From the middle of a row to that of the next, at most, and against the least such distance above it.
MAX_PITCH, MAX_PITCH_RATIO = 3.0, 1.8
#: Rows of a table are of one type size; measured ones differ.
SIZE_RATIO = 1.3
#: Edges or middles of cells that differ by less are flush, and the share of the cells of each column that are.
FLUSH, MIN_FLUSH = 0.7, 0.75
#: Share of the cells of a column below its head that are figures, and of the cells of a table that are not empty.
MIN_FIGURES, MIN_FULL = 0.7, 0.65
#: With two columns only.
MIN_ROWS_OF_TWO = 4
MIN_FULL_OF_TWO = 0.95
#: Share of the numbers of pages that are not less than the one before; those of several chapters begin anew.
RISING = 0.75
#: A level rule belongs to a table if it is about as wide and this close to a row.
RULE_SHARE, RULE_GAP = 0.8, 1.5

_FIGURE = re.compile(
    r"(?:EUR|USD|GBP|CHF|ca\.|[^\w.]|\s)*\d[\d\W]*(?:[^\W\d_]{1,4}\W*)?|[-\u2013\u2014.]+|n/?a", re.IGNORECASE
)
#: Dots that lead to a page number, lines to write on.
_LEADER = re.compile(r"(?:\.\s?){4}|\u2026|_{4}")
_INTEGER = re.compile(r"\d{1,4}")
_MARK = re.compile(r"\W{0,2}(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)]|\W")


@dataclass(frozen=True, slots=True)
class _Cell:
    """Pieces of a row that stand together."""

    pieces: tuple[Piece, ...]

    @property
    def left(self) -> float:
        return self.pieces[0].left

    @property
    def right(self) -> float:
        return max(piece.right for piece in self.pieces)

    @property
    def text(self) -> str:
        return " ".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows whose cells stand in the same columns."""

    rows: list[list[_Cell]]
    #: The edges of each column.
    columns: list[tuple[float, float]]
    size: float


def with_tables(
    rows: list[Row], rules: Sequence[Rule], stand_for: Callable[[TableFound], Row], *, whole_page: bool
) -> list[Row]:
    """Rows from top to bottom, with one row in the place of those of each table.

    They are those of one column of text, or of the `whole_page`, where other columns of text may stand beside a table.
    """
    found: list[Row] = []
    index = 0
    while index < len(rows):
        run = _run(rows, index) if len(rows[index].pieces) > 1 else None  # most rows of most pages have one piece
        if run is None or len(run.rows) < MIN_ROWS:
            found.append(rows[index])
            index += 1
            continue
        table = None if whole_page and _has_prose(run) else _table(run, rules)
        found += rows[index : index + len(run.rows)] if table is None else [stand_for(table)]
        index += len(run.rows)
    return found


def _run(rows: list[Row], start: int) -> _Run:
    """As many rows from this one on as have the same columns."""
    run = _Run([], [], rows[start].size)
    previous = rows[start]
    farthest = MAX_PITCH * previous.size
    for row in rows[start:]:
        cells = _cells(row)
        pitch = row.middle - previous.middle
        near = pitch <= farthest and _alike(row.size, run.size)
        columns = _columns(run.columns, cells, COLUMN_GAP * row.size) if cells and near else []
        if not columns or (len(cells) < 2 and not run.rows):  # noqa: PLR2004 - a table begins with a full row
            break
        run.rows.append(cells)
        run.columns[:] = columns
        if pitch > 0:
            farthest = min(farthest, MAX_PITCH_RATIO * pitch)
        previous = row
    while run.rows and len(run.rows[-1]) < 2:  # noqa: PLR2004 - and ends with one
        run.rows.pop()
    run.columns[:] = [column for column in run.columns if any(_in_column(cells, column) for cells in run.rows)]
    return run


def _alike(one: float, other: float) -> bool:
    return max(one, other) < SIZE_RATIO * min(one, other)


def _cells(row: Row) -> list[_Cell]:
    """The cells of a row; none where it cannot be one of a table."""
    if row.table is not None:
        return []
    cells = [[row.pieces[0]]]
    for piece in row.pieces[1:]:
        if piece.left - max(other.right for other in cells[-1]) < WORD_GAP * row.size:
            cells[-1].append(piece)
        else:
            cells.append([piece])
    found = [_Cell(tuple(cell)) for cell in cells]
    return found if all(len(cell.text) <= MAX_CELL_LETTERS for cell in found) else []


def _columns(columns: list[tuple[float, float]], cells: list[_Cell], gap: float) -> list[tuple[float, float]]:
    """The columns with another row in them; none where two of them, or two of its cells, would become one."""
    merged: list[tuple[float, float]] = []
    members: list[tuple[int, int]] = []
    spans = [(left, right, 1, 0) for left, right in columns] + [(cell.left, cell.right, 0, 1) for cell in cells]
    for left, right, old, new in sorted(spans):
        if merged and left < merged[-1][1] + gap:
            merged[-1] = merged[-1][0], max(right, merged[-1][1])
            members[-1] = members[-1][0] + old, members[-1][1] + new
        else:
            merged.append((left, right))
            members.append((old, new))
    return merged if all(old <= 1 and new <= 1 for old, new in members) else []


def _table(run: _Run, rules: Sequence[Rule]) -> TableFound | None:
    """The run as a table, if it is one."""
    grid = [[_in_column(cells, column) for column in run.columns] for cells in run.rows]
    columns = list(zip(*grid, strict=True))
    filled = [cell for cells in grid for cell in cells if cell is not None]
    lengths = [len(cell.text) for cell in filled]
    if (
        len(columns) < 2  # noqa: PLR2004
        or statistics.median(lengths) > MAX_USUAL_LETTERS
        or len(filled) < MIN_FULL * len(grid) * len(columns)
        or any(_LEADER.search(cell.text) for cell in filled)
        or any(_labels(column) for column in columns)
        or not all(_is_flush(column, run.size) for column in columns)
    ):
        return None
    pieces = [piece for cell in filled for piece in cell.pieces]
    edges = (
        min(piece.left for piece in pieces), min(piece.top for piece in pieces),
        max(piece.right for piece in pieces), max(piece.bottom for piece in pieces),
    )  # fmt: skip
    if not (_is_framed(edges, rules, run.size) or _has_figures(columns)):
        return None
    rows = tuple(tuple(Slot(cell.pieces if cell else ()) for cell in cells) for cells in grid)
    return TableFound(*edges, rows)


def _has_prose(run: _Run) -> bool:
    """Whether one of the columns may be a column of text."""
    lengths = [
        [len(cell.text) for cells in run.rows if (cell := _in_column(cells, column)) is not None]
        for column in run.columns
    ]
    return any(statistics.median(column) > MAX_BESIDE_LETTERS for column in lengths)


def _in_column(cells: list[_Cell], column: tuple[float, float]) -> _Cell | None:
    return next((cell for cell in cells if column[0] <= cell.left and cell.right <= column[1]), None)


def _is_flush(column: Sequence[_Cell | None], size: float) -> bool:
    """Whether the cells of a column agree in their left edges, their right ones, or their middles."""
    cells = [cell for cell in column if cell is not None]
    for places in (
        [cell.left for cell in cells],
        [cell.right for cell in cells],
        [(cell.left + cell.right) / 2 for cell in cells],
    ):
        usual = statistics.median(places)
        if sum(abs(place - usual) <= FLUSH * size for place in places) >= MIN_FLUSH * len(cells):
            return True
    return False


def _is_framed(edges: tuple[float, float, float, float], rules: Sequence[Rule], size: float) -> bool:
    """Whether level rules of about its width stand above a table or below its head, and below the whole."""
    left, top, right, bottom = edges
    places = sorted(
        rule.at
        for rule in rules
        if rule.is_level
        and top - RULE_GAP * size <= rule.at <= bottom + RULE_GAP * size
        and RULE_SHARE * (right - left) <= rule.end - rule.start <= (right - left) / RULE_SHARE
        and min(right, rule.end) - max(left, rule.start) >= RULE_SHARE * (right - left)
    )
    return len(places) > 1 and places[0] < top + 2 * size and places[-1] > max(bottom - size, places[0] + size)


def _has_figures(columns: list[tuple[_Cell | None, ...]]) -> bool:
    """Whether columns without a frame are those of a table: figures in one, and no sign of anything else."""
    if all(cell is None or _MARK.fullmatch(cell.text) for cell in columns[0]):
        columns = columns[1:]  # the numbers of a list
    if len(columns) < 2:  # noqa: PLR2004
        return False
    cells = [cell for column in columns for cell in column if cell is not None]
    if _counts_up(columns[-1]):
        return False
    if len(columns) == 2:  # noqa: PLR2004
        height = len(columns[0])
        head = columns[1][0]
        if head is None or _FIGURE.fullmatch(head.text):
            return False
        if height < MIN_ROWS_OF_TWO or len(cells) < MIN_FULL_OF_TWO * 2 * height:
            return False
    return any(_figures(column) for column in columns[1:])


def _figures(column: Sequence[_Cell | None]) -> bool:
    """Whether a column holds figures, but for its head."""
    body = [cell for cell in column[1:] if cell is not None]
    return len(body) > 1 and sum(bool(_FIGURE.fullmatch(cell.text)) for cell in body) >= MIN_FIGURES * len(body)


def _labels(column: Sequence[_Cell | None]) -> bool:
    """Whether a column holds the labels of a form."""
    cells = [cell for cell in column if cell is not None]
    return 2 * sum(cell.text.endswith(":") for cell in cells) > len(cells)


def _counts_up(column: Sequence[_Cell | None]) -> bool:
    """Whether a column holds page numbers, but for its head."""
    texts = [cell.text for cell in column[1:] if cell is not None]
    numbers = [int(text) for text in texts if _INTEGER.fullmatch(text)]
    rising = sum(one <= other for one, other in itertools.pairwise(numbers))
    return len(numbers) == len(texts) > 1 and rising >= RISING * (len(numbers) - 1)
