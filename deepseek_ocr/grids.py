"""Rules of a page and its pieces of text -> tables as they were ruled.  Pure.

Rules that touch make a grid; where a stretch of rule between two cells is missing, they are one cell that spans both.
A grid is a table if text stands in it as in one: frames, rules between columns, charts and drawings are none, and what
stands in them goes on as it is.

Left to others: finding the rules (`ruling.py` in a picture, `pages_pdf.py` in a PDF), the text of a cell (`layout.py`).
Residual risks: a form that is ruled like a table becomes one; cells told apart by their colours alone are not seen.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.columns import Piece

# Lengths below are in units of the usual letter size, unless they say otherwise.

#: Rules closer than this are one, drawn double or crooked.
NEAR = 0.3
#: Between two ends of a rule, or from its end to the rule that it meets.
GAP = 0.6
#: A rule is longer; shorter ones are dashes and parts of letters.
MIN_RULE = 0.8
#: Share of the side of a cell that a rule covers.
MIN_COVER = 0.6
#: A page with more rules is a drawing, as is what has more of them, or more cells, when they are joined.
MAX_RULES = 10_000
MAX_JOINED, MAX_CELLS = 500, 2000
#: Cells that have text, and rows and columns that have such cells, at least.
MIN_FILLED, MIN_LINES = 3, 2
#: Share of the cells that have text, where neither the first row nor the first column are filled; a chart has fewer.
MIN_FILLED_SHARE = 0.25
HEAD_SHARE = 0.8
#: Letters in a cell on average; what has more is prose in frames.
MAX_MEAN_LETTERS = 200
#: Share of the grid whose cells are not rectangles; drawings have more, a rule that is faded here and there less.
MAX_ODD_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Slot:
    """A cell: what stands in it and how many rows and columns it spans."""

    pieces: tuple[Piece, ...]
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True, slots=True)
class TableFound:
    """A table with its place, in units of the page height."""

    left: float
    top: float
    right: float
    bottom: float
    rows: tuple[tuple[Slot, ...], ...]

    @property
    def pieces(self) -> list[Piece]:
        """All that stands in it, cell by cell."""
        return [piece for row in self.rows for slot in row for piece in slot.pieces]


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line, level or upright, in units of the page height: where it runs, and from where to where."""

    is_level: bool
    at: float
    start: float
    end: float


def ruled_tables(pieces: Sequence[Piece], rules: Sequence[Rule]) -> tuple[list[TableFound], list[Piece]]:
    """The tables that the rules make, from top to bottom, and the pieces that are in none of them."""
    free = list(pieces)
    if not free or not 4 <= len(rules) <= MAX_RULES:  # noqa: PLR2004 - the rules of two cells
        return [], free
    letter = statistics.median(piece.size for piece in free)
    found = []
    # Small ones first: a frame around all of them is what is left.
    for grid in sorted(_grids(joined_rules(rules, letter), letter), key=lambda grid: grid.area):
        table, rest = _table(grid, free)
        if table is not None:
            found.append(table)
            free = rest
    return sorted(found, key=lambda table: (table.top, table.left)), free


def joined_rules(rules: Sequence[Rule], letter: float) -> list[Rule]:
    """The rules without their doubles and without small gaps; those that are too short left out."""
    joined: list[Rule] = []
    for is_level in (True, False):
        same = sorted((rule for rule in rules if rule.is_level == is_level), key=lambda rule: rule.at)
        for group in _near([rule.at for rule in same], NEAR * letter):
            at = statistics.fmean(rule.at for rule in same[group])
            first, *others = sorted(same[group], key=lambda rule: rule.start)
            start, end = first.start, first.end
            for rule in others:
                if rule.start > end + GAP * letter:
                    joined.append(Rule(is_level, at, start, end))
                    start = rule.start
                end = max(end, rule.end)
            joined.append(Rule(is_level, at, start, end))
    return [rule for rule in joined if rule.end - rule.start > MIN_RULE * letter]


