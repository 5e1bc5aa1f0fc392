"""Written answers of every shape -> Markdown, compared byte by byte.

tests/golden/NAME.txt is what the model says, its pages apart by a line "--page--"; NAME.md is what becomes of it.
After a change on purpose: python -m pytest tests/test_golden.py --update-golden, and look at the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek_ocr.attempt import page_from
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.headings import levelled, survey
from deepseek_ocr.markdown import page_markdown
from deepseek_ocr.prompt import Options, Task

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.txt"))
PAGE_BREAK = "--page--\n"
#: What was asked, where it was not the document.
TASKS = {"image_task": Task.IMAGE, "ungrounded": Task.FREE}


def converted(name: str) -> str:
    """The Markdown of a written answer."""
    options = Options(TASKS.get(name, Task.DOCUMENT))
    texts = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").split(PAGE_BREAK)
    pages = [
        page_from(
            PageImage(index, 595, 842, "pt", None, 0.1), Completion(text, "stop", 1.0), source="fake", options=options
        )
        for index, text in enumerate(texts)
    ]
    outline = survey(pages)
    return "\n".join(page_markdown(levelled(page, outline)) for page in pages)


@pytest.mark.parametrize("name", NAMES)
def test_markdown_is_as_written_down(name: str, request: pytest.FixtureRequest) -> None:
    """Each shape of an answer gives exactly the Markdown that was looked at."""
    path = GOLDEN / f"{name}.md"
    markdown = converted(name)
    if request.config.getoption("--update-golden"):
        path.write_text(markdown, encoding="utf-8")
    assert markdown == path.read_text(encoding="utf-8")


def test_there_are_a_dozen() -> None:
    """No file is left over on either side."""
    assert len(NAMES) >= 12
    assert {path.stem for path in GOLDEN.iterdir()} == set(NAMES)
