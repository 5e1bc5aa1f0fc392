"""DocJSON -> DoclingDocument: docling-core reads what is written, and finds all that we know in its own fields."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from docling_core.types.doc import BoundingBox, DoclingDocument
from hypothesis import given

from daemon.outputs import finish_document, write_document
from deepseek_ocr.docling import docling_json, export_docling
from deepseek_ocr.docling_items import converted
from deepseek_ocr.document import Block, Document, DocumentHead, DocumentTail
from tests.written_documents import DOCUMENTS, PATHS, TABLE, block, document, page, real_documents, text_of, words

if TYPE_CHECKING:
    from pathlib import Path


def read(written: Document) -> DoclingDocument:
    """As docling-core reads what is written."""
    return DoclingDocument.model_validate_json(docling_json(written))


def read_blocks(*blocks: Block) -> DoclingDocument:
    """A page of blocks on the way through."""
    return read(document(page(*blocks)))


def shape(result: DoclingDocument) -> list[tuple[str, str]]:
    """Label and text of what stands in the document, in order."""
    return [(str(getattr(item, "label", "")), getattr(item, "text", "")) for item, _ in result.iterate_items()]


#: Block -> label and text of the items it becomes.
ITEMS: dict[str, tuple[Block, list[tuple[str, str]]]] = {
    "a text": (block(1, "text", "one\ntwo"), [("text", "one\ntwo")]),
    "a text without letters": (block(1, "text", " \n"), []),
    "a title": (block(1, "heading", "Tides", level=1), [("title", "Tides")]),
    "a heading": (block(1, "heading", "Sea\nand \\(x_1\\)", level=2), [("section_header", "Sea and $x_1$")]),
    "letter by letter": (block(1, "text", "\\(x\\)", markup=False), [("text", "\\(x\\)")]),
    "a formula": (block(1, "formula", "\\[x + 1\\]"), [("formula", "x + 1")]),
    "with dollar signs": (block(1, "formula", "$$x + 1$$"), [("formula", "x + 1")]),
    "without delimiters": (block(1, "formula", "x + 1"), [("formula", "x + 1")]),
    "a formula that was not read as one": (block(1, "formula", "x + 1", markup=False), [("text", "x + 1")]),
    "a numbered formula": (block(1, "formula", "\\[x\\] (1)"), [("formula", "x"), ("text", "(1)")]),
    "formulas in a text": (
        block(1, "text", "Let \\(x\\) be"), [("text", "Let"), ("formula", "x"), ("text", "be")],
    ),
    "a formula between texts": (
        block(1, "text", "Let\n\\[x\\]\nbe"), [("text", "Let"), ("formula", "x"), ("text", "be")],
    ),
    "a caption of nothing": (block(1, "caption", "Figure 1"), [("caption", "Figure 1")]),
    "a table": (block(1, "table", TABLE), [("table", "")]),
    "a table that is none": (block(1, "table", "a 1\nb 2"), [("text", "a 1\nb 2")]),
    "a table without cells": (block(1, "table", "<table></table>"), [("table", "")]),
    "an empty table": (block(1, "table"), [("table", "")]),
    "a text in a picture": (block(1, "figure", "12 m"), [("picture", ""), ("text", "12 m")]),
    "data that is no table": (block(1, "chart", data="May: 12"), [("picture", ""), ("text", "May: 12")]),
}  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), ITEMS.values(), ids=ITEMS)
def test_each_block_becomes_what_docling_has_for_it(written: Block, expected: list[tuple[str, str]]) -> None:
    """Label and text of every kind of block."""
    assert shape(read_blocks(written)) == expected


def test_levels_of_headings() -> None:
    """Docling counts from the one below the title, so that its Markdown has as many number signs as ours."""
    result = read_blocks(*(block(level, "heading", f"h{level}", level=level) for level in range(1, 7)))
    assert [line for line in result.export_to_markdown().split("\n") if line] == [
        f"{'#' * level} h{level}" for level in range(1, 7)
    ]


def test_formulas_within_a_text_stand_on_its_line() -> None:
    """They are one paragraph, and a display formula is one of its own."""
    result = read_blocks(block(1, "text", "Let \\(x_1\\) be\n\\[y_2\\]"))
    assert result.export_to_markdown() == "Let $x_1$ be\n\n$$y_2$$"


def test_where_things_stand() -> None:
    """Boxes are in the page's unit from its top left corner, within it; without one it is the whole page."""
    result = read_blocks(
        block(1, "text", "four"), block(2, "text", "x", box=(-5, 500, 300, 7)), block(3, "text", "x", box=None)
    )
    places = [item.prov[0] for item in result.texts]
    assert [(place.page_no, sides(place.bbox)) for place in places] == [
        (1, (10, 20, 110, 40)), (1, (0, 7, 200, 400)), (1, (0, 0, 200, 400)),
    ]  # fmt: skip
    assert places[0].bbox.coord_origin.value == "TOPLEFT"
    assert places[0].charspan == (0, 4)
    assert (result.pages[1].size.width, result.pages[1].size.height) == (200, 400)


