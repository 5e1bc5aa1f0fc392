"""The second pass: which blocks are looked at again, and how finely; which figures have a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.figures import (
    LONGEST_SIDE_PX,
    MAX_FIGURES,
    MAX_PICTURE_PX,
    looks,
    pictures,
    with_pictures,
)
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.pages import close_document, load_page
from deepseek_ocr.prompt import CONTEXT_TOKENS, Mode, Task
from deepseek_ocr.tiles import MAX_TOKENS as PICTURE_TOKENS
from tests import documents
from tests.documents import LIMITS
from tests.figure_pages import EVEN, block, html, page_of

if TYPE_CHECKING:
    from pathlib import Path

    from deepseek_ocr.completion import Box
    from deepseek_ocr.document import Block

# What is looked at

#: Block -> the tasks it is looked at with.
DESERVING: dict[str, tuple[Block, list[Task]]] = {
    "a figure": (block(), [Task.DESCRIBE, Task.FIGURE]),
    "a chart": (block("chart"), [Task.DESCRIBE, Task.FIGURE]),
    "a figure without a place": (block(box=None), []),
    "an icon": (block(box=(0.2, 0.2, 0.23, 0.22)), []),
    "a rule": (block(box=(0.1, 0.2, 0.9, 0.21)), []),
    "the whole page": (block(box=(0, 0.05, 1, 0.97)), []),
    "text": (block("text", "Hello"), []),
    "a caption": (block("caption", "Figure 1"), []),
    "a good table": (block("table", EVEN), []),
    "a table that breaks off": (block("table", EVEN, flags=["unclosed"]), [Task.DOCUMENT]),
    "a table that went round": (block("table", EVEN, flags=["loop_cut"]), [Task.DOCUMENT]),
    "a table that breaks off and has no place": (block("table", EVEN, box=None, flags=["unclosed"]), []),
    "a table without its cells": (block("table", ""), [Task.DOCUMENT]),
    "a table as a text": (block("table", "a b c"), []),
    "a ragged table": (block("table", html("a | b | c", "1 | 2 | 3", "4 | 5")), [Task.DOCUMENT]),
    "a heading in a table": (block("table", html("Tides", "a | b | c", "1 | 2 | 3")), []),
    "spans that fill up": (
        block("table", '<table><tr><td rowspan="2">a</td><td>b</td></tr><tr><td>c</td></tr></table>'),
        [],
    ),
    "spans that do not": (
        block("table", '<table><tr><td colspan="3">a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>'),
        [Task.DOCUMENT],
    ),
    "a last column with a head alone": (
        block("table", html("a | b", "1 |", "2 |", "3 |")), [Task.DOCUMENT],
    ),
    "a blank last column": (block("table", html("a |", "1 |", "2 |", "3 |")), []),
}  # fmt: skip


@pytest.mark.parametrize("case", DESERVING)
def test_what_deserves_a_look(case: str) -> None:
    """Figures and charts of a sensible size, and tables that show that they are not whole."""
    one, tasks = DESERVING[case]
    assert [look.options.task for look in looks(page_of(one))] == tasks


def test_looks_say_what_they_are() -> None:
    """A look names its block, and says in words what is asked, for the account of the page."""
    page = page_of(block(), block("table", number=2), block("chart", number=3))
    assert [(look.block_id, look.way) for look in looks(page)] == [
        ("p1b1", "figure p1b1 described"),
        ("p1b1", "figure p1b1 parsed"),
        ("p1b2", "table p1b2 again from its crop"),
        ("p1b3", "chart p1b3 described"),
        ("p1b3", "chart p1b3 parsed"),
    ]


def test_looks_fit_into_the_context() -> None:
    """Picture, prompt and answer are never more than the model can hold."""
    for look in looks(page_of(block(), block("table", number=2))):
        assert 0 < look.options.max_tokens <= CONTEXT_TOKENS - PICTURE_TOKENS - 20


#: Place of a figure -> the pixels of its view, and the tokens that its picture costs.
SIZES: dict[str, tuple[Box, int, int]] = {
    "small": ((0.2, 0.2, 0.6, 0.4), 640, 273),
    "just small": ((0.2, 0.2, 0.7, 0.3), 640, 273),
    "over one view": ((0.2, 0.2, 0.75, 0.6), 1280, 693),
    "wide": ((0.05, 0.2, 0.95, 0.5), 1280, 483),
    "very wide": ((0.02, 0.2, 0.98, 0.26), LONGEST_SIDE_PX, 883),
    "high": ((0.1, 0.1, 0.55, 0.9), 1920, 603),
}


@pytest.mark.parametrize("case", SIZES)
def test_size_of_a_look(tmp_path: Path, case: str) -> None:
    """A small figure costs one view; a larger one is rendered as finely as the crops can show it."""
    box, side_px, tokens = SIZES[case]
    stripes = b" ".join(b"%d 0 3 842 re f" % (9 * number) for number in range(70))
    path = documents.write(tmp_path, documents.content_pdf([stripes]))
    look = looks(page_of(block(box=box)))[0]
    assert look.view.side_px == side_px
    image = load_page(path, 0, needs="tiles", limits=LIMITS, mode=Mode.GUNDAM, view=look.view)
    assert image.tiles is not None
    close_document()
    assert image.tiles.token_count == tokens
    left, top, right, bottom = look.view.box
    assert (left < box[0], top < box[1], right > box[2], bottom > box[3]) == (True,) * 4


def test_margin_stays_on_the_page() -> None:
    """At the edge of the page there is no more to look at."""
    for view in (looks(page_of(block(box=(0, 0, 1, 0.3))))[0].view, pictures(page_of(block(box=(0, 0, 1, 1))))[0][2]):
        assert view.box[:2] == (0, 0)
        assert view.box[2] == 1


def test_a_page_of_pictures_is_bounded() -> None:
    """Of very many figures the largest are looked at, in the order of the page."""
    sides = [0.1 + 0.001 * (7 * number % 50) for number in range(50)]
    many = [block(box=(0.1, 0.1, 0.1 + side, 0.1 + side), number=number) for number, side in enumerate(sides, 1)]
    found = looks(page_of(*many))
    assert len(found) == 2 * MAX_FIGURES
    numbers = list(dict.fromkeys(int(look.block_id[3:]) for look in found))
    assert numbers == sorted(numbers)
    assert {sides[number - 1] for number in numbers} == set(sorted(sides)[-MAX_FIGURES:])


# Pictures


def test_pictures_of_a_page() -> None:
    """Each figure and chart with a place has a picture, named by page and position, finer than the page was seen."""
    page = page_of(
        block("heading", "Ships"), block(number=2), block("chart", box=(0, 0, 1, 1), number=3),
        block(box=None, number=4), block(box=(0.5, 0.5, 0.5, 0.9), number=5), block("table", EVEN, number=6),
        block(number=7),
    )  # fmt: skip
    found = pictures(page.model_copy(update={"page_number": 12}))
    assert [(one, name) for one, name, _ in found] == [
        ("p1b2", "p0012-b02.png"),
        ("p1b3", "p0012-b03.png"),
        ("p1b7", "p0012-b07.png"),
    ]
    small, whole = found[0][2], found[1][2]
    assert small.side_px / ((small.box[2] - small.box[0]) * 595) == pytest.approx(3, abs=0.01)
    assert whole.side_px == MAX_PICTURE_PX
    assert pictures(page_of(block(), width=400, height=300, unit="px"))[0][2].side_px < 200


def test_blocks_name_their_pictures() -> None:
    """Blocks whose picture was made name it, and the Markdown shows it."""
    page = with_pictures(page_of(block(), block(number=2)), {"p1b1": "p0001-b01.png"})
    assert [one.image for one in page.blocks] == ["p0001-b01.png", None]
    assert "![](x.pdf.images/p0001-b01.png)" in page_markdown(page, "x.pdf.images")
