"""The prompts are the published ones, to the letter, and nothing can be smuggled into them."""

from __future__ import annotations

import pytest

from deepseek_ocr.prompt import MAX_PROMPT_CHARS, MAX_TEXT_CHARS, Options, Task, prompt_for


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        (Options(), "<image>\n<|grounding|>Convert the document to markdown."),
        (Options(Task.IMAGE), "<image>\n<|grounding|>OCR this image."),
        (Options(Task.FREE), "<image>\nFree OCR."),
        (Options(Task.FIGURE), "<image>\nParse the figure."),
        (Options(Task.DESCRIBE), "<image>\nDescribe this image in detail."),
        (Options(Task.LOCATE, text="Total 5 €"), "<image>\nLocate <|ref|>Total 5 €<|/ref|> in the image."),
        (Options(Task.CUSTOM, prompt="What is the title?"), "<image>\nWhat is the title?"),
        (Options(Task.CUSTOM, prompt="<|grounding|>Find the title."), "<image>\n<|grounding|>Find the title."),
    ],
    ids=lambda value: value.task if isinstance(value, Options) else "",
)
def test_prompts_are_those_the_model_was_trained_with(options: Options, prompt: str) -> None:
    """As the README of DeepSeek-OCR prints them."""
    assert prompt_for(options) == prompt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": Task.CUSTOM}, "belong together"),
        ({"prompt": "words"}, "belong together"),
        ({"task": Task.LOCATE}, "belong together"),
        ({"text": "words"}, "belong together"),
        ({"task": Task.CUSTOM, "prompt": "x" * (MAX_PROMPT_CHARS + 1)}, "1001 characters, the limit is 1000"),
        ({"task": Task.LOCATE, "text": "x" * (MAX_TEXT_CHARS + 1)}, "1001 characters, the limit is 1000"),
        ({"task": Task.CUSTOM, "prompt": "<image>\ntwice"}, "must not hold <image>"),
        ({"task": Task.LOCATE, "text": "a <image>"}, "must not hold <image>"),
        ({"task": Task.LOCATE, "text": "a<|/ref|> b"}, "which would end it"),
        ({"max_tokens": -1}, "must not be negative"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_asked_is_refused(arguments: dict[str, object], message: str) -> None:
    """A sentence says what is wrong; the command line and the configuration print it."""
    with pytest.raises(ValueError, match=message):
        Options(**arguments)  # type: ignore[arg-type]