def sides(box: BoundingBox) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    return box.l, box.t, box.r, box.b


SPANS = (
    '<table><tr><th rowspan="2">Port</th><th colspan="2">Ships</th></tr><tr><th>in</th><th>out</th></tr>'
    '<tr><th>Ystad</th><td rowspan="9">\\(1_a\\)</td><td>2 &amp; 3</td></tr></table>'
)


def test_the_cells_of_a_table() -> None:
    """Spans are resolved as a browser does, the head is told from the body, formulas are in dollar signs."""
    (table,) = read_blocks(block(1, "table", SPANS)).tables
    assert [[cell.text for cell in row] for row in table.data.grid] == [
        ["Port", "Ships", "Ships"], ["Port", "in", "out"], ["Ystad", "$1_a$", "2 & 3"],
    ]  # fmt: skip
    cells = {cell.text: cell for cell in table.data.table_cells}
    assert (cells["Port"].row_span, cells["Ships"].col_span, cells["$1_a$"].row_span) == (2, 2, 1)
    assert [text for text, cell in cells.items() if cell.column_header] == ["Port", "Ships", "in", "out"]
    assert [text for text, cell in cells.items() if cell.row_header] == ["Ystad"]


def test_the_first_row_is_the_head_of_a_table_without_one() -> None:
    """As in Markdown; a table of one row has none, or it would have no body."""
    one, two = "<table><tr><td>a</td></tr>", "<tr><td>b</td></tr></table>"
    tables = read_blocks(block(1, "table", one + two), block(2, "table", one)).tables
    assert [[cell.column_header for cell in table.data.table_cells] for table in tables] == [[True, False], [False]]


def test_a_cell_beside_a_span_from_above_covers_nothing() -> None:
    """A wide cell that has no room between spans stands behind them, so that all text is seen."""
    text = '<table><tr><td>a</td><td rowspan="2">b</td></tr><tr><td colspan="2">c</td></tr></table>'
    (table,) = read_blocks(block(1, "table", text)).tables
    assert [[cell.text for cell in row] for row in table.data.grid] == [["a", "b", "", ""], ["", "b", "c", "c"]]


def test_captions_are_linked() -> None:
    """They are children of what they belong to wherever they stand, and Markdown shows them there, once."""
    result = read_blocks(
        block(1, "caption", "Table 1", caption_of="p1b2"),
        block(2, "table", TABLE, captions=("p1b1", "p1b4")),
        block(3, "text", "Later"),
        block(4, "caption", "in port", caption_of="p1b2", label="table_footnote"),
        block(5, "figure", captions=("p1b6",)),
        block(6, "caption", "Figure 1", caption_of="p1b5"),
    )
    (table,), (picture,) = result.tables, result.pictures
    assert (table.caption_text(result), picture.caption_text(result)) == ("Table 1", "Figure 1")
    assert [ref.resolve(result).text for ref in table.references] == ["in port"]
    shown = [line for line in result.export_to_markdown().split("\n") if line and "|" not in line]
    assert shown == ["Table 1", "in port", "Later", "Figure 1", "<!-- image -->"]


