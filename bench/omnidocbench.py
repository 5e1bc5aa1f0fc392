"""Folders in the format of OmniDocBench (page pictures and OmniDocBench.json), and what Markdown scores on them.

The figures are those of the paper's table (arXiv 2412.07626; OmniDocBench 1.0, "end2end" with quick match): normalized
edit distance of text, formulas and tables, of the order in which text blocks were read, their mean as "overall", and
TEDS and TEDS-S of tables.  A page's text, formula or table figure is all its edits / all the longer lengths of its
pairs, its TEDS the mean of its tables; a group's figure is the mean of its pages that have such a thing.  Text that
no true block is like costs nothing; headers, footers, page numbers, captions and footnotes are matched and not counted.

What differs from the official scorer, besides the matching (`omnidocbench_match.py`):
- formulas within text become letters by a short table (Greek by name, other commands vanish), not by pylatexenc;
- tables are parsed by `deepseek_ocr.tables`, where a cell's inner tags vanish instead of counting as tokens and nodes;
  a pipe table needs its row of dashes; LaTeX tables count as text, and a true table without HTML as absent;
- what is marked `ignore` is left out; a true block with `order` 0 counts in the order, one without an order does not;
- a page without a prediction counts as one on which nothing was read, instead of being left out;
- formulas are compared as written (no CDM, which needs a TeX installation).
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rapidfuzz.distance import Levenshtein

from bench.accuracy_scores import Errors, assign, cell_text, normalized_distance, teds
from bench.omnidocbench_match import formula_key, match, text_key
from deepseek_ocr.document import Document
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.tables import Cell, Table, find_tables, parse_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

TRUTH_NAME: Final = "OmniDocBench.json"
#: Matched and not counted.
UNCOUNTED: Final = frozenset(
    {
        "figure_caption", "figure_footnote", "table_caption", "table_footnote", "code_algorithm",
        "code_algorithm_caption", "header", "footer", "page_footnote", "page_number", "equation_caption",
    }
)  # fmt: skip
TEXTS: Final = UNCOUNTED | {"text_block", "title", "code_txt", "code_txt_caption", "reference"}
#: The pages' own word -> the column of the paper.
LANGUAGES: Final = {"english": "EN", "en": "EN", "simplified_chinese": "ZH"}
#: The columns of the paper for each language, the first one the mean of the others; less is better.
DISTANCES: Final = ("overall", "text", "formula", "table", "order")

_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"^```\w*[ \t]*$", re.MULTILINE)
_DISPLAY = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$])\$([^$\n]+)\$|\\\((.+?)\\\)")
_PIPES = re.compile(r"^[ \t]*\|.*\n[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)+.*(?:\n[ \t]*\|.*)*", re.MULTILINE)
_BAR = re.compile(r"(?<!\\)\|")
_BLANK_LINE = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Element:
    """A block of the truth: its text, LaTeX or HTML."""

    category: str
    text: str
    #: Place in the order of reading; None where it has none.
    order: float | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """A page of the truth."""

    #: Path of its picture, in the folder's images/ or in the folder.
    image: str
    #: EN, ZH or, for other languages and mixtures, empty.
    language: str
    elements: tuple[Element, ...]

    def of(self, categories: Iterable[str]) -> list[Element]:
        """The blocks of these categories, in order of reading."""
        wanted = set(categories)
        chosen = [element for element in self.elements if element.category in wanted]
        return sorted(chosen, key=lambda element: element.order or 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a page's Markdown holds, each in its order; formulas also those within text."""

    texts: tuple[str, ...]
    formulas: tuple[str, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of a page; None where the truth has nothing of the kind."""

    image: str
    language: str
    text: float | None = None
    formula: float | None = None
    table: float | None = None
    order: float | None = None
    teds: float | None = None
    teds_s: float | None = None


def load_truth(folder: Path) -> list[Truth]:
    """The pages of a folder."""
    return [_page(page) for page in json.loads((folder / TRUTH_NAME).read_text(encoding="utf-8"))]


def _page(page: dict[str, Any]) -> Truth:
    blocks = {number: block for number, block in enumerate(page["layout_dets"]) if not block.get("ignore")}
    by_id = {block["anno_id"]: number for number, block in blocks.items() if "anno_id" in block}
    # A paragraph that runs on in the next column is one: whatever is linked is joined.
    joined = {number: {number} for number in blocks}
    for relation in page.get("extra", {}).get("relation", ()):
        ends = [by_id.get(relation.get(end)) for end in ("source_anno_id", "target_anno_id")]
        if relation.get("relation_type") == "truncated" and None not in ends:
            group = set().union(*(joined[end] for end in ends if end is not None))
            joined |= dict.fromkeys(group, group)
    groups = {min(group): group for group in joined.values()}
    elements = [_element([blocks[number] for number in sorted(group)]) for group in groups.values()]
    info = page["page_info"]
    language = LANGUAGES.get(info.get("page_attribute", {}).get("language", ""), "")
    return Truth(info["image_path"], language, tuple(elements))


def _element(blocks: list[dict[str, Any]]) -> Element:
    blocks = sorted(blocks, key=lambda block: block.get("order") or 0)
    first = blocks[0]
    field = {"table": "html", "equation_isolated": "latex"}.get(first["category_type"], "text")
    text = "".join(block.get(field) or "" for block in blocks)
    return Element(first["category_type"], text, first.get("order"))


def picture_of(folder: Path, truth: Truth) -> Path:
    """The picture of a page."""
    inside = folder / "images" / truth.image
    return inside if inside.exists() else folder / truth.image


def prediction(folder: Path, image: str) -> str | None:
    """What somebody's folder has for a picture: Markdown, or DocJSON; None where it has nothing."""
    name = image.rpartition("/")[2]
    stem = name.rpartition(".")[0]
    for base in (stem, name):
        if (path := folder / f"{base}.md").is_file():
            return path.read_text(encoding="utf-8")
        if (path := folder / f"{base}.json").is_file():
            pages = Document.model_validate_json(path.read_text(encoding="utf-8")).pages
            return "\n\n".join(map(page_markdown, pages))
    return None


def parse_markdown(text: str) -> Reading:
    """The blocks of a page's Markdown."""
    tables: list[tuple[int, Table]] = []

    def cut(start: int, end: int) -> None:
        nonlocal text
        # As long as it was, so that places stay, and empty lines around it, as it parts the text.
        text = text[:start] + "\n\n".ljust(end - start, "\n") + text[end:]

    text = _FENCE.sub("", _COMMENT.sub("", _IMAGE.sub("", text)))
    for start, end in find_tables(text):
        tables.append((start, parse_table(text[start:end])))
        cut(start, end)
    for found in list(_PIPES.finditer(text)):
        tables.append((found.start(), _pipe_table(found[0])))
        cut(*found.span())
    formulas: list[tuple[int, str]] = []
    for found in list(_DISPLAY.finditer(text)):
        formulas.append((found.start(), found[1] or found[2]))
        cut(*found.span())
    formulas += [(found.start(), found[1] or found[2]) for found in _INLINE.finditer(text)]
    blocks = [block for block in _BLANK_LINE.split(text) if block.strip()]
    if len(blocks) == 1:  # some write no empty lines
        blocks = [line for line in text.splitlines() if line.strip()]
    return Reading(
        tuple(blocks),
        tuple(formula for _, formula in sorted(formulas)),
        tuple(table for _, table in sorted(tables, key=lambda placed: placed[0])),
    )


def _pipe_table(text: str) -> Table:
    head, _, *body = text.strip().splitlines()
    rows = [_BAR.split(line.strip().removeprefix("|").removesuffix("|")) for line in (head, *body)]
    return Table([[Cell(cell.strip().replace("\\|", "|")) for cell in row] for row in rows], is_closed=True)


def score_page(truth: Truth, markdown: str) -> Score:
    """The figures of a page that was read as this."""
    reading = parse_markdown(markdown)
    texts = truth.of(TEXTS)
    text, order = _score_text(texts, reading.texts)
    formulas = truth.of({"equation_isolated"})
    table, similar, structure = _score_tables(
        [parse_table(element.text) for element in truth.of({"table"})], reading.tables
    )
    return Score(
        truth.image, truth.language, text=text, order=order, table=table, teds=similar, teds_s=structure,
        formula=_score_formulas([formula_key(element.text) for element in formulas], reading.formulas),
    )  # fmt: skip


def _score_text(truth: list[Element], read: Sequence[str]) -> tuple[float | None, float | None]:
    """Distance of the text, and of its order."""
    true_keys, read_keys = [text_key(element.text) for element in truth], [text_key(block) for block in read]
    counted = [
        one
        for one in match(true_keys, read_keys)
        if any(truth[number].category not in UNCOUNTED for number in one.truth)
    ]
    errors = Errors()
    for one in counted:
        errors += _errors([true_keys[i] for i in one.truth], [read_keys[i] for i in one.read])
    in_order = sorted((one for one in counted if one.read), key=lambda one: one.read)
    found = [order for one in in_order for i in one.truth if (order := truth[i].order) is not None]
    orders = sorted(order for one in counted for i in one.truth if (order := truth[i].order) is not None)
    return errors.rate if counted else None, normalized_distance(orders, found) if orders else None


def _score_formulas(truth: list[str], read: Sequence[str]) -> float | None:
    keys = [formula_key(formula) for formula in read]
    errors = Errors()
    for one in match(truth, keys):
        errors += _errors([truth[i] for i in one.truth], [keys[i] for i in one.read])
    return errors.rate if any(truth) else None


def _errors(truth: Iterable[str], read: Iterable[str]) -> Errors:
    """Edits of a pair against the longer of the two."""
    one, other = "".join(truth), "".join(read)
    return Errors(Levenshtein.distance(one, other), max(len(one), len(other)))


def _score_tables(truth: list[Table], read: Sequence[Table]) -> tuple[float | None, float | None, float | None]:
    """Distance, TEDS and TEDS-S."""
    truth = [table for table in truth if table.rows]
    if not truth:
        return None, None, None
    true_keys, read_keys = [table_key(table) for table in truth], [table_key(table) for table in read]
    costs = np.array([[normalized_distance(one, other) for other in read_keys] for one in true_keys], np.float64)
    pairs = dict(assign(costs)) if read else {}
    errors, similar, structure = Errors(), [], []
    for number, table in enumerate(truth):
        found = read[pairs[number]] if number in pairs else Table()
        errors += _errors([true_keys[number]], [table_key(found)])
        similar.append(teds(found, table))
        structure.append(teds(found, table, structure_only=True))
    return errors.rate, statistics.fmean(similar), statistics.fmean(structure)


def table_key(table: Table) -> str:
    """The HTML that the official scorer compares, its frame included; empty for no table."""
    if not table.rows:
        return ""
    rows = ("".join(_cell_key(cell) for cell in row) for row in table.rows)
    inside = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<html><body><table border="1" >{inside}</table></body></html>'


def _cell_key(cell: Cell) -> str:
    spans = (("rowspan", cell.rows), ("colspan", cell.columns))
    attributes = "".join(f' {name}="{count}"' for name, count in spans if count > 1)
    return f"<td{attributes}>{cell_text(cell.text)}</td>"


def mean(scores: Iterable[Score], column: str) -> float | None:
    """A group's figure; None where no page has such a thing.  "overall" is the mean of the distances there are."""
    scores = list(scores)
    if column == "overall":
        values = [mean(scores, name) for name in DISTANCES[1:]]
    else:
        values = [getattr(score, column) for score in scores]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def report(scores: Sequence[Score], name: str) -> str:
    """The row of the paper's table (English, then Chinese), and below it every group with its TEDS and pages."""
    groups = {
        "EN": [score for score in scores if score.language == "EN"],
        "ZH": [score for score in scores if score.language == "ZH"],
        "all": list(scores),
    }
    columns = [(language, column) for language in ("EN", "ZH") for column in DISTANCES]
    lines = [
        "Normalized edit distance, less is better; - = no page has such a thing.",
        "| | " + " | ".join(f"{language} {column}" for language, column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        f"| {name} | " + " | ".join(_figure(mean(groups[language], column)) for language, column in columns) + " |",
        "",
        "TEDS and TEDS-S, more is better.",
        "| pages | " + " | ".join((*DISTANCES, "TEDS", "TEDS-S", "pages")) + " |",
        "|---" * (len(DISTANCES) + 4) + "|",
    ]
    for group, members in groups.items():
        figures = [_figure(mean(members, column)) for column in (*DISTANCES, "teds", "teds_s")]
        lines.append(f"| {group} | " + " | ".join((*figures, str(len(members)))) + " |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
