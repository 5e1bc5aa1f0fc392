"""The document model (DocJSON): pages and blocks with their places, versioned.

What is written stays readable: a field is added with a default and a new minor version, a change of meaning gets a
new major version.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Final = "ocr-daemon/docjson"
VERSION: Final = "0.1"

Category = Literal["heading", "text", "formula", "table", "figure", "chart", "caption"]

#: The words engines and models use -> our categories (DeepSeek-OCR's own labels; others are text).
CATEGORIES: dict[str, Category] = {
    "title": "heading",
    "sub_title": "heading",
    "text": "text",
    "equation": "formula",
    "table": "table",
    "image": "figure",
    "figure": "figure",
    "chart": "chart",
    "image_caption": "caption",
    "table_caption": "caption",
    "figure_title": "caption",
    "table_footnote": "caption",
}

#: left, top, right, bottom.
PageBox = Annotated[tuple[float, float, float, float], Field(description="left, top, right, bottom in the page's unit")]


class Block(BaseModel):
    """A piece of a page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="unique in the document: p<page number>b<position>")
    category: Category
    label: str = Field(description="the engine's own word")
    text: str
    box: PageBox
    confidence: float | None = Field(default=None, ge=0, le=1)


class Page(BaseModel):
    """One page as it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    page_number: int = Field(ge=1)
    width: float = Field(gt=0, description="of the page as displayed, in `unit`")
    height: float = Field(gt=0, description="of the page as displayed, in `unit`")
    unit: Literal["pt", "px"] = Field(description="pt = 1/72 inch, px = pixels of the original picture")
    blocks: tuple[Block, ...] = Field(description="in reading order")
    blank: bool = Field(default=False, description="nothing is on the page")
    problem: str | None = Field(
        default=None,
        description="why the page was not read as it should be; null = it was; one makes the document partial",
    )
    source: str = Field(description="what the text comes from: an engine's name; textlayer = the file's own text")
    confidence: float | None = Field(default=None, ge=0, le=1, description="mean over the letters, where known")
    seconds: float = Field(ge=0, description="recognition, wall time")


class DocumentHead(BaseModel):
    """All of a document but its pages, which are written one by one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["ocr-daemon/docjson"] = FORMAT
    version: str = VERSION
    source_name: str
    source_type: str
    engine: str
    model: str
    task: str
    page_count: int = Field(ge=1)


class Document(DocumentHead):
    """A whole document."""

    pages: tuple[Page, ...]
