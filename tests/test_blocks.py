"""What an engine gives -> blocks: one model for engines that read letters and those that write Markdown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deepseek_ocr.blocks import blocks_of
from deepseek_ocr.completion import Completion, PageImage, Region
from deepseek_ocr.document import Block, Flag, Page
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.prompt import Task
from tests.growth import check_linear

IMAGE = PageImage(0, 100, 200, "pt", None, 0.1)


def tag(label: str, *boxes: tuple[int, int, int, int]) -> str:
    """As the model writes it."""
    inside = ", ".join(
        f"[{left}, {top}, {right}, {bottom}]" for left, top, right, bottom in boxes or [(0, 0, 999, 999)]
    )
    return f"<|ref|>{label}<|/ref|><|det|>[{inside}]<|/det|>\n"


def read(text: str, task: Task = Task.DOCUMENT) -> tuple[Block, ...]:
    """The blocks of a raw text."""
    return blocks_of(IMAGE, Completion(text, "stop", 1.0), task)[0]


TABLE = "<table><tr><td>1</td></tr></table>"
CLEAN = "<table>\n<tr><td>1</td></tr>\n</table>"

#: Raw text -> category and text of each block.
RAW = {
    "the order trap": (
        tag("table") + tag("table_caption") + "Table 1\n\n" + TABLE, [("table", CLEAN), ("caption", "Table 1")],
    ),
    "a table before its tag": (
        tag("table_caption") + "Table 1" + TABLE + tag("table"), [("caption", "Table 1"), ("table", CLEAN)],
    ),
    "a caption that holds nothing but the table": (
        tag("table") + tag("table_caption") + TABLE, [("table", CLEAN), ("caption", "")],
    ),
    "two traps": (
        (tag("table") + tag("table_caption") + "a" + TABLE) * 2,
        [("table", CLEAN), ("caption", "a"), ("table", CLEAN), ("caption", "a")],
    ),
    "a table within a text": (
        tag("text") + "a" + TABLE + "b", [("text", "a"), ("table", CLEAN), ("text", "b")],
    ),
    "text around a table": (tag("table") + "a" + TABLE + "b", [("text", "a"), ("table", CLEAN), ("text", "b")]),
    "no HTML in a table": (tag("table") + "a 1", [("table", "a 1")]),
    "a table without cells": (tag("table") + "<table></table>", [("table", "")]),
    "a heading's marks": (tag("sub_title") + "### Sea\nand land", [("heading", "Sea and land")]),
    "a heading amid a text": (
        tag("text") + "a\n## Sea\nb", [("text", "a"), ("heading", "Sea"), ("text", "b")],
    ),
    "a text that is a heading": (tag("text") + "### Sea", [("heading", "Sea")]),
    "comments in code": (tag("text") + "# Plot:\nplot()", [("text", "# Plot:\nplot()")]),
    "code with marks of headings": (tag("text") + "```\n## x\n```", [("text", "```\n## x\n```")]),
    "a page without tags": (
        "# Sea\na\n\n```\n# b\nc|d\n-|-\n```\n|e|f &amp; g|\n|-|-|\n|1|2|",
        [("heading", "Sea"), ("text", "a\n\n```\n# b\nc|d\n-|-\n```"),
         ("table", "<table>\n<tr><th>e</th><th>f &amp; g</th></tr>\n<tr><td>1</td><td>2</td></tr>\n</table>")],
    ),
    "dollars in a formula": (tag("equation") + "$$x^2$$ for $x_1$", [("formula", "\\[x^2\\] for \\(x_1\\)")]),
    "pipes in a table": (
        tag("table") + "|e|\n|-|\n|1|", [("table", "<table>\n<tr><th>e</th></tr>\n<tr><td>1</td></tr>\n</table>")],
    ),
    "text in the place of labels": (
        tag("1 Sea") + tag("Land") + tag("header"), [("text", "1 Sea"), ("text", "Land"), ("text", "")],
    ),
    "two headings": (tag("sub_title") + "# Sea\n## Land", [("heading", "Sea"), ("heading", "Land")]),
    "a heading and a formula": (tag("sub_title") + "## Sea\n\\[x\\]", [("heading", "Sea"), ("text", "\\[x\\]")]),
    "a heading and a paragraph": (
        tag("title") + "Sea\n" + "word " * 30, [("heading", "Sea"), ("text", ("word " * 30).strip())],
    ),
    "a heading of nothing": (tag("title") + "##", [("heading", "")]),
    "a picture": (tag("image"), [("figure", "")]),
    "a caption": (tag("image_caption") + "<center>Fig. 1 </center>", [("caption", "Fig. 1")]),
    "a bare formula": (tag("equation") + "a - b &lt; c", [("formula", "a - b < c")]),
    "no tags": ("plain", [("text", "plain")]),
    "a host's wrapper": ("<markdown>" + tag("text") + "a</markdown>", [("text", "a")]),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), RAW.values(), ids=RAW)
def test_raw_text_becomes_blocks(raw: str, expected: list[tuple[str, str]]) -> None:
    """Tables stand where their tags are, headings have no marks, and ids count on."""
    blocks = read(raw)
    assert [(block.category, block.text) for block in blocks] == expected
    assert [block.id for block in blocks] == [f"p1b{number}" for number in range(1, len(blocks) + 1)]
    assert all(block.markup for block in blocks)


def test_a_moved_table_has_the_place_of_its_tag() -> None:
    """Not that of the caption its HTML stood behind; and the two are linked."""
    table, caption = read(
        tag("table", (0, 0, 999, 500)) + tag("table_caption", (0, 510, 999, 600)) + "Table 1\n\n" + TABLE
    )
    assert table.raw_boxes == ((0, 0, 999, 500),)
    assert (table.captions, caption.caption_of) == ((caption.id,), table.id)


FLAGS = {
    "good": (tag("text", (0, 0, 9, 9)) + "a", ()),
    "over the edge": (tag("text", (0, 0, 1005, 9)) + "a", (Flag.CLAMPED,)),
    "exchanged": (tag("text", (9, 9, 0, 0)) + "a", (Flag.DEGENERATE,)),
    "no box": ("<|ref|>text<|/ref|>a", (Flag.NO_BOX, Flag.RECOVERED)),
    "torn": (tag("table") + "<table><tr><td>1", (Flag.UNCLOSED,)),
    "told apart": (tag("text") + TABLE, (Flag.RECOVERED,)),
}


@pytest.mark.parametrize(("raw", "flags"), FLAGS.values(), ids=FLAGS)
def test_flags(raw: str, flags: tuple[Flag, ...]) -> None:
    """What is not to be trusted blindly says so."""
    (block,) = read(raw)
    assert block.flags == flags


def test_several_boxes() -> None:
    """The box is around all; where places were looked for, each is a block of its own."""
    raw = tag("pier", (0, 0, 99, 99), (900, 900, 999, 999))
    (block,) = read(raw)
    assert (block.relative_box, len(block.raw_boxes)) == ((0, 0, 1, 1), 2)
    places = read(raw, Task.LOCATE)
    assert [place.raw_boxes for place in places] == [((0, 0, 99, 99),), ((900, 900, 999, 999),)]
    assert [place.text for place in places] == ["pier", "pier"]
    places = read(tag("pier", (0, 0, 99, 99), (900, 900, 1200, 999)), Task.LOCATE)
    assert [place.flags for place in places] == [(), (Flag.CLAMPED,)]


def test_text_in_place_of_labels_is_no_markdown() -> None:
    """What is read letter by letter is data."""
    (block,) = read(tag("# 5 *new*"), Task.IMAGE)
    assert (block.text, block.label, block.markup) == ("# 5 *new*", "", False)
    (block,) = read(tag("a high- \ntide &lt; <i>x</i> $x_1$"), Task.IMAGE)
    assert block.text == "a high- \ntide < <i>x</i> $x_1$"


def test_regions_are_data() -> None:
    """An engine's own regions keep their text as it is, and a box beyond the page is cut at its edge."""
    region = Region("text", "a&lt; <b> - x- y", (0.1, -0.5, 1.5, 0.2), 0.123456)
    ((block,), oddities) = blocks_of(IMAGE, Completion("ignored", "stop", 1.0, (region,)), Task.DOCUMENT)
    assert (block.text, block.markup, block.confidence) == ("a&lt; <b> - x- y", False, 0.1235)
    assert (block.box, block.relative_box, block.flags) == ((10, 0, 100, 40), (0.1, 0, 1, 0.2), (Flag.CLAMPED,))
    assert oddities == ()