def _near(ordered: Sequence[float], distance: float) -> list[slice]:
    """Ordered values in groups that reach no farther than this."""
    groups, first = [], 0
    for index, value in enumerate(ordered):
        if value - ordered[first] > distance:
            groups.append(slice(first, index))
            first = index
    return [*groups, slice(first, len(ordered))] if ordered else []


# Grids


#: (row, column, end row, end column) of a cell, the ends not counted.
_Cell = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Edges of rows and columns, and which row and column each cell begins and ends in."""

    ys: list[float]
    xs: list[float]
    cells: list[_Cell]
    #: The cell at each row and column.
    owners: list[list[int]]

    @property
    def area(self) -> float:
        return (self.xs[-1] - self.xs[0]) * (self.ys[-1] - self.ys[0])


def _grids(rules: list[Rule], letter: float) -> list[_Grid]:
    """What rules that touch each other make."""
    level = [rule for rule in rules if rule.is_level]
    upright = [rule for rule in rules if not rule.is_level]
    heights = [rule.at for rule in level]
    parent = list(range(len(rules)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    slack = GAP * letter
    for index, rule in enumerate(upright, len(level)):
        for other in range(bisect_left(heights, rule.start - slack), bisect_right(heights, rule.end + slack)):
            if level[other].start - slack <= rule.at <= level[other].end + slack:
                parent[root(index)] = root(other)
    groups: dict[int, list[Rule]] = {}
    for index, rule in enumerate([*level, *upright]):
        groups.setdefault(root(index), []).append(rule)
    grids = [_grid(group, letter) for group in groups.values() if 2 < len(group) <= MAX_JOINED]  # noqa: PLR2004
    return [grid for grid in grids if grid is not None]


def _grid(rules: list[Rule], letter: float) -> _Grid | None:
    """The cells between rules that touch; None where they are no table."""
    level = [rule for rule in rules if rule.is_level]
    upright = [rule for rule in rules if not rule.is_level]
    ys, xs = _edges(level, upright, letter), _edges(upright, level, letter)
    rows, columns = len(ys) - 1, len(xs) - 1
    if rows < MIN_LINES or columns < MIN_LINES or rows * columns > MAX_CELLS:
        return None
    parent = list(range(rows * columns))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    def join(one: int, other: int) -> None:
        one, other = sorted((root(one), root(other)))
        parent[other] = one

    for row in range(rows):
        for column in range(columns):
            here = row * columns + column
            if column and not _covers(upright, xs[column], ys[row], ys[row + 1], letter):
                join(here, here - 1)
            if row and not _covers(level, ys[row], xs[column], xs[column + 1], letter):
                join(here, here - columns)
    groups: dict[int, list[tuple[int, int]]] = {}
    for here in range(rows * columns):
        groups.setdefault(root(here), []).append(divmod(here, columns))
    return _with_cells(ys, xs, list(groups.values()))


def _edges(rules: list[Rule], across: list[Rule], letter: float) -> list[float]:
    """Where cells end: at the rules, and where most of those across stick out, as tables often lack their frame."""
    ordered = sorted(rule.at for rule in rules)
    edges = [statistics.fmean(ordered[group]) for group in _near(ordered, NEAR * letter)]
    if not edges or not across:
        return edges
    start, end = statistics.median(rule.start for rule in across), statistics.median(rule.end for rule in across)
    before = [start] if start < edges[0] - letter else []
    return before + edges + ([end] if end > edges[-1] + letter else [])


def _covers(rules: list[Rule], at: float, start: float, end: float, letter: float) -> bool:
    """Whether there is a rule along most of this side of a cell."""
    covered = sum(
        max(0.0, min(end, rule.end) - max(start, rule.start)) for rule in rules if abs(rule.at - at) <= NEAR * letter
    )
    return covered >= MIN_COVER * (end - start)


def _with_cells(ys: list[float], xs: list[float], groups: list[list[tuple[int, int]]]) -> _Grid | None:
    """The grid with cells of these parts; those that make no rectangle stay apart, unless they are too many."""
    cells, odd = [], 0.0
    for group in groups:
        ends = [(row + 1, column + 1) for row, column in group]
        (top, left), (bottom, right) = group[0], ends[-1]
        left, right = min(column for _, column in group), max(column for _, column in ends)
        if len(group) == (bottom - top) * (right - left):
            cells.append((top, left, bottom, right))
            continue
        cells += [(row, column, row + 1, column + 1) for row, column in group]
        odd += sum((ys[row + 1] - ys[row]) * (xs[column + 1] - xs[column]) for row, column in group)
    cells.sort()
    owners = [[0] * (len(xs) - 1) for _ in ys[1:]]
    for index, (top, left, bottom, right) in enumerate(cells):
        for row in range(top, bottom):
            owners[row][left:right] = [index] * (right - left)
    grid = _Grid(ys, xs, cells, owners)
    return grid if odd <= MAX_ODD_SHARE * grid.area else None


# Tables


def _table(grid: _Grid, pieces: list[Piece]) -> tuple[TableFound | None, list[Piece]]:
    """The grid with what stands in its cells, and all that stands elsewhere; None where it is no table."""
    inside: list[list[Piece]] = [[] for _ in grid.cells]
    free = []
    for piece in pieces:
        row = bisect_right(grid.ys, piece.middle) - 1
        column = bisect_right(grid.xs, (piece.left + piece.right) / 2) - 1
        if 0 <= row < len(grid.ys) - 1 and 0 <= column < len(grid.xs) - 1:
            inside[grid.owners[row][column]].append(piece)
        else:
            free.append(piece)
    if not _is_table(grid, inside):
        return None, pieces
    parts = [part for cell, held in zip(grid.cells, inside, strict=True) for part in _parted(grid, cell, held)]
    rows: list[list[Slot]] = [[] for _ in grid.ys[1:]]
    for (top, left, bottom, right), held in sorted(parts, key=lambda part: part[0]):
        rows[top].append(Slot(tuple(held), bottom - top, right - left))
    edges = grid.xs[0], grid.ys[0], grid.xs[-1], grid.ys[-1]
    return TableFound(*edges, tuple(map(tuple, rows))), free


def _parted(grid: _Grid, cell: _Cell, held: list[Piece]) -> list[tuple[_Cell, list[Piece]]]:
    """A cell with what stands in it; cell by cell if each column of each row has its own, as the rules were faint."""
    top, left, bottom, right = cell
    apart: dict[tuple[int, int], list[Piece]] = {}
    for piece in held:
        place = bisect_right(grid.ys, piece.middle) - 1, bisect_right(grid.xs, piece.left) - 1
        if piece.right > grid.xs[min(place[1] + 1, right)]:
            return [(cell, held)]
        apart.setdefault(place, []).append(piece)
    squares = [(row, column) for row in range(top, bottom) for column in range(left, right)]
    if right - left == 1 or set(apart) != set(squares):
        return [(cell, held)]
    return [((row, column, row + 1, column + 1), apart[row, column]) for row, column in squares]


def _is_table(grid: _Grid, inside: list[list[Piece]]) -> bool:
    filled = [cell for cell, held in zip(grid.cells, inside, strict=True) if held]
    if len(filled) < MIN_FILLED:
        return False
    if min(len({top for top, _, _, _ in filled}), len({left for _, left, _, _ in filled})) < MIN_LINES:
        return False
    letters = sum(len(piece.text) for held in inside for piece in held)
    if letters > MAX_MEAN_LETTERS * len(filled):
        return False
    heads = [cell for cell in grid.cells if cell[0] == 0], [cell for cell in grid.cells if cell[1] == 0]
    return len(filled) >= MIN_FILLED_SHARE * len(grid.cells) or any(
        sum(cell in filled for cell in head) >= HEAD_SHARE * len(head) for head in heads
    )
