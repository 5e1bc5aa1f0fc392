"""Real answers of the model -> Markdown: nothing is lost, no tag is left, and every reader of Markdown reads the same.

The answers are third-party data and not part of the repository; without them the tests are skipped.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.grounding import PLAIN_LABEL, parse
from deepseek_ocr.headings import levelled, survey
from deepseek_ocr.markdown import page_markdown

if TYPE_CHECKING:
    from deepseek_ocr.document import Page

RAW_OUTPUTS = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
PATHS = sorted(RAW_OUTPUTS.glob("[0-9]*.txt"))

pytestmark = pytest.mark.skipif(not PATHS, reason="the real answers are not here (see the module's docstring)")

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
#: A page's mark, and that of a figure without a picture.
MARK = re.compile(r"<!-- (?:page \d+|(?:figure|chart) p\d+b\d+) -->")
HTML = re.compile(r"</?(?:[a-z]+|table|tr|td|th)(?:\s[^<>]*)?/?>", re.IGNORECASE)
MARKUP = re.compile(r"</?(?:table|thead|tbody|tr|td|th|center|br)(?:\s[^<>]*)?/?(?:>|\Z)", re.IGNORECASE)
TAG = re.compile(r"<\|/?(?:ref|det)|<｜|<center|<br|<su[bp]")  # noqa: RUF001 - as published
RAISED = re.compile(r"</?su[bp]>")
TABLE_TAG = re.compile(r'</?(?:table|tr)>|</t[dh]>|<t[dh](?: rowspan="\d+")?(?: colspan="\d+")?>')


def page_of(text: str) -> Page:
    """A page that the model read so."""
    image = PageImage(0, 595, 842, "pt", None, 0.1)
    page = page_from(image, Completion(text, "stop", 1.0), source="fake")
    return levelled(page, survey([page]))


def words(text: str) -> Counter[str]:
    """The words of a text, whatever their markup; raised letters count as plain ones."""
    text = html.unescape(MARKUP.sub(" ", RAISED.sub("", MARK.sub(" ", text))))
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
    text = re.sub(r"[\^_]\(?(\w)", r"\1", unicodedata.normalize("NFKC", text))
    return Counter(re.findall(r"[^\W_]+", text))


@pytest.fixture(scope="module")
def converted() -> list[tuple[str, str, Page, str]]:
    """Name, raw text, page and Markdown of each answer."""
    texts = [(path.stem, path.read_text(encoding="utf-8")) for path in PATHS]
    pages = [(name, text, page_of(text)) for name, text in texts]
    return [(name, text, page, page_markdown(page)) for name, text, page in pages]


def test_no_word_is_lost(converted: list[tuple[str, str, Page, str]]) -> None:
    """The words of the texts between the tags are those of the Markdown, each as often."""
    wrong = {}
    for name, text, _, markdown in converted:
        blocks = parse(text).blocks
        # Where a text stands in the place of the label (1219), that is shown.
        in_ref = [block.label for block in blocks if not block.text and not PLAIN_LABEL.fullmatch(block.label)]
        expected = words("\n".join([block.text for block in blocks] + in_ref))
        shown = words(markdown)
        if shown != expected:
            wrong[name] = (expected - shown, shown - expected)
    assert not wrong


def test_no_tag_is_left(converted: list[tuple[str, str, Page, str]]) -> None:
    """Neither the model's tags nor the HTML it likes stand in the Markdown."""
    left = [name for name, *_, markdown in converted if TAG.search(markdown)]
    assert not left


def test_every_reader_sees_the_same(converted: list[tuple[str, str, Page, str]]) -> None:
    """A parser finds no HTML but marks and tables, and no row of a pipe table wider than its head."""
    wrong = []
    for name, *_, markdown in converted:
        for token in PARSER.parse(markdown):
            wrong += [(name, child.content) for child in token.children or () if child.type == "html_inline"]
            raw = token.content if token.type == "html_block" else ""
            if HTML.search(TABLE_TAG.sub("", raw)) or "<!" in MARK.sub("", raw):
                wrong.append((name, raw))
        wrong += [(name, line) for line in uneven_rows(markdown)]
    assert not wrong


def uneven_rows(markdown: str) -> list[str]:
    """Rows of pipe tables that have not as many cells as their head; of those a parser would lose some."""
    lines = markdown.split("\n")
    uneven = []
    for token in PARSER.parse(markdown):
        if token.type == "table_open" and token.map:
            rows = lines[token.map[0] : token.map[1]]
            bars = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
            uneven += [row for row, count in zip(rows, bars, strict=True) if count != bars[0]]
    return uneven


def test_tables_are_tables(converted: list[tuple[str, str, Page, str]]) -> None:
    """Each table that has cells is seen as one, in pipes or HTML."""
    for name, _, page, markdown in converted:
        tables = [block for block in page.blocks if block.category == "table" and "<td" in block.text]
        tokens = PARSER.parse(markdown)
        seen = sum(token.type == "table_open" or token.content.startswith("<table>") for token in tokens)
        assert seen >= len(tables), name


def test_blocks_are_sound(converted: list[tuple[str, str, Page, str]]) -> None:
    """Boxes lie on the page, ids are unique, and links between captions and figures hold both ways."""
    for _, _, page, _ in converted:
        blocks = {block.id: block for block in page.blocks}
        assert len(blocks) == len(page.blocks)
        for block in page.blocks:
            assert all(block.id in blocks[owner].captions for owner in [block.caption_of] if owner)
            assert all(blocks[caption].caption_of == block.id for caption in block.captions)
            assert (block.box is None) == (block.relative_box is None) == ("no_box" in block.flags)