_PIECES = st.lists(
    st.sampled_from([
        "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "[[1, 2, 3, 4]]", "text", "table", "title", "image_caption",
        "<table>", "</table>", "<td>", "<tr>", "\\(", "\\)", "\\[", "\\]", "```", "`", "- ", "\n", "\n\n", "# ", "|",
        "---", "<b>", "<script>", "<!--", "&lt;", "\\", "$", "![x](y)", "[x]: y", "a", " ", "\ud800", "\0", "=",
    ]), max_size=40,
).map("".join)  # fmt: skip


@given(_PIECES, st.sampled_from([Task.DOCUMENT, Task.IMAGE, Task.LOCATE, Task.FREE]))
def test_any_answer_becomes_a_page(text: str, task: Task) -> None:
    """Nothing raises, what comes out can be stored, and its Markdown has no HTML but tables and marks."""
    blocks, oddities = blocks_of(IMAGE, Completion(text, "stop", 1.0), task)
    page = Page(
        page_number=1, width=100, height=200, unit="pt", blocks=blocks, source="x", seconds=0, oddities=oddities
    )
    assert Page.model_validate_json(page.model_dump_json()) == page
    assert harmful_html(page_markdown(page)) == []


#: Marks, and tables with their cells.
OURS = re.compile(r"<!-- (?:page|figure|chart) [^<>]* -->|</?(?:table|tr|t[dh][^<>]*)>")


def harmful_html(markdown: str) -> list[str]:
    """What a parser takes for HTML and is neither a mark of ours nor a table."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    pieces = [one for token in tokens for one in [token, *(token.children or ())]]
    found = [OURS.sub("", one.content) for one in pieces if one.type in {"html_block", "html_inline"}]
    return [left for left in found if "<" in left]


#: What repeated might cost more than its length.
HOSTILE = [
    "<table>", "<table><td>a", "<td ", "\\(", "\\[ \\( x", "`", "a`` `", "```\n", "\n- x", "- Ab", "a- b", "|",
    "|---|\n", "](", "<sup>", "\n \n", tag("table_caption") + TABLE, tag("image") + tag("image_caption"),
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_work_is_linear(piece: str) -> None:
    """Four times the text takes four times the calls, and 200 kB of it, where a pattern would not end, a moment."""

    def work(text: str) -> None:
        page_markdown(Page(page_number=1, width=1, height=1, unit="pt", blocks=read(text), source="x", seconds=0))

    check_linear(work, *("- a " + piece * (size // len(piece)) for size in (3000, 12_000)))
    work("- a " + piece * (200_000 // len(piece)))
