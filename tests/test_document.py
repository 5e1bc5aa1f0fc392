"""The document model: what it takes, what it refuses, and that its JSON comes back."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from deepseek_ocr.document import CATEGORIES, FORMAT, VERSION, Block, Category, Document, DocumentHead, Page

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
    assert (content["format"], content["version"]) == (FORMAT, VERSION) == ("ocr-daemon/docjson", "0.1")


#: Name -> model, its content, and what is changed in it.
REFUSED: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "page number zero": (Page, PAGE, {"page_number": 0}),
    "no width": (Page, PAGE, {"width": 0}),
    "another unit": (Page, PAGE, {"unit": "mm"}),
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


def test_a_document_has_a_schema() -> None:
    """Programs can validate what they read; every field of a page that needs words has them."""
    schema = Document.model_json_schema()
    fields = schema["$defs"]["Page"]["properties"]
    assert {name for name, field in fields.items() if "description" not in field} <= {"page_number"}
