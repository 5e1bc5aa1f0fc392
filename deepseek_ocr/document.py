"""The document model (DocJSON): document, pages and blocks with their places, versioned.

What is written stays readable: a field is added with a default and a new minor version, a change of meaning gets a
new major version.  The JSON Schema of what is written lies beside this module, in docjson.schema.json.

Left to others: how a block comes to be (`blocks.py`), its Markdown (`markdown.py`).
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Final = "ocr-daemon/docjson"
VERSION: Final = "1.0"

Category = Literal["heading", "text", "formula", "table", "figure", "chart", "caption"]

#: The words engines and models use -> our categories (DeepSeek-OCR's own labels; others are text).
CATEGORIES: Final[dict[str, Category]] = {
    "title": "heading",
    "sub_title": "heading",
    "text": "text",
    "equation": "formula",
    "formula": "formula",
    "table": "table",
    "image": "figure",
    "figure": "figure",
    "chart": "chart",
    "image_caption": "caption",
    "table_caption": "caption",
    "figure_title": "caption",
    "table_footnote": "caption",
    "footnote": "text",
    "page_footnote": "text",
}
#: What a label that is not one of those may hold, the first that fits; seen: "table_body", "equation group",
#: "text_caption", "equation 1", "table C1".
_PARTS: Final[tuple[tuple[str, Category], ...]] = (
    ("caption", "caption"),
    ("footnote", "caption"),
    ("figure_title", "caption"),
    ("table_title", "caption"),
    ("chart_title", "caption"),
    ("chart", "chart"),
    ("equation", "formula"),
    ("formula", "formula"),
    ("table", "table"),
    ("title", "heading"),
)


def category_of(label: str) -> Category:
    """The category of a label, whatever its letters' case; text for one nobody knows."""
    known = label.strip().lower()
    if known in CATEGORIES:
        return CATEGORIES[known]
    return next((category for part, category in _PARTS if part in known), "text")


class Flag(StrEnum):
    """What is to be known of a block before it is trusted.

    clamped: a coordinate was outside of the page and is at its edge now.
    degenerate: its box was written without width or height, or with its sides exchanged.
    recovered: its tag was malformed, or it was told apart from the text of another block.
    no_box: nobody knows where it stands.
    unclosed: a table that breaks off before its end.
    loop_cut: a repetition was cut off.
    fallback: read in another way than asked for, as that failed.
    retried: read more than once; this is the best of it.
    """

    CLAMPED = "clamped"
    DEGENERATE = "degenerate"
    RECOVERED = "recovered"
    NO_BOX = "no_box"
    UNCLOSED = "unclosed"
    LOOP_CUT = "loop_cut"
    FALLBACK = "fallback"
    RETRIED = "retried"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


#: left, top, right, bottom.
PageBox = Annotated[tuple[float, float, float, float], Field(description="left, top, right, bottom in the page's unit")]
Confidence = Annotated[float, Field(ge=0, le=1)]


class Context(_Model):
    """The text around a figure, chart or table, on its page."""

    before: str = Field(default="", description="the end of the nearest text before it, 400 characters at most")
    after: str = Field(default="", description="the beginning of the nearest text behind it, 400 characters at most")


class Block(_Model):
    """A piece of a page."""

    id: str = Field(description="unique in the document: p<page number>b<position>")
    category: Category
    label: str = Field(description="the engine's own word, or marks of a heading; empty where it gave none")
    text: str = Field(description="HTML for a table that was read as one, else text; see `markup`")
    markup: bool = Field(
        default=False,
        description="true: the text is Markdown with formulas in \\(..\\) and \\[..\\]; false: it is only what stands "
        "on the page",
    )
    box: PageBox | None = Field(default=None, description="around all of the block; null where nobody knows")
    relative_box: tuple[Confidence, Confidence, Confidence, Confidence] | None = Field(
        default=None, description="the same in fractions of the page's width and height"
    )
    raw_boxes: tuple[tuple[float, float, float, float], ...] = Field(
        default=(), description="as the model wrote them, meant as 0 to 999; empty where an engine writes none"
    )
    level: int | None = Field(default=None, ge=1, le=6, description="of a heading, over the whole document; 1 = title")
    caption_of: str | None = Field(default=None, description="of a caption: the id of its figure, chart or table")
    captions: tuple[str, ...] = Field(default=(), description="of a figure, chart or table: the ids of its captions")
    context: Context | None = Field(default=None, description="of a figure, chart or table")
    flags: tuple[Flag, ...] = ()
    confidence: Confidence | None = Field(default=None, description="mean over its letters, of engines that tell")
    description: str | None = Field(default=None, description="of a figure or chart in words, by a second look at it")
    data: str | None = Field(default=None, description="of a chart or figure, by a second look at it: HTML or text")
    image: str | None = Field(default=None, description="file name of its picture in <document>.images/")


class Attempt(_Model):
    """One way in which a page was read, or was tried to be."""

    way: str = Field(description="what was asked: the task, and what differs from the first try")
    outcome: str = Field(description="what came of it, in words; empty = a good page")
    seconds: float = Field(ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class Provenance(_Model):
    """How a page was read."""

    engine: str
    model: str
    mode: str | None = Field(default=None, description="resolution, of engines that have modes")
    finish_reason: str = Field(default="", description="why the engine stopped; stop = by itself")
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    attempts: tuple[Attempt, ...] = Field(default=(), description="all that was tried, where once was not enough")


class PageOddity(_Model):
    """A stretch of the engine's answer that could not be understood as it was written; kept, as it may be text."""

    kind: str = Field(description="what of a tag is missing, unclosed or misplaced (`OddityKind` in raw_blocks.py)")
    text: str = Field(description="the stretch as it was written")


class Page(_Model):
    """One page as it was read."""

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
    confidence: Confidence | None = Field(default=None, description="mean over the letters, where known")
    seconds: float = Field(ge=0, description="recognition, wall time")
    provenance: Provenance | None = Field(default=None, description="how it was read, where an engine was asked")
    oddities: tuple[PageOddity, ...] = Field(default=(), description="what was odd in the engine's answer, in order")


class DocumentHead(_Model):
    """All of a document that is known before its pages, which are written one by one."""

    format: Literal["ocr-daemon/docjson"] = FORMAT
    version: Literal["1.0"] = VERSION
    source_name: str = Field(description="file name, without its folder")
    source_type: str = Field(description="what it was found to be: pdf, png, tiff ...")
    engine: str = Field(description="what was asked to read it; a page's own provenance may differ")
    model: str = Field(description="the engine's model, a name or a folder")
    mode: str | None = Field(default=None, description="resolution, of engines that have modes")
    task: str = Field(description="what was asked for: document, image, free ...")
    page_count: int = Field(ge=1)


class DocumentTail(_Model):
    """What is known of a document when all its pages are; null or empty where nobody asked for it."""

    summary: str | None = Field(default=None, description="a few of its sentences, as they stand in it, in order")
    keywords: tuple[str, ...] = Field(default=(), description="as they stand in the text, the most telling first")
    language: str | None = Field(default=None, description="ISO 639-1")


class Document(DocumentHead, DocumentTail):
    """A whole document."""

    pages: tuple[Page, ...]


def schema() -> dict[str, Any]:
    """The JSON Schema of what is written."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Document.model_json_schema(
        mode="serialization"
    )


def schema_json() -> str:
    """The same as it lies in docjson.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