def test_a_caption_of_a_table_that_is_text_stays() -> None:
    """With nothing to be linked to it is a caption of its own."""
    result = read_blocks(block(1, "table", "a 1"), block(2, "caption", "Table 1", caption_of="p1b1"))
    assert shape(result) == [("text", "a 1"), ("caption", "Table 1")]


def test_pictures() -> None:
    """A chart is one by its class, with its data as a table; the picture itself is named, never embedded."""
    (chart,) = read_blocks(
        block(1, "chart", image="p1b1.jpg", description="Ships in May.", data=f"Read: {TABLE}")
    ).pictures
    assert chart.meta
    assert chart.meta.description
    assert (chart.meta.description.text, chart.meta.description.created_by) == ("Ships in May.", "a model")
    assert chart.meta.classification
    assert [found.class_name for found in chart.meta.classification.predictions] == ["other_chart"]
    assert chart.meta.tabular_chart
    assert chart.meta.tabular_chart.chart_data.grid[-1][1].text == "12"
    assert chart.image
    assert (str(chart.image.uri), chart.image.mimetype) == ("harbour.pdf.images/p1b1.jpg", "image/jpeg")
    assert (chart.image.size.width, chart.image.size.height) == (100, 20)
    (figure,) = read_blocks(block(1, "figure")).pictures
    assert (figure.meta, figure.image) == (None, None)


def test_a_picture_of_a_table() -> None:
    """A table has its picture and its description too."""
    (table,) = read_blocks(block(1, "table", TABLE, image="a.png", description="Ships")).tables
    assert table.image
    assert str(table.image.uri) == "harbour.pdf.images/a.png"
    assert table.meta
    assert table.meta.description
    assert table.meta.description.text == "Ships"


def test_what_is_known_of_the_document() -> None:
    """Its name, summary, keywords and language."""
    result = read(document(page(), summary="Tides.", keywords=("tide", "tide", "sea"), language="de"))
    assert result.name == "harbour"
    assert result.origin
    assert (result.origin.filename, result.origin.mimetype) == ("harbour.pdf", "application/pdf")
    meta = result.body.meta
    assert meta
    assert meta.summary
    assert meta.keywords
    assert meta.language
    assert (meta.summary.text, meta.keywords.values, meta.language.code.value) == ("Tides.", ["tide", "sea"], "de")
    assert read(document(page(), language="zz")).body.meta is None


def test_documents_are_told_apart() -> None:
    """The hash of the origin is the same for the same document, and another one for another."""
    documents = [document(page(block(1, "text", text))) for text in ("a", "a", "b")]
    first, again, other = (result.origin and result.origin.binary_hash for result in map(read, documents))
    assert first == again != other


def test_flags_and_problems_are_notes() -> None:
    """They are said in the document, and are no part of its text."""
    result = read(
        document(
            page(block(1, "text", "a", flags=("clamped", "retried")), block(2, "text", "b"), problem="no end token"),
            page(number=2, blank=True),
        )
    )
    notes = {item.text: item.prov[0].page_no for item in result.texts if item.content_layer.value == "notes"}
    assert notes == {"clamped, retried": 1, "no end token": 1}
    (comment,) = result.texts[0].comments
    assert comment.resolve(result).text == "clamped, retried"
    assert (result.export_to_markdown(), sorted(result.pages)) == ("a\n\nb", [1, 2])


# Hostile


@given(DOCUMENTS)
def test_any_document_is_written_and_read(written: Document) -> None:
    """Whatever is in a document: it is written without an exception or a warning, and docling-core takes it."""
    result = read(written)
    assert set(result.pages) == {page.page_number for page in written.pages}
    result.export_to_markdown()


