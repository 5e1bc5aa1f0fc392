"""Tasks, prompts and resolution modes: what a caller asks of a page, and the words the model is asked with.

The prompts are those the model was trained with (DeepSeek-OCR README, "Prompts examples"); it is very sensitive to
their wording.  There is no chat template: raw text after the BOS token, at temperature 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from deepseek_ocr.guard import PUBLISHED, Guard

#: Where the picture stands in a prompt; each prompt has it exactly once, first.
IMAGE_TOKEN: Final = "<image>"
#: Before a prompt that wants boxes.
GROUNDING_TOKEN: Final = "<|grounding|>"
#: What a prompt may not smuggle in: they would end the picture, the text looked for, or the answer.
_STRUCTURE: Final = (IMAGE_TOKEN, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")  # noqa: RUF001 - as published
#: Tokens of context the model was trained with (config.json, max_position_embeddings): picture, prompt and answer.
CONTEXT_TOKENS: Final = 8192
#: Characters of a prompt of one's own.  A character is 4 tokens at most (UTF-8 bytes), so half of the context stays.
MAX_PROMPT_CHARS: Final = 1000
#: Characters of a text to look for; longer ones are never on one line.
MAX_TEXT_CHARS: Final = 1000


class Task(StrEnum):
    """What is asked of a page; names follow the model's published prompts (DeepSeek-OCR README)."""

    DOCUMENT = "document"
    """Layout and text, as Markdown with boxes."""
    IMAGE = "image"
    """Every text in a picture, with its box."""
    FREE = "free"
    """Plain text without layout."""
    FIGURE = "figure"
    """The data in a chart, formula or drawing."""
    DESCRIBE = "describe"
    """A description of the picture."""
    LOCATE = "locate"
    """Where a given text stands; needs `text`."""
    CUSTOM = "custom"
    """The caller's own prompt; needs `prompt`."""


#: The tasks that are nothing but reading, which every engine can do.
READING_TASKS = frozenset({Task.DOCUMENT, Task.IMAGE, Task.FREE})


class Mode(StrEnum):
    """Resolution of what the model sees (DeepSeek-OCR README, "Support-Modes"); other engines ignore it."""

    TINY = "tiny"
    """One view of 512 x 512 pixels."""
    SMALL = "small"
    """One view of 640 x 640 pixels."""
    BASE = "base"
    """One view of 1024 x 1024 pixels."""
    LARGE = "large"
    """One view of 1280 x 1280 pixels."""
    GUNDAM = "gundam"
    """One view of 1024 x 1024 pixels and 2 to 6 crops of 640 x 640."""


#: Base where a page is seen well enough with it, gundam elsewhere; decided for each page from its picture.
AUTO: Final = "auto"
#: What may be asked for.
ModeChoice = Mode | Literal["auto"]


def mode_choice(word: str) -> ModeChoice:
    """The choice that people name so; raises `ValueError`."""
    return AUTO if word == AUTO else Mode(word)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a page."""

    task: Task = Task.DOCUMENT
    #: For `Task.CUSTOM`: the words after the picture.
    prompt: str = ""
    #: For `Task.LOCATE`: the text to look for.
    text: str = ""
    #: None = the engine's own.
    mode: ModeChoice | None = None
    #: Tokens of the answer at most; 0 = as many as the context holds.
    max_tokens: int = 0
    #: Against repetition, where the engine has one.
    guard: Guard = PUBLISHED

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be asked; the message says what is wrong."""
        if (self.task is Task.CUSTOM) != bool(self.prompt):
            raise ValueError('task = "custom" and prompt belong together')
        if (self.task is Task.LOCATE) != bool(self.text):
            raise ValueError('task = "locate" and text belong together')
        for name, value, limit in (("prompt", self.prompt, MAX_PROMPT_CHARS), ("text", self.text, MAX_TEXT_CHARS)):
            if len(value) > limit:
                raise ValueError(f"{name} has {len(value)} characters, the limit is {limit}")
            for token in _STRUCTURE:
                if token in value:
                    raise ValueError(f"{name} must not hold {token}; the picture comes first by itself")
        if "<|/ref|>" in self.text:
            raise ValueError("text must not hold <|/ref|>, which would end it")
        if self.max_tokens < 0:
            raise ValueError("max_tokens must not be negative")


_PROMPTS: Final = {
    Task.DOCUMENT: f"{GROUNDING_TOKEN}Convert the document to markdown.",
    Task.IMAGE: f"{GROUNDING_TOKEN}OCR this image.",
    Task.FREE: "Free OCR.",
    Task.FIGURE: "Parse the figure.",
    Task.DESCRIBE: "Describe this image in detail.",
}


def prompt_for(options: Options) -> str:
    """The whole prompt, the picture's place included."""
    match options.task:
        case Task.CUSTOM:
            words = options.prompt
        case Task.LOCATE:
            words = f"Locate <|ref|>{options.text}<|/ref|> in the image."
        case task:
            words = _PROMPTS[task]
    return f"{IMAGE_TOKEN}\n{words}"
