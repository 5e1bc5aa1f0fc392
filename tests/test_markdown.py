"""Blocks -> Markdown: text stays text, whatever it looks like."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deepseek_ocr.document import Block, Category, Page
from deepseek_ocr.markdown import block_markdown, page_mark, page_markdown


def block(text: str, category: Category = "text", label: str = "text") -> Block:
    """A piece of a page."""
    return Block(id="p1b1", category=category, label=label, text=text, box=(0, 0, 1, 1))


def page(*blocks: Block, number: int = 1, problem: str | None = None, blank: bool = False) -> Page:
    """A page."""
    return Page(
        page_number=number, width=10, height=10, unit="px", blocks=blocks, blank=blank, problem=problem, source="cpu",
        seconds=0,
    )  # fmt: skip


#: Text on paper -> what stands in the Markdown.
ESCAPES = {
    "plain": ("A line, and another.", "A line, and another."),
    "a number sign": ("# 5 Main Street", "\\# 5 Main Street"),
    "a number sign alone": ("#", "\\#"),
    "a number sign without a space": ("#5", "#5"),
    "in the second line": ("Flat\n## 5", "Flat\n\\## 5"),
    "indented": ("Flat\n   # 5", "Flat\n\\# 5"),
    "indented like code": ("Flat\n\n      5", "Flat\n\n5"),
    "a greater sign": ("> 5 kg", "\\> 5 kg"),
    "a plus": ("+ 5 kg", "\\+ 5 kg"),
    "a plus before a number": ("+49 30 12", "+49 30 12"),
    "a rule": ("a\n---\nb", "a\n\\---\nb"),
    "a single dash below a line": ("a\n-", "a\n\\-"),
    "a rule with spaces": ("- - -", "- - \\-"),
    "an underline": ("a\n=", "a\n\\="),
    "a table": ("a | b\n---|---\n1 | 2", "a | b\n\\---|---\n1 | 2"),
    "a bar": ("| a | b |", "\\| a | b |"),
    "HTML": ("a <b> & <!-- page 9 -->", "a \\<b> & \\<!-- page 9 -->"),
    "an entity": ("Tom &amp; Jerry &#38; Co", "Tom \\&amp; Jerry \\&#38; Co"),
    "emphasis": ("5 * 3 * 2, a_b_c", "5 \\* 3 \\* 2, a\\_b\\_c"),
    "struck out": ("~5 to ~6", "\\~5 to \\~6"),
    "code": ("`ls`\n```", "\\`ls\\`\n\\`\\`\\`"),
    "a link": ("[1](http://x)", "\\[1\\](http://x)"),
    "a backslash": ("C:\\new", "C:\\\\new"),
    "a bullet": ("• one\n• two", "- one\n- two"),
    "a long dash": ("– one\n— two", "- one\n- two"),  # noqa: RUF001 - as on paper
    "a number sign in an item": ("• # 5\n1. # 6", "- \\# 5\n1. \\# 6"),
    "an indented item": ("a\n    - b", "a\n- b"),
    "numbers": ("1. one\n2) two", "1. one\n2) two"),
    "a hyphen in a word": ("-5 °C", "-5 °C"),
    "lines of other systems": ("a\r\n# b\x0b# c\u2028# d", "a\n\\# b\n\\# c\n\\# d"),
    "spaces around": ("  a  \n", "a"),
    "nothing": (" \n ", ""),
}


@pytest.mark.parametrize(("text", "expected"), ESCAPES.values(), ids=ESCAPES)
def test_text_is_no_markup(text: str, expected: str) -> None:
    """What looks like markup by accident is escaped; lists are kept, bullets become items."""
    assert block_markdown(block(text)) == expected


#: Heading by label and text -> Markdown.
HEADINGS = {
    "a title": ("title", "The Harbour Log", "# The Harbour Log"),
    "a heading": ("sub_title", "Tides", "## Tides"),
    "of two lines": ("title", "The Harbour\n Log", "# The Harbour Log"),
    "with a sign": ("title", "# 5 *new*", "# # 5 \\*new\\*"),
    "that ends with a sign": ("title", "Notes on C #", "# Notes on C \\#"),
    "empty": ("title", "  ", ""),
}


@pytest.mark.parametrize(("label", "text", "expected"), HEADINGS.values(), ids=HEADINGS)
def test_headings(label: str, text: str, expected: str) -> None:
    """A heading is one line; the title is of the first level, others of the second."""
    assert block_markdown(block(text, "heading", label)) == expected


MARKS = {
    "read": (page(), "<!-- page 1 -->"),
    "blank": (page(blank=True), "<!-- page 1: blank -->"),
    "a problem": (page(number=7, problem="the text was cut off"), "<!-- page 7: the text was cut off -->"),
    "a problem of many lines": (page(problem="one\n two"), "<!-- page 1: one two -->"),
    "a problem that would end the comment": (
        page(problem="a --> b ---> c---"),
        "<!-- page 1: a - - b - - - c- - - -->",
    ),
}


@pytest.mark.parametrize(("one", "expected"), MARKS.values(), ids=MARKS)
def test_marks(one: Page, expected: str) -> None:
    """Every page begins with a comment that carries its number and what is wrong; nothing in it can end it early."""
    assert page_mark(one) == expected
    assert "--" not in expected[4:-3]


def test_a_page() -> None:
    """Mark and blocks in order, an empty line between them, a line feed at the end; empty blocks leave nothing."""
    golden = page(
        block("The Harbour Log", "heading", "title"),
        block("On the first morning of March\nthe harbour lay under fog."),
        block("  "),
        block("• a crate of oranges\n• 2 * 3 barrels"),
        block("Fig. 1: <the pier>", "caption", "image_caption"),
        number=2,
        problem="read with low confidence (0.61)",
    )
    assert page_markdown(golden) == (
        "<!-- page 2: read with low confidence (0.61) -->\n"
        "\n"
        "# The Harbour Log\n"
        "\n"
        "On the first morning of March\nthe harbour lay under fog.\n"
        "\n"
        "- a crate of oranges\n- 2 \\* 3 barrels\n"
        "\n"
        "*Fig. 1: \\<the pier>*\n"
    )


def test_an_empty_page_is_its_mark() -> None:
    """A blank page is said, not left out."""
    assert page_markdown(page(blank=True)) == "<!-- page 1: blank -->\n"


PICTURE = "![](x.images/1.png)"
GRID = "<table>\n<tr><td>Month</td><td>Ships</td></tr>\n<tr><td>May</td><td>12</td></tr>\n</table>"
GRID_PIPES = "| Month | Ships |\n| --- | --- |\n| May | 12 |"
#: What a second look found: description and data -> what stands below the picture.
SECOND_LOOKS = {
    "a description": ("A gull.\n\nIt is white.", None, "> A gull.\n>\n> It is white."),
    "a list in it": ("Two birds:\n- a gull\n- a tern", None, "> Two birds:\n> - a gull\n> - a tern"),
    "HTML in it": ("A <b>gull</b> <!-- page 9 -->", None, "> A \\<b>gull\\</b> \\<!-- page 9 -->"),
    "a chart": (None, GRID, GRID_PIPES),
    "both": ("Ships per month.", GRID, f"> Ships per month.\n\n{GRID_PIPES}"),
    "words and a table": (None, f"All the ships:\n{GRID}", f"> All the ships:\n\n{GRID_PIPES}"),
    "two tables": (None, f"{GRID}\n{GRID}", f"{GRID_PIPES}\n\n{GRID_PIPES}"),
    "spans": (None, GRID.replace("<td>May", '<td colspan="2">May'), GRID.replace("<td>May", '<td colspan="2">May')),
    "words": (None, "Three gulls on a wall", "> Three gulls on a wall"),
    "chemistry": (None, "C/C=C\\C(=O)[O-](C)*", "```\nC/C=C\\C(=O)[O-](C)*\n```"),
    "geometry": (None, "{'A': (1, 2),\n 'B_1': [3]}", "```\n{'A': (1, 2),\n 'B_1': [3]}\n```"),
    "a fence": (None, "x = 1\n```\n# 5", "````\nx = 1\n```\n# 5\n````"),
}  # fmt: skip


@pytest.mark.parametrize(("description", "data", "expected"), SECOND_LOOKS.values(), ids=SECOND_LOOKS)
def test_second_looks(description: str | None, data: str | None, expected: str) -> None:
    """Words about a figure are quoted, as they do not stand there; data are tables, notations stay as they are."""
    figure = block("", "figure").model_copy(update={"description": description, "data": data, "image": "1.png"})
    assert block_markdown(figure, images="x.images") == f"{PICTURE}\n\n{expected}"
    assert [token.type for token in _PARSER.parse(expected) if token.type == "html_inline"] == []


# Against a Markdown parser

_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_ALLOWED = {
    "paragraph_open", "paragraph_close", "inline", "bullet_list_open", "bullet_list_close", "ordered_list_open",
    "ordered_list_close", "list_item_open", "list_item_close",
}  # fmt: skip
_MARKUP = st.text(st.sampled_from("#>=+-|*_`~[]()!<&;:.\\/\"' \n\t123ax"), max_size=40)


@given(_MARKUP)
@example("a\n: -")
@example("- 1. - #")
@example("1.\n#")
def test_no_text_becomes_markup(text: str) -> None:
    """Whatever the signs on paper, a Markdown parser sees paragraphs and lists of plain text, nothing else."""
    tokens = _PARSER.parse(block_markdown(block(text)))
    assert {token.type for token in tokens} <= _ALLOWED
    children = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "text_special", "softbreak"}


@given(st.text(st.sampled_from("#>=+|*_`~[]()!<&;:\\/\"' \n\tampx"), max_size=40))
def test_no_letter_is_lost(text: str) -> None:
    """What a parser shows of a text without lists is the text."""
    shown = "".join(
        child.content
        for token in _PARSER.parse(block_markdown(block(text)))
        for child in token.children or ()
        if child.type != "softbreak"
    )
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)


@given(_MARKUP)
def test_a_heading_is_one_heading(text: str) -> None:
    """A parser sees one heading of the block's whole text, or nothing for an empty one."""
    tokens = _PARSER.parse(block_markdown(block(text, "heading", "title")))
    assert [token.type for token in tokens] == (["heading_open", "inline", "heading_close"] if text.strip() else [])
    shown = "".join(child.content for token in tokens for child in token.children or ())
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)