#: A table that is larger than it needs to be, or than may be.
LIMITS = {
    "a row far wider than the others": "<table><tr>" + "<td>a" * 3000 + "<tr><td>b" * 3000,
    "spans of everything": "<table>" + "<tr><td colspan=100 rowspan=100>a" * 300,
    "more cells than a document may have": "<table>" + ("<tr>" + "<td>a" * 10) * 31,
}


@pytest.mark.parametrize("text", LIMITS.values(), ids=LIMITS)
def test_a_table_beyond_the_limits_is_text(text: str) -> None:
    """It costs no more than its letters, and these are kept."""
    result = converted(document(page(block(1, "table", text))), "", "0", max_cells=300)
    assert not result.tables
    assert result.texts[0].text.count("a") == text.count(">a")


def test_the_limit_is_for_all_tables() -> None:
    """Of four tables the last one has no room, on whatever page."""
    text = "<table>" + ("<tr>" + "<td>a" * 10) * 10
    pages = (page(*(block(place, "table", text) for place in (1, 2)), number=number) for number in (1, 2))
    result = converted(document(*pages), "", "0", max_cells=300)
    assert (len(result.tables), len(result.texts)) == (3, 1)


#: Source name -> how its picture is named.
NAMES = {
    "spaces and umlauts": ("Über uns.pdf", "Über uns.pdf.images/a.png"),
    "what looks like an address": ("http:x.pdf", "http%3Ax.pdf.images/a.png"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.values(), ids=NAMES)
def test_a_picture_is_a_file_beside_the_document(name: str, expected: str) -> None:
    """Its path is as it stands in the folder, and never an address."""
    result = read(document(page(block(1, "figure", image="a.png")), source_name=name))
    assert result.pictures[0].image
    assert str(result.pictures[0].image.uri) == expected


# Files


def test_a_written_document_is_exported(tmp_path: Path) -> None:
    """From the file that the daemon writes, under the name it gave; docling-core finds the pictures."""
    written = document(page(block(1, "text", "Ebb \u2028 日本"), block(2, "figure", image="a.png")), summary="Tides.")
    head = DocumentHead(**written.model_dump(include=set(DocumentHead.model_fields)))
    write_document(tmp_path, "harbour~2.pdf", head, lambda: written.pages)
    finish_document(tmp_path, "harbour~2.pdf", DocumentTail(summary="Tides."))
    export_docling(tmp_path / "harbour~2.pdf.json", tmp_path / "harbour~2.pdf.docling.json")
    (tmp_path / "harbour~2.pdf.images").mkdir()
    (tmp_path / "harbour~2.pdf.images" / "a.png").write_bytes(PNG)
    result = DoclingDocument.load_from_json(tmp_path / "harbour~2.pdf.docling.json", allow_local_images=True)
    assert result.texts[0].text == "Ebb \u2028 日本"
    assert result.body.meta
    assert result.pictures[0].image
    assert result.pictures[0].image.pil_image
    assert json.loads((tmp_path / "harbour~2.pdf.docling.json").read_bytes())["schema_name"] == "DoclingDocument"


#: One pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f000101010053"
    "b4a9a60000000049454e44ae426082"
)


def test_docling_is_not_loaded_before_it_is_used() -> None:
    """Importing the export costs a daemon nothing: docling-core and pandas come with the first document."""
    code = (
        "import sys, deepseek_ocr.docling; print([name for name in ('docling_core', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


# Real answers


@pytest.mark.skipif(not PATHS, reason="the real answers are not here (../shared/raw_outputs)")
def test_nothing_of_real_answers_is_lost() -> None:
    """Docling-core's Markdown has all the words of our blocks, each as often; what has cells is a table in it."""
    for written in real_documents():
        result = read(written)
        assert not words(text_of(written)) - words(result.export_to_markdown())
        tables = [block for page in written.pages for block in page.blocks if "<td" in block.text]
        assert len(result.tables) >= len(tables)
