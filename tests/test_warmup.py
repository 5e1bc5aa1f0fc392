"""The page that an engine must have read before the service calls itself ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.warmup import WARMUP_TEXT, warmup_pdf
from deepseek_ocr.pages import Limits, close_document, inspect, load_page

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_a_sound_page_that_says_its_text(tmp_path: Path) -> None:
    """It opens without repair, has one page with ink, and its text layer is the text that is looked for."""
    path = tmp_path / "warmup.pdf"
    path.write_bytes(warmup_pdf())
    try:
        info = inspect(path, Limits())
        page = load_page(path, 0, needs="pixels", limits=Limits())
    finally:
        close_document()
    assert (info.kind, info.page_count, info.repaired) == ("pdf", 1, False)
    assert [region.text for region in page.text_layer] == [WARMUP_TEXT]
    assert page.ink > 0
    assert page.damage == ""
