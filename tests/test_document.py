"""The document model: what it takes, what it refuses, and that its JSON comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.document import (
    CATEGORIES,
    FORMAT,
    VERSION,
    Block,
    Category,
    Document,
    DocumentHead,
    Flag,
    Page,
    category_of,
    schema,
    schema_json,
)

ROOT = Path(__file__).parent.parent

BLOCK: dict[str, Any] = {
    "id": "p1b1", "category": "text", "label": "text", "text": "Zeile \u2028 日本", "box": (0, 0, 10, 5.25),
    "confidence": 0.5,
}  # fmt: skip
PAGE: dict[str, Any] = {
    "page_number": 1, "width": 595.3, "height": 842, "unit": "pt", "blocks": [BLOCK], "source": "cpu", "seconds": 0.5,
}  # fmt: skip
HEAD: dict[str, Any] = {
    "source_name": "x.pdf", "source_type": "pdf", "engine": "cpu", "model": "rapidocr", "task": "document",
    "page_count": 1,
}  # fmt: skip


def test_a_document_comes_back_from_its_json() -> None:
    """What was written is what is read, and it says its format and version."""
    document = Document(**HEAD, pages=(Page(**PAGE),))
    written = document.model_dump_json()
    assert Document.model_validate_json(written) == document
    content = json.loads(written)
    assert (content["format"], content["version"]) == (FORMAT, VERSION) == ("ocr-daemon/docjson", "1.0")


#: Name -> model, its content, and what is changed in it.
REFUSED: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "page number zero": (Page, PAGE, {"page_number": 0}),
    "no width": (Page, PAGE, {"width": 0}),
    "another unit": (Page, PAGE, {"unit": "mm"}),
    "an old version": (DocumentHead, HEAD, {"version": "0.1"}),
    "another flag": (Block, BLOCK, {"flags": ["wrong"]}),
    "a level too deep": (Block, BLOCK, {"level": 7}),
    "off the page": (Block, BLOCK, {"relative_box": (0, 0, 1, 1.01)}),
    "unknown key": (Page, PAGE, {"rotation": 90}),
    "confidence over one": (Block, BLOCK, {"confidence": 1.1}),
    "another category": (Block, BLOCK, {"category": "title"}),
    "half a box": (Block, BLOCK, {"box": (0, 0, 1)}),
    "no pages": (DocumentHead, HEAD, {"page_count": 0}),
    "another format": (DocumentHead, HEAD, {"format": "other"}),
}


@pytest.mark.parametrize(("model", "content", "change"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(model: type[Any], content: dict[str, Any], change: dict[str, Any]) -> None:
    """A page, block or document that breaks the model is an error, not a surprise for a reader."""
    model(**content)
    with pytest.raises(ValidationError):
        model(**{**content, **change})


def test_every_label_has_one_of_the_seven_categories() -> None:
    """Engines' words lead to our categories, and each category but the engine's own default is reached."""
    assert set(CATEGORIES.values()) == set(get_args(Category))
    assert len(get_args(Category)) == 7


def test_a_page_without_extras_has_good_defaults() -> None:
    """Not blank, no problem, no confidence."""
    page = Page(**PAGE)
    assert (page.blank, page.problem, page.confidence) == (False, None, None)


#: The model's own word -> category, all of them seen.
LABELS = {
    "title": "heading", "sub_title": "heading", "equation": "formula", "equation group": "formula",
    "equation 1": "formula", "table_body": "table", "table C1": "table", "image": "figure", "chart": "chart",
    "figure_title": "caption", "table_title": "caption", "table_footnote": "caption", "text_caption": "caption",
    "Image_Caption": "caption", "footnote": "text",
    "text_begin": "text", "text of text": "text", "page_number": "text", "header": "text", "": "text",
}  # fmt: skip


@pytest.mark.parametrize(("label", "category"), LABELS.items(), ids=LABELS)
def test_labels_nobody_listed_find_a_category(label: str, category: str) -> None:
    """The vocabulary is open: what resembles a known word is that, all else is text."""
    assert category_of(label) == category


def test_the_schema_is_the_one_that_is_shipped(request: pytest.FixtureRequest) -> None:
    """Programs can validate what they read; after a change: pytest tests/test_document.py --update-golden."""
    path = ROOT / "deepseek_ocr" / "docjson.schema.json"
    if request.config.getoption("--update-golden"):
        path.write_text(schema_json(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == schema_json()


def test_what_is_written_fits_the_schema() -> None:
    """Also of odd answers: each shape of the golden files, and what is known when all pages are."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "golden").glob("*.txt"))]
    pages = [
        page_from(PageImage(index, 595, 842, "pt", None, 0.1), Completion(text, "stop", 1.0), source="fake")
        for index, text in enumerate(texts)
    ]
    document = Document(**HEAD, pages=tuple(pages), summary="A.", keywords=("a",), language="en")
    validator = pytest.importorskip("jsonschema").Draft202012Validator(schema())  # comes with docling-core
    assert not list(validator.iter_errors(json.loads(document.model_dump_json())))
    ids = [block.id for page in pages for block in page.blocks]
    assert len(ids) == len(set(ids)) > len(pages)


def test_every_flag_is_explained() -> None:
    """The schema says what each flag means."""
    words = schema()["$defs"]["Flag"]["description"]
    assert all(f"\n{flag}: " in words for flag in Flag)


#: Names that say all there is to say.
PLAIN = {"format", "version", "category", "pages", "page_number", "engine", "model", "task", "text", "kind", "flags",
         "page_count", "seconds", "prompt_tokens", "completion_tokens"}  # fmt: skip


def test_every_field_has_its_words() -> None:
    """Every field of the schema whose name does not say it all is described."""
    content = schema()
    models = [content, *content["$defs"].values()]
    fields = {name: field for model in models for name, field in model.get("properties", {}).items()}
    assert {name for name, field in fields.items() if "description" not in field} <= PLAIN
