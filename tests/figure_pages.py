"""Pages with figures and tables, as a model read them, for the tests of the second pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepseek_ocr.document import Block, Page, Provenance

if TYPE_CHECKING:
    from typing import Literal

    from deepseek_ocr.completion import Box
    from deepseek_ocr.document import Category

MIDDLE = (0.2, 0.2, 0.6, 0.4)
PROVENANCE = Provenance(engine="fake", model="fake-1", mode="gundam", finish_reason="stop")


def block(
    category: Category = "figure", text: str = "", box: Box | None = MIDDLE, number: int = 1, **more: object
) -> Block:
    """A block of an A4 page that a model read."""
    scaled = box and (box[0] * 595, box[1] * 842, box[2] * 595, box[3] * 842)
    return Block.model_validate(
        {"id": f"p1b{number}", "category": category, "label": category, "text": text, "markup": True, "box": scaled,
         "relative_box": box} | more
    )  # fmt: skip


def page_of(*blocks: Block, width: float = 595, height: float = 842, unit: Literal["pt", "px"] = "pt") -> Page:
    """An A4 page."""
    return Page(
        page_number=1, width=width, height=height, unit=unit, blocks=blocks, source="fake", seconds=1,
        provenance=PROVENANCE,
    )  # fmt: skip


def html(*rows: str) -> str:
    """A table of rows that are written with bars."""
    lines = ("".join(f"<td>{cell.strip()}</td>" for cell in row.split("|")) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


EVEN = html("a | b | c", "1 | 2 | 3", "4 | 5 | 6")
