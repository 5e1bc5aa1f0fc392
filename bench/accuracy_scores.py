"""How far a text, a table or an order is from the truth.  Pure.

Edit distance is Levenshtein's: the least number of units to insert, delete or replace, each at a cost of 1.
The *error rates* of a whole set divide by the truth: all edits of all pages / all units of all true pages, so that a
page counts by its length; they pass 1 where much was made up.  Units are characters (CER) or the words between white
space (WER).  The *normalized edit distance* of OmniDocBench divides by the longer of the two and stays within 0 to 1.

TEDS (tree edit distance based similarity, arXiv 1911.10683, section 4): 1 - distance of the trees / nodes of the
larger, where a node costs 1 to insert or delete, and to rename if tag or spans differ, else as much as the normalized
edit distance of the two cells' texts.  TEDS-S looks at empty cells, thus at the structure alone.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from apted import APTED, Config
from rapidfuzz.distance import Levenshtein

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from deepseek_ocr.tables import Table

_TYPEWRITER = str.maketrans("‘’‚“”„«»–—", '\'\'\'"""""--')  # noqa: RUF001 - what stands on paper
#: Tags within a cell: OmniDocBench takes out some of them, none says what stands in the cell.
_INLINE_TAG = re.compile(
    r"</?(?:a|b|br|div|em|font|i|math|p|small|span|strong|sub|sup|u)(?:\s[^<>]*)?/?>", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Errors:
    """Edits against a truth of so many units; those of several texts add up."""

    edits: int = 0
    units: int = 0

    def __add__(self, other: Errors) -> Errors:
        """Those of two texts."""
        return Errors(self.edits + other.edits, self.units + other.units)

    @property
    def rate(self) -> float:
        """Edits per unit of the truth; 0 where there is neither, infinite where all was made up."""
        if self.units:
            return self.edits / self.units
        return float("inf") if self.edits else 0.0


def comparable(text: str) -> str:
    """A text in composed letters (NFC) with single spaces: all that is forgiven to every reader."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def plain_quotes(text: str) -> str:
    """A text with the quotation marks, apostrophes and dashes of a typewriter, for a look beside the strict figure."""
    return text.translate(_TYPEWRITER)


def character_errors(read: str, truth: str) -> Errors:
    """Edits in characters, spaces counted, of two texts made comparable."""
    read, truth = comparable(read), comparable(truth)
    return Errors(Levenshtein.distance(read, truth), len(truth))


def word_errors(read: str, truth: str) -> Errors:
    """Edits in words, with the punctuation that hangs on them, of two texts made comparable."""
    words = comparable(truth).split()
    return Errors(Levenshtein.distance(comparable(read).split(), words), len(words))


def differences(read: str, truth: str) -> list[tuple[str, str]]:
    """What stands in the truth and what was read instead, for each stretch of words where they differ."""
    got, words = comparable(read).split(), comparable(truth).split()
    return [
        (" ".join(words[edit.src_start : edit.src_end]), " ".join(got[edit.dest_start : edit.dest_end]))
        for edit in Levenshtein.opcodes(words, got)
        if edit.tag != "equal"
    ]


def normalized_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Edit distance divided by the length of the longer: 0 for equals, 1 where nothing is shared."""
    return Levenshtein.distance(one, other) / (max(len(one), len(other)) or 1)


def substring_distance(part: str, text: str, limit: float) -> float:
    """The least normalized distance of `part` to any stretch of its length in `text`; 1 where none is below `limit`."""
    size = len(part)
    if not size or len(text) < size:
        return 1.0
    best = int(limit * size) + 1
    for start in range(len(text) - size + 1):
        best = min(best, Levenshtein.distance(part, text[start : start + size], score_cutoff=best - 1))
        if not best:
            break
    return best / size if best / size < limit else 1.0


def assign(costs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Row and column of each pair such that their sum is least, each row and column at most once (Hungarian method).

    Shortest augmenting paths with potentials, O(n^2 m): SciPy has the same, and would weigh more than all else here.
    """
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assign(costs.T))
    rows, columns = costs.shape
    of_row, of_column = np.zeros(rows), np.zeros(columns)
    taken = np.full(columns, -1)
    for start in range(rows):
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        row, at, column, far = start, -1, -1, 0.0
        while True:
            reduced = far + costs[row] - of_row[row] - of_column
            closer = ~done & (reduced < distance)
            distance[closer], before[closer] = reduced[closer], at
            column = int(np.where(done, np.inf, distance).argmin())
            far, at = distance[column], column
            if taken[column] < 0:
                break
            done[column] = True
            row = int(taken[column])
        of_row[start] += far
        of_row[taken[done]] += far - distance[done]
        of_column[done] -= far - distance[done]
        while column >= 0:  # each row on the path takes the column after it
            previous = int(before[column])
            taken[column] = start if previous < 0 else taken[previous]
            column = previous
    return sorted((int(row), column) for column, row in enumerate(taken) if row >= 0)


@dataclass(slots=True)
class Node:
    """A node of a table's tree: the table, a row or a cell."""

    tag: str
    columns: int = 1
    rows: int = 1
    text: str = ""
    children: list[Node] = field(default_factory=list)


class _Costs(Config):  # type: ignore[misc]  # no type information in apted
    """What TEDS asks of a tree edit distance."""

    def rename(self, node1: Node, node2: Node) -> float:
        """As much as two nodes differ, 0 to 1."""
        if (node1.tag, node1.columns, node1.rows) != (node2.tag, node2.columns, node2.rows):
            return 1.0
        return normalized_distance(node1.text, node2.text)


def cell_text(text: str) -> str:
    """The text of a cell without tags, in compatible letters (NFKC) with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", _INLINE_TAG.sub("", text)).split())


def table_tree(table: Table, *, structure_only: bool = False) -> Node:
    """A table as TEDS sees it: heads are rows like others, and `th` is `td`."""
    return Node(
        "table",
        children=[
            Node("tr", children=[
                Node("td", cell.columns, cell.rows, "" if structure_only else cell_text(cell.text)) for cell in row
            ])
            for row in table.rows
        ],
    )  # fmt: skip


def teds(read: Table, truth: Table, *, structure_only: bool = False) -> float:
    """At most 1, more is better; 0 where either has no row, and below 0 only for trees of quite other shapes."""
    if not read.rows or not truth.rows:
        return 0.0
    trees = [table_tree(table, structure_only=structure_only) for table in (read, truth)]
    nodes = max(sum(1 + len(row.children) for row in tree.children) for tree in trees)
    distance: float = APTED(*trees, _Costs()).compute_edit_distance()
    return 1.0 - distance / nodes
