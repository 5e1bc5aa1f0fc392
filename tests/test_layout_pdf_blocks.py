"""What is drawn over a page: a frame, a tag and a colour for each block, arrows, the legend and the notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_ocr.document import Flag, Page
from deepseek_ocr.layout_pdf import COLOURS, MAX_DRAWN, notes
from tests.documents import content_pdf, write
from tests.layouts import block, drawn, has, ink, page, pixels

if TYPE_CHECKING:
    from pathlib import Path

    from deepseek_ocr.completion import Box
    from deepseek_ocr.document import Category


def test_each_category_has_its_colour_and_a_caption_its_arrow(tmp_path: Path) -> None:
    """Tags tell number and category; between a caption and its figure is an arrow."""
    source = write(tmp_path, content_pdf([b""]))
    found = [
        block(number, (0.2, 0.12 * number, 0.8, 0.12 * number + 0.06), category)
        for number, category in enumerate(COLOURS, 1)
    ]
    found[-1] = found[-1].model_copy(update={"caption_of": found[0].id})
    layout = drawn(source, page(source, *found))
    image, words = pixels(layout), layout[0].get_text().splitlines()
    for number, (category, one) in enumerate(zip(COLOURS, found, strict=True), 1):
        assert f"{number} {category}" in words
        assert one.relative_box
        assert has(image, 0.8, one.relative_box[1] + 0.03, ink(category))
    assert has(image, 0.5, 0.5, ink("caption"))  # the arrow goes past the middle of the page
    assert words.count("formula") == 1  # the legend


@pytest.mark.parametrize(
    ("content", "box"),
    [(b"0 g 0 0 595 60 re f", (0.1, 0.1, 0.2, 0.2)), (b"", (0.0, 0.9, 1.0, 1.0))],
    ids=["ink of the page", "a block"],
)
def test_the_legend_hides_nothing(tmp_path: Path, content: bytes, box: Box) -> None:
    """Where something is at the foot of the first page, there is no legend."""
    source = write(tmp_path, content_pdf([content]))
    assert "heading" not in drawn(source, page(source, block(1, box, "heading")))[0].get_text().splitlines()


def test_notes() -> None:
    """A page's problem comes first; flags name their blocks, blocks without a place are counted."""
    blocks = [
        block(1, None, flags=(Flag.NO_BOX,)),
        *(block(number, (0, 0, 1, 1), flags=(Flag.CLAMPED, Flag.LOOP_CUT)) for number in range(2, 12)),
    ]
    told = Page(
        page_number=7, width=1, height=1, unit="pt", blocks=(*blocks, *[blocks[0]] * MAX_DRAWN), problem="why",
        source="x", seconds=0,
    )  # fmt: skip
    assert notes(told, "gone") == [
        "Page 7 was not read as it should be: why",
        "Page 7 cannot be shown: gone",
        "1001 blocks without a place",
        "11 blocks more than are drawn",
        "clamped: 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
        "loop cut: 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
    ]


SHARES = st.floats(0, 1)
BLOCKS = st.lists(
    st.builds(
        lambda box, category, flags, target: (box, category, flags, target),
        st.none() | st.tuples(SHARES, SHARES, SHARES, SHARES),
        st.sampled_from([*COLOURS]),
        st.sets(st.sampled_from([*Flag])),
        st.integers(0, 12),
    ),
    max_size=12,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BLOCKS, st.none() | st.text(max_size=2000), st.sampled_from([(1, 1), (595, 842), (14_400, 3), (5000, 7000)]))
def test_any_blocks(
    tmp_path: Path,
    rows: list[tuple[Box | None, Category, set[Flag], int]],
    problem: str | None,
    size: tuple[int, int],
) -> None:
    """Whatever the blocks and the page's size, there is a page of that size with its blocks' tags on it."""
    source = write(tmp_path, content_pdf([b""], size=size))
    blocks = [
        block(number, box, category, flags=tuple(sorted(flags))).model_copy(update={"caption_of": f"p1b{target}"})
        for number, (box, category, flags, target) in enumerate(rows, 1)
    ]
    layout = drawn(source, page(source, *blocks, problem=problem and problem.encode("utf-8", "replace").decode()))
    assert (layout[0].rect.width, layout[0].rect.height) == pytest.approx(size)
    # In the order they were drawn, as tags may stand on each other; spaces are left out.
    letters = "".join(chr(letter[0]) for span in layout[0].get_texttrace() for letter in span["chars"])
    for number, one in enumerate(blocks, 1):
        assert one.relative_box is None or f"{number}{one.category}" in letters.replace(" ", "")
