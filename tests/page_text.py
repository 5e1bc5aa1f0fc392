"""What a page says, for tests that look for words in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_ocr.document import Page


def text(page: Page) -> str:
    """All text of a page."""
    return "\n".join(block.text for block in page.blocks)
