"""Pages from what is known of them: the problem, the blocks, and how it was read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.document import Flag, Page, Provenance
from deepseek_ocr.prompt import Mode, Options, Task
from tests.fakes import FakeEngine, completion
from tests.page_text import text


def image(**more: Any) -> PageImage:
    """A loaded page."""
    default: dict[str, Any] = {"pixels": np.zeros((1, 1, 3), np.uint8), "ink": 0.1}
    return PageImage(page_index=0, width=100, height=200, unit="px", **{**default, **more})


def test_a_damaged_page_is_never_without_a_problem() -> None:
    """What is known to be lost of a page is said, unless something worse is."""
    assert page_from(image(damage="a picture is cut off"), completion("x"), source="fake").problem == (
        "a picture is cut off"
    )
    assert page_from(image(damage="d"), completion("x"), source="fake", problem="worse").problem == "worse"


@pytest.mark.parametrize("task", [Task.DOCUMENT, Task.FREE, Task.FIGURE, Task.DESCRIBE])
def test_text_without_places_is_one_block(task: Task) -> None:
    """An engine that gives text only loses none of it: it is Markdown, and nobody knows where it stands."""
    page = page_from(image(), Completion("some *words*", "stop", 0.1), source="fake", options=Options(task))
    assert [(block.text, block.box, block.markup, block.flags) for block in page.blocks] == [
        ("some *words*", None, True, (Flag.NO_BOX,))
    ]
    assert page_from(image(), Completion(" ", "stop", 0.1), source="fake").blocks == ()


def test_the_models_tags_become_blocks() -> None:
    """A raw text of the model gives blocks in page units, and says what was odd in it."""
    raw = "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 1998]]<|/det|>\n# Log\n\n<|ref|>text<|/ref|>words"
    page = page_from(image(), Completion(raw, "stop", 0.1), source="fake")
    assert [(block.category, block.text, block.box, block.flags) for block in page.blocks] == [
        ("heading", "Log", (0, 0, 100, 200), (Flag.CLAMPED,)), ("text", "words", None, (Flag.NO_BOX, Flag.RECOVERED)),
    ]  # fmt: skip
    assert page.blocks[0].raw_boxes == ((0, 0, 999, 1998),)
    assert [oddity.kind for oddity in page.oddities] == ["det_missing"]


def test_a_page_says_how_it_was_read() -> None:
    """Engine, model, mode asked for, tokens and the end of the answer are kept with the page."""
    info = replace(FakeEngine().info, mode=Mode.GUNDAM)
    answer = Completion("words", "length", 0.1, prompt_tokens=903, completion_tokens=7)
    page = page_from(image(), answer, source="fake", options=Options(mode=Mode.TINY), info=info)
    assert page.provenance == Provenance(
        engine=info.name, model=info.model, mode="tiny", finish_reason="length", prompt_tokens=903, completion_tokens=7
    )
    assert page_from(image(), answer, source="fake").provenance is None


def test_letters_that_no_file_can_hold_are_replaced() -> None:
    """A broken font's lone surrogates and NUL do not keep a page from being written."""
    page = page_from(image(), completion("a\ud800b\0c"), source="fake")
    assert text(page) == "a?bc"
    assert Page.model_validate_json(page.model_dump_json()) == page
