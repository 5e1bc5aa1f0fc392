"""Documents of ours for the tests of the exports: written by hand, drawn at random, and from real answers."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hypothesis import strategies as st

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.document import Block, Category, Document, Flag, Page
from deepseek_ocr.headings import levelled, survey
from deepseek_ocr.tables import parse_table

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW_OUTPUTS = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
PATHS = sorted(RAW_OUTPUTS.glob("[0-9]*.txt"))

TABLE = "<table><tr><th>Month</th><th>Ships</th></tr><tr><td>May</td><td>12</td></tr></table>"


def block(number: int, category: Category, text: str = "", **more: Any) -> Block:
    """A block of the first page, as the model writes them."""
    content = {
        "id": f"p1b{number}", "category": category, "label": category, "text": text, "markup": True,
        "box": (10, 20, 110, 40), "relative_box": (0.1, 0.1, 0.9, 0.2),
    }  # fmt: skip
    return Block.model_validate(content | more)


def page(*blocks: Block, number: int = 1, **more: Any) -> Page:
    """A page of 200 x 400 points."""
    content = {"page_number": number, "width": 200, "height": 400, "unit": "pt", "source": "fake", "seconds": 0}
    return Page.model_validate(content | {"blocks": blocks} | more)


def document(*pages: Page, **more: Any) -> Document:
    """A document that is called harbour.pdf."""
    content = {
        "source_name": "harbour.pdf", "source_type": "pdf", "engine": "fake", "model": "a model", "task": "document",
        "page_count": len(pages) or 1, "pages": pages,
    }  # fmt: skip
    return Document.model_validate(content | more)


# At random

#: What the exports look for in a text, and what others might take for something.
_PIECES = st.sampled_from(
    [
        TABLE, "<table>", "</table>", "<tr>", "<td colspan=3 rowspan=99>", "<td>", "<th rowspan=2>", "\\(x_1\\)", "\\[",
        "\\]", "\\[y\\]", "$$z$$", "$", "# ", "|", "\n", "- a", "`", "&amp;", "<b>", "<!-- -->", "\ud800", "\0",
        "\u2028",
    ]
)  # fmt: skip
_TEXTS = st.lists(_PIECES | st.text(max_size=8), max_size=8).map("".join)
_FLOATS = st.floats() | st.floats(0, 300)
_SHARES = st.floats(0, 1)
_IDS = st.sampled_from([f"p1b{number}" for number in range(1, 7)])
_BLOCKS = st.builds(
    Block,
    id=_IDS,
    category=st.sampled_from(get_args(Category)),
    label=st.sampled_from(["text", "table_footnote", "Header", "", "\ud800"]),
    text=_TEXTS,
    markup=st.booleans(),
    box=st.none() | st.tuples(_FLOATS, _FLOATS, _FLOATS, _FLOATS),
    relative_box=st.none() | st.tuples(_SHARES, _SHARES, _SHARES, _SHARES),
    level=st.none() | st.integers(1, 6),
    caption_of=st.none() | _IDS,
    captions=st.lists(_IDS, max_size=2).map(tuple),
    flags=st.lists(st.sampled_from(Flag), max_size=2).map(tuple),
    description=st.none() | _TEXTS,
    data=st.none() | _TEXTS,
    image=st.none() | st.text(max_size=5) | st.sampled_from(["a.png", "../x.JPG", "/", "b:c", "."]),
)
_PAGES = st.builds(
    Page,
    page_number=st.integers(1, 3),
    width=st.floats(0, exclude_min=True),
    height=st.floats(1, 1000),
    unit=st.sampled_from(["pt", "px"]),
    blocks=st.lists(_BLOCKS, max_size=5).map(tuple),
    blank=st.booleans(),
    problem=st.none() | _TEXTS,
    source=st.just("fake"),
    seconds=st.just(0.0),
)
#: Whatever the model of documents takes, also what no file could hold.
DOCUMENTS = st.builds(
    Document,
    source_name=st.sampled_from(["x.pdf", "a b.pdf", "http:x.pdf", "c:ü.pdf", "", "\udcff.pdf", ".pdf"]),
    source_type=st.sampled_from(["pdf", "webp", "?"]),
    engine=st.just("fake"),
    model=st.sampled_from(["m", ""]),
    task=st.just("document"),
    page_count=st.just(1),
    pages=st.lists(_PAGES, max_size=3, unique_by=lambda page: page.page_number).map(tuple),
    summary=st.none() | _TEXTS,
    keywords=st.lists(st.sampled_from(["", "a", "b"]), max_size=3).map(tuple),
    language=st.sampled_from([None, "de", "EN", "xx", ""]),
)


# Real answers


@cache
def real_documents() -> tuple[Document, ...]:
    """The real answers, a hundred in each document."""
    texts = [path.read_text(encoding="utf-8") for path in PATHS]
    return tuple(_document_of(texts[start : start + 100]) for start in range(0, len(texts), 100))


def _document_of(texts: Sequence[str]) -> Document:
    pages = [
        page_from(PageImage(index, 595, 842, "pt", None, 0.1), Completion(text, "stop", 1.0), source="fake")
        for index, text in enumerate(texts)
    ]
    outline = survey(pages)
    return document(*(levelled(page, outline) for page in pages))


def text_of(written: Document) -> str:
    """All that was read in a document; of tables what is in their cells."""
    blocks = [block for page in written.pages for block in page.blocks]
    cells = [cell.text for block in blocks for row in parse_table(block.text).rows for cell in row if _is_table(block)]
    return "\n".join([block.text for block in blocks if not _is_table(block)] + cells)


def _is_table(block: Block) -> bool:
    return block.category == "table" and "<table" in block.text


def words(text: str) -> Counter[str]:
    """The words of a text, whatever their markup."""
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", html.unescape(html.unescape(text)))
    return Counter(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text)))
