"""Captions find what they belong to, and figures their text."""

from __future__ import annotations

import pytest

from deepseek_ocr.captions import CONTEXT_CHARS, context, linked
from deepseek_ocr.document import Block, category_of

Box = tuple[float, float, float, float]


def block(number: int, label: str, text: str = "", box: Box | None = None) -> Block:
    """A block of a page of 1 x 1."""
    return Block(id=f"p1b{number}", category=category_of(label), label=label, text=text, box=box, relative_box=box)


TOP, MIDDLE, BELOW = (0.1, 0.1, 0.9, 0.4), (0.1, 0.41, 0.9, 0.44), (0.1, 0.5, 0.9, 0.8)
LEFT, RIGHT = (0.1, 0.1, 0.45, 0.4), (0.55, 0.1, 0.9, 0.4)
#: Labels, texts and boxes in order -> caption and its owner, by position from 1.
PAGES: dict[str, tuple[list[tuple[str, str, Box | None]], dict[int, int]]] = {
    "below its figure": ([("image", "", TOP), ("image_caption", "a", MIDDLE)], {2: 1}),
    "above its table": ([("table_caption", "a", None), ("table", "t", None)], {1: 2}),
    "between a figure and a table": (
        [("image", "", None), ("table_caption", "a", None), ("table", "t", None), ("image_caption", "b", None)],
        {2: 3, 4: 1},
    ),
    "each below its own": (
        [("image", "", LEFT), ("image_caption", "a", (0.1, 0.41, 0.45, 0.43)), ("image", "", RIGHT),
         ("image_caption", "b", (0.55, 0.41, 0.9, 0.43))],
        {2: 1, 4: 3},
    ),
    "each above its own": (
        [("image_caption", "a", (0.1, 0.05, 0.45, 0.09)), ("image", "", LEFT),
         ("image_caption", "b", (0.55, 0.05, 0.9, 0.09)), ("image", "", RIGHT)],
        {1: 2, 3: 4},
    ),
    "nearer by the page than by the order": (
        [("image", "", BELOW), ("text", "x", None), ("image", "", TOP), ("image_caption", "a", (0.1, 0.82, 0.9, 0.85))],
        {4: 1},
    ),
    "two of one figure": (
        [("image", "", TOP), ("image_caption", "a", MIDDLE), ("image_caption", "b", (0.1, 0.45, 0.9, 0.48))],
        {2: 1, 3: 1},
    ),
    "each above its own, and nearer to the one before": (
        [("table_caption", "a", (0, 0, 1, 0.03)), ("table", "t", (0, 0.05, 1, 0.2)),
         ("table_caption", "b", (0, 0.205, 1, 0.235)), ("table", "t", (0, 0.25, 1, 0.4)),
         ("table_caption", "c", (0, 0.4, 1, 0.43)), ("table", "t", (0, 0.45, 1, 0.6))],
        {1: 2, 3: 4, 5: 6},
    ),
    "each below its own, and nearer to the next": (
        [("image", "", (0, 0, 1, 0.2)), ("image_caption", "a", (0, 0.22, 1, 0.24)),
         ("image", "", (0, 0.24, 1, 0.4)), ("image_caption", "b", (0, 0.42, 1, 0.44))],
        {2: 1, 4: 3},
    ),
    "a footnote makes no room": (
        [("table_caption", "a", (0, 0, 1, 0.03)), ("table", "t", (0, 0.03, 1, 0.2)),
         ("table_footnote", "b", (0, 0.2, 1, 0.22)), ("table", "t", (0, 0.4, 1, 0.6))],
        {1: 2, 3: 2},
    ),
    "a table's words on a picture's label": (
        [("table", "t", TOP), ("image_caption", "Table 2: x", MIDDLE)], {2: 1},
    ),
    "a footnote beside the caption": (
        [("table_caption", "a", None), ("table", "t", None), ("table_footnote", "* b", None)], {1: 2, 3: 2},
    ),
    "by its words": (
        [("chart", "", None), ("text_caption", "Tabelle 1", None), ("table", "t", None)], {2: 3},
    ),
    "of a chart": ([("chart", "", None), ("figure_title", "Figure 3", None)], {2: 1}),
    "only the wrong kind is there": ([("image", "", None), ("table_caption", "a", None)], {2: 1}),
    "too far on the page": ([("image", "", (0, 0, 1, 0.1)), ("image_caption", "a", (0, 0.9, 1, 1))], {}),
    "too far in the order": ([("image", "", None), *[("text", "x", None)] * 5, ("image_caption", "a", None)], {}),
    "nothing to belong to": ([("image_caption", "a", None)], {}),
}  # fmt: skip


@pytest.mark.parametrize(("content", "owners"), PAGES.values(), ids=PAGES)
def test_captions_find_their_figures(content: list[tuple[str, str, Box | None]], owners: dict[int, int]) -> None:
    """By kind, place and order; and the link holds both ways."""
    blocks = linked([block(number, *one) for number, one in enumerate(content, 1)])
    found = {number: one.caption_of for number, one in enumerate(blocks, 1) if one.caption_of}
    assert found == {caption: f"p1b{owner}" for caption, owner in owners.items()}
    for number, one in enumerate(blocks, 1):
        assert one.captions == tuple(f"p1b{caption}" for caption, owner in owners.items() if owner == number)


def test_a_figure_knows_the_text_around_it() -> None:
    """The nearest running text on each side, captions left out; long ones are cut at a word."""
    blocks = [
        block(1, "text", "far"), block(2, "text", "word " * 200), block(3, "image"), block(4, "image_caption", "c"),
        block(5, "sub_title", "after"),
    ]  # fmt: skip
    figure = linked(blocks)[2]
    assert figure.context is not None
    assert figure.context.before.startswith("… word word")
    assert len(figure.context.before) <= CONTEXT_CHARS + 2
    assert figure.context.after == "after"
    assert context(blocks, 0).after.endswith("word …")
    assert linked(blocks)[1].context is None
