"""DocJSON -> MinerU's content list: the keys, types and bytes that MinerU 3.4.5 writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from daemon.outputs import finish_document, write_document
from deepseek_ocr.content_list import content_list_json, export_content_list
from deepseek_ocr.document import Block, Document, DocumentHead, DocumentTail
from tests.written_documents import DOCUMENTS, PATHS, TABLE, block, document, page, real_documents, text_of, words

if TYPE_CHECKING:
    from pathlib import Path

#: What MinerU 3.4.5 writes for each type, besides `type`, `bbox` and `page_idx`.
KEYS = {
    "text": {"text", "text_level"}, "header": {"text"}, "footer": {"text"}, "page_number": {"text"},
    "equation": {"text", "text_format"},
    "image": {"img_path", "content", "image_caption", "image_footnote"},
    "chart": {"img_path", "content", "chart_caption", "chart_footnote"},
    "table": {"img_path", "table_caption", "table_footnote", "table_body"},
}  # fmt: skip


def read(written: Document) -> list[dict[str, Any]]:
    """As a program reads what is written."""
    items: list[dict[str, Any]] = json.loads(content_list_json(written))
    return items


#: Block -> its item, without its place.
ITEMS: dict[str, tuple[Block, dict[str, Any] | None]] = {
    "a text": (block(1, "text", "Let \\(x\\) be"), {"type": "text", "text": "Let $x$ be"}),
    "a text without letters": (block(1, "text", " \n"), None),
    "letter by letter": (block(1, "text", "5 * 3", markup=False), {"type": "text", "text": "5 \\* 3"}),
    "a title": (block(1, "heading", "Tides", level=1), {"type": "text", "text": "Tides", "text_level": 1}),
    "a heading": (block(1, "heading", "1. Sea", level=3), {"type": "text", "text": "1. Sea", "text_level": 3}),
    "a page number": (block(1, "text", "7", label="page_number"), {"type": "page_number", "text": "7"}),
    "a caption of nothing": (block(1, "caption", "Figure 1"), {"type": "text", "text": "Figure 1"}),
    "a formula": (
        block(1, "formula", "\\[x + 1\\]"), {"type": "equation", "text": "$$\nx + 1\n$$", "text_format": "latex"},
    ),
    "a formula on lines": (
        block(1, "formula", "\\[a\\\\\nb\\]"), {"type": "equation", "text": "$$\na\\\\\nb\n$$", "text_format": "latex"},
    ),
    "a numbered formula": (block(1, "formula", "\\[x\\] (1)"), {"type": "text", "text": "$$x$$ (1)"}),
    "two formulas": (block(1, "formula", "\\[x\\]\n\\[y\\]"), {"type": "text", "text": "$$x$$\n\n$$y$$"}),
    "an empty formula": (block(1, "formula", "\\[\\]"), None),
    "a table": (
        block(1, "table", "<table><tr><td colspan=2>\\(x\\)</td></tr></table>", image="a b.png"),
        {
            "type": "table", "img_path": "harbour.pdf.images/a b.png", "table_caption": [], "table_footnote": [],
            "table_body": '<table>\n<tr><td colspan="2">$x$</td></tr>\n</table>',
        },
    ),
    "an empty table": (
        block(1, "table", "<table></table>"),
        {"type": "table", "img_path": "", "table_caption": [], "table_footnote": []},
    ),
    "a table that is none": (
        block(1, "table", "a 1"),
        {"type": "table", "img_path": "", "table_caption": [], "table_footnote": [], "table_body": "a 1"},
    ),
    "a picture": (
        block(1, "figure", image="a.png"),
        {
            "type": "image", "img_path": "harbour.pdf.images/a.png", "content": "", "image_caption": [],
            "image_footnote": [],
        },
    ),
    "a chart": (
        block(1, "chart", "12", description="Ships.", data="<table><tr><td>May</td></tr></table>"),
        {
            "type": "chart", "img_path": "",
            "content": "12\n\nShips.\n\n<table>\n<tr><td>May</td></tr>\n</table>",
            "chart_caption": [], "chart_footnote": [],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), ITEMS.values(), ids=ITEMS)
def test_each_block_becomes_an_item(written: Block, expected: dict[str, Any] | None) -> None:
    """Type, text and all other keys, with the place behind them; what is empty is left out."""
    place = {"bbox": [100, 100, 900, 200], "page_idx": 6}
    items = read(document(page(written, number=7)))
    assert items == ([expected | place] if expected else [])


def test_a_block_without_a_place_has_no_box() -> None:
    """Nothing is made up; its page is known."""
    assert read(document(page(block(1, "text", "a", box=None, relative_box=None)))) == [
        {"type": "text", "text": "a", "page_idx": 0}
    ]


def test_captions_are_in_what_they_belong_to() -> None:
    """Wherever they stand, and only there; footnotes apart from the others."""
    items = read(
        document(
            page(
                block(1, "caption", "Table 1", caption_of="p1b2"),
                block(2, "table", TABLE),
                block(3, "caption", "*in port", caption_of="p1b2", label="table_footnote", markup=False),
                block(4, "figure"),
                block(5, "caption", "Figure \\(a\\)", caption_of="p1b4"),
                block(6, "caption", "", caption_of="p1b4"),
            )
        )
    )
    assert [item["type"] for item in items] == ["table", "image"]
    assert (items[0]["table_caption"], items[0]["table_footnote"]) == (["Table 1"], ["\\*in port"])
    assert items[1]["image_caption"] == ["Figure $a$"]


def test_the_bytes_are_those_of_mineru() -> None:
    """The list as `json.dumps(.., ensure_ascii=False, indent=4)` has it, line separators within a text and all."""
    written = content_list_json(document(page(block(1, "text", "日\u2028本"), block(2, "table", TABLE))))
    assert written == json.dumps(json.loads(written), ensure_ascii=False, indent=4)
    assert content_list_json(document(page(blank=True))) == "[]"


@given(DOCUMENTS)
def test_any_document_is_written(written: Document) -> None:
    """Whatever is in a document: the list has MinerU's keys and nothing else, and its boxes are whole numbers."""
    text = content_list_json(written)
    items = json.loads(text.encode())
    assert text == json.dumps(items, ensure_ascii=False, indent=4)
    for item in items:
        assert set(item) <= KEYS[item["type"]] | {"type", "bbox", "page_idx"}
        assert all(isinstance(side, int) and 0 <= side <= 1000 for side in item.get("bbox", ()))


