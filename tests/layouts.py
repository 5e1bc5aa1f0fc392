"""Blocks and pages to draw, the layout that is drawn of them, and which colour is where on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from daemon.outputs import write_document
from deepseek_ocr.document import Block, DocumentHead, Flag, Page
from deepseek_ocr.layout_pdf import COLOURS, draw_layout
from deepseek_ocr.pages_pdf import mupdf
from tests.documents import LIMITS, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box
    from deepseek_ocr.document import Category

#: How far a colour may be from what is meant, in levels of 255: edges are smoothed, JPEG is not exact.
NEAR = 60


def block(
    number: int, box: Box | None, category: Category = "text", page_number: int = 1, flags: tuple[Flag, ...] = ()
) -> Block:
    """A block at these fractions of its page."""
    block_id = f"p{page_number}b{number}"
    return Block(id=block_id, category=category, label="", text="x", box=box, relative_box=box, flags=flags)


def page(source: Path, *blocks: Block, page_number: int = 1, problem: str | None = None) -> Page:
    """A page of the source with these blocks."""
    seen = load(source, page_number - 1, pixels=False)
    return Page(
        page_number=page_number, width=seen.width, height=seen.height, unit=seen.unit, blocks=blocks,
        problem=problem, source="x", seconds=0,
    )  # fmt: skip


def head(pages: Sequence[Page]) -> DocumentHead:
    """The head of a document with these pages."""
    return DocumentHead(
        source_name="x", source_type="pdf", engine="x", model="x", task="document", page_count=len(pages)
    )


def drawn(source: Path, *pages: Page) -> Any:
    """The layout of a document, opened."""
    write_document(source.parent, "x", head(pages), lambda: pages)
    target = source.parent / "layout.pdf"
    draw_layout(source, source.parent / "x.json", target, LIMITS)
    return mupdf().open(stream=target.read_bytes())


def pixels(layout: Any, page_index: int = 0) -> NDArray[np.int16]:
    """A page of it as RGB (height, width, 3), 2,500 pixels on its longer side: two for a thin line."""
    sheet = layout[page_index]
    scale = 2500 / max(sheet.rect.width, sheet.rect.height)
    pixmap = sheet.get_pixmap(matrix=mupdf().Matrix(scale, scale), alpha=False, colorspace=mupdf().csRGB)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).astype(np.int16)


def has(image: NDArray[np.int16], x: float, y: float, colour: tuple[float, ...], reach: int = 2) -> bool:
    """Whether that colour (0 to 255) is within so many pixels of a place, in fractions of the page."""
    height, width, _ = image.shape
    row, column = round(y * height), round(x * width)
    part = image[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
    return bool((np.abs(part - np.array(colour)).max(axis=2) <= NEAR).any())


def ink(category: Category) -> tuple[float, ...]:
    """The colour of a category from 0 to 255."""
    return tuple(255 * part for part in COLOURS[category])
