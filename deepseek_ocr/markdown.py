"""Blocks of pages -> Markdown.  Pure.

Recognized text is data, not markup: what would start a heading, a list or HTML by accident is escaped, so that a
line "# 5" on paper stays a line.  Lists are kept, as readers expect them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_ocr.document import Block, Page

#: Heading levels by the engine's word.
LEVELS = {"title": 1}
_DEFAULT_LEVEL = 2

#: Bullets on paper -> a list item.
_BULLET = re.compile(r"^\s*[•◦▪‣·●○■□–—-]\s+")  # noqa: RUF001 - the dashes are what stands on paper
#: What would be markup at the beginning of a line, or of what stands in a list item: headings, quotes, "+" as a
#: bullet, underlined headings, rules, tables, fences.  "- x" and "1. x" stay: they are lists on paper too.
_LINE_START = re.compile(
    r"^((?:(?:-|\d{1,9}[.)])[ \t]+)*)(#{1,6}(?=\s|$)|>|\+(?=\s|$)|=+[ \t]*$|[-:][-:| \t]*$|\|)", re.MULTILINE
)
#: What would be markup anywhere: HTML and comments (a page mark, above all), emphasis, code, links, entities.
_INLINE = re.compile(r"([\\`*_\[\]<~]|&(?=#?\w+;))")
#: A heading may end with such, which would not be shown.
_CLOSING = re.compile(r"(?<!\S)(#+)$")


def page_markdown(page: Page) -> str:
    """One page with its mark; ends with a line feed."""
    parts = [page_mark(page)]
    parts += [text for text in map(block_markdown, page.blocks) if text]
    return "\n\n".join(parts) + "\n"


def page_mark(page: Page) -> str:
    """The comment that begins a page: its number, and what is wrong with it."""
    note = page.problem or ("blank" if page.blank else "")
    note = re.sub(r"-(?=-)", "- ", re.sub(r"\s+", " ", note)).replace(">", "")
    return f"<!-- page {page.page_number}: {note} -->" if note else f"<!-- page {page.page_number} -->"


def block_markdown(block: Block) -> str:
    """One block, without a line feed at its end."""
    text = block.text.strip()
    if not text:
        return ""
    if block.category == "heading":
        level = LEVELS.get(block.label, _DEFAULT_LEVEL)
        return "#" * level + " " + _CLOSING.sub(r"\\\1", _INLINE.sub(r"\\\1", " ".join(text.split())))
    # Without its indentation, which would make it code after an empty line.
    lines = [_BULLET.sub("- ", line).strip() for line in text.splitlines()]
    return _LINE_START.sub(r"\1\\\2", _INLINE.sub(r"\\\1", "\n".join(lines)))