# Files


def written_file(folder: Path, written: Document) -> Path:
    """A document as the daemon writes it."""
    head = DocumentHead(**written.model_dump(include=set(DocumentHead.model_fields)))
    write_document(folder, "harbour~2.pdf", head, lambda: written.pages)
    finish_document(folder, "harbour~2.pdf", DocumentTail())
    return folder / "harbour~2.pdf.json"


def test_a_written_document_is_exported(tmp_path: Path) -> None:
    """Page by page from the file that the daemon writes, under the name it gave."""
    pages = [page(block(1, "text", "日\u2028本"), block(2, "figure", image="a.png")), page(number=2), page(number=3)]
    written = document(*pages)
    target = tmp_path / "harbour~2.pdf.content_list.json"
    export_content_list(written_file(tmp_path, written), target)
    assert target.read_text(encoding="utf-8") == content_list_json(written, "harbour~2.pdf.images")


#: What becomes of the file of a document before it is exported.
SPOILT = {"torn": lambda text: text[:-300], "laid out in another way": lambda text: json.dumps(json.loads(text))}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_file_that_is_not_as_written_is_an_error(tmp_path: Path, spoil: Any) -> None:
    """Half of a document is never taken for all of it."""
    docjson = written_file(tmp_path, document(page(block(1, "text", "a")), page(number=2)))
    docjson.write_text(spoil(docjson.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=r"."):
        export_content_list(docjson, tmp_path / "target")
    assert not (tmp_path / "target").exists()


# Real answers


@pytest.mark.skipif(not PATHS, reason="the real answers are not here (../shared/raw_outputs)")
def test_no_word_of_real_answers_is_lost() -> None:
    """Text, tables and captions of the list have all the words of our blocks, each as often."""
    for written in real_documents():
        shown = []
        for item in read(written):
            assert set(item) <= KEYS[item["type"]] | {"type", "bbox", "page_idx"}
            shown += [item.get(key, "") for key in ("text", "content")]
            shown += [caption for key in item if key.endswith(("_caption", "_footnote")) for caption in item[key]]
            shown += [cell_words(item.get("table_body", ""))]
        assert not words(text_of(written)) - words("\n".join(shown))


def cell_words(body: str) -> str:
    """The text of a table's cells."""
    return text_of(document(page(block(1, "table", body))))
