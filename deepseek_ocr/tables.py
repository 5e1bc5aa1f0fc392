"""HTML tables as models write them -> rows of cells -> clean HTML, or a pipe table.  Pure, linear, never raises.

What is told apart are the tags of tables alone; all else in a cell is its text.  Text between cells joins the one
before it, so nothing is lost; what is not closed ends where it must.  A table within a cell becomes text of that cell.

Left to others: formulas and escaping in a cell (`markdown.py`), what else of HTML may be in the text (`mending.py`).
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Wider or taller spans are none (HTML's own limit for colspan is 1000).
MAX_SPAN: Final = 100
#: Empty cells are added to rows up to so many times the cells there are, and to small tables in any case.
MAX_PADDING, _SMALL = 8, 1000
_EDGE = re.compile(r"<(/?)table\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)(table|thead|tbody|tfoot|caption|tr|td|th)\b([^<>]*)>", re.IGNORECASE)
#: A tag that breaks off at the end of the text.
_TORN = re.compile(r"</?(?:t(?:a(?:b(?:le?)?)?|r|d|h)?\b[^<>]*)?\Z", re.IGNORECASE)
_SPAN = re.compile(r"(col|row)span\s*=\s*[\"']?(\d{1,3})(?!\d)", re.IGNORECASE)
#: The row between the head of a pipe table and its body.
_DELIMITER_ROW = re.compile(r"[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)+[ \t]*(?::?-+:?[ \t]*)?")
_PIPE = re.compile(r"\\.|\|")


@dataclass(slots=True)
class Cell:
    """A cell of a table."""

    text: str = ""
    columns: int = 1
    rows: int = 1
    is_head: bool = False
    #: `text` as it is found.
    parts: list[str] = field(default_factory=list, repr=False, compare=False)


@dataclass(slots=True)
class Table:
    """Rows of cells, as they were written: spans are not resolved."""

    rows: list[list[Cell]] = field(default_factory=list)
    #: It has its `</table>`.
    is_closed: bool = False

    @property
    def is_simple(self) -> bool:
        """Whether no cell spans others, so that a pipe table can hold it."""
        return all(cell.columns == cell.rows == 1 for row in self.rows for cell in row)


def find_tables(text: str) -> list[tuple[int, int]]:
    """Start and end of each outermost table; one that is not closed ends with the text."""
    found, depth, begin = [], 0, 0
    for edge in _EDGE.finditer(text):
        if not edge[1]:
            begin = begin if depth else edge.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                found.append((begin, edge.end()))
    if depth:
        found += _unclosed(text, begin)
    return found


def _unclosed(text: str, begin: int) -> list[tuple[int, int]]:
    """The same where a `</table>` is missing: a table ends where the next one begins."""
    found, start = [], -1
    for edge in _EDGE.finditer(text, begin):
        if edge[1]:
            if start >= 0:
                found.append((start, edge.end()))
            start = -1
        else:
            if start >= 0:
                found.append((start, edge.start()))
            start = edge.start()
    if start >= 0:
        found.append((start, len(text)))
    return found


def parse_table(text: str) -> Table:
    """The first table in a text, and all that follows it there; entities in cells are resolved."""
    reading, at = _Reading(), 0
    for tag in _TAG.finditer(text):
        reading.add(text[at : tag.start()])
        reading.follow(tag)
        at = tag.end()
    rest = text[at:]
    table = reading.table
    reading.add(rest if table.is_closed else _TORN.sub("", rest))
    table.rows = [row for row in table.rows if row]
    for row in table.rows:
        for cell in row:
            cell.text = html.unescape(" ".join("".join(cell.parts).split()))
    return table


@dataclass(slots=True)
class _Reading:
    """A table as far as it is read."""

    table: Table = field(default_factory=Table)
    #: Tables that are open, this one counted.
    depth: int = 0
    cell: Cell | None = None
    is_row_open: bool = False

    def add(self, text: str) -> None:
        """Take what stands between two tags."""
        if self.cell is not None:
            self.cell.parts.append(text)
        elif text.strip():
            row = self._row()
            if not row:
                row.append(Cell())
            row[-1].parts += [" ", text]

    def follow(self, tag: re.Match[str]) -> None:
        """Take a tag."""
        is_end, name = bool(tag[1]), tag[2].lower()
        if name == "table":
            self.depth += -1 if is_end else 1
            self.table.is_closed |= is_end and self.depth <= 0
        if self.depth > 1 or (name == "table" and self.cell is not None and self.depth == 1):
            self.add(" ")
        elif name in {"td", "th"} and not is_end:
            self.cell = Cell(is_head=name == "th")
            for which, count in _SPAN.findall(tag[3]):
                if 0 < int(count) <= MAX_SPAN:
                    setattr(self.cell, "columns" if which.lower() == "col" else "rows", int(count))
            self._row().append(self.cell)
        else:
            self.cell = None
            if name == "tr":
                self.is_row_open = not is_end
                self.table.rows += [[]] if self.is_row_open else []

    def _row(self) -> list[Cell]:
        """The row that is open; a new one if none is."""
        if not self.is_row_open:
            self.table.rows.append([])
            self.is_row_open = True
        return self.table.rows[-1]


def to_html(table: Table, render: Callable[[str], str] = str) -> str:
    """Clean HTML, a line for each row: no tags but those of tables, no attributes but spans, all closed."""
    rows = ("".join(_html_cell(cell, render) for cell in row) for row in table.rows)
    return "\n".join(["<table>", *(f"<tr>{row}</tr>" for row in rows), "</table>"])


def _html_cell(cell: Cell, render: Callable[[str], str]) -> str:
    name = "th" if cell.is_head else "td"
    spans = "".join(
        f' {which}span="{count}"' for which, count in (("row", cell.rows), ("col", cell.columns)) if count > 1
    )
    return f"<{name}{spans}>{html.escape(render(cell.text), quote=False)}</{name}>"


def to_pipes(rows: Iterable[Sequence[str]]) -> str:
    """A pipe table of rows of Markdown, the first one its head; as wide as its widest row."""
    lines = [[_PIPE.sub(_escaped, " ".join(cell.split())) for cell in row] for row in rows]
    head, *body = _padded(lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def _padded(rows: list[list[str]]) -> list[list[str]]:
    """Rows as long as the longest; but for the first one they may stay shorter where too many cells would be added."""
    width, cells = max(map(len, rows)), sum(map(len, rows))
    count = len(rows) if width * len(rows) <= cells * MAX_PADDING + _SMALL else 1
    return [row + [""] * (width - len(row)) for row in rows[:count]] + rows[count:]


def _escaped(found: re.Match[str]) -> str:
    r"""A bar gets a backslash, also behind one: `\|` is what a reader of pipe tables sees as `|`."""
    return found[0].replace("|", r"\|")


def tidy_pipes(lines: list[str]) -> list[str]:
    """Lines of Markdown with each pipe table in them as wide as its widest row: cells beyond the head are not shown."""
    tidy: list[str] = []
    at = 0
    while at < len(lines):
        if end := _end_of_pipes(lines, at):
            head, marks, *body = (_split_row(line) for line in lines[at:end])
            head, *body = _padded([head, *body])
            marks += ["---"] * (len(head) - len(marks))
            if tidy and tidy[-1].strip():
                tidy.append("")
            tidy += ["| " + " | ".join(row) + " |" for row in (head, marks[: len(head)], *body)]
            if end < len(lines) and lines[end].strip():
                tidy.append("")
            at = end
        else:
            tidy.append(lines[at])
            at += 1
    return tidy


def _end_of_pipes(lines: list[str], at: int) -> int:
    """Where the pipe table that begins with a line ends; 0 if none begins there."""
    if at + 1 >= len(lines) or "|" not in lines[at] or not _DELIMITER_ROW.fullmatch(lines[at + 1]):
        return 0
    end = at + 2
    while end < len(lines) and "|" in lines[end]:
        end += 1
    return end


def pipes_to_html(text: str) -> str:
    """The text with each pipe table in it as HTML, entities in cells resolved."""
    lines = text.split("\n")
    parts: list[str] = []
    at = 0
    while at < len(lines):
        if end := _end_of_pipes(lines, at):
            head, _, *body = (_split_row(line) for line in lines[at:end])
            rows = [
                [Cell(html.unescape(cell.replace(r"\|", "|")), is_head=row is head) for cell in row]
                for row in (head, *body)
            ]
            parts.append(to_html(Table(rows, is_closed=True)))
            at = end
        else:
            parts.append(lines[at])
            at += 1
    return "\n".join(parts)


def _split_row(line: str) -> list[str]:
    """The cells of a line of a pipe table."""
    cells, at = [], 0
    for bar in _PIPE.finditer(line):
        if bar[0] == "|":
            cells.append(line[at : bar.start()].strip())
            at = bar.end()
    last = line[at:].strip()
    if last or not cells:
        cells.append(last)
    return cells[1:] if len(cells) > 1 and not cells[0] and line.lstrip().startswith("|") else cells
