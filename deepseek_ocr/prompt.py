"""Tasks and resolution modes: the words a caller uses to say what an engine shall do with a page."""

from __future__ import annotations

from enum import StrEnum


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
