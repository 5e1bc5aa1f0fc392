"""The pages of a job that were read already, kept in its folder: after a crash it goes on where it was.

A checkpoint is of use for one source, engine, model, mode, task and format; all of that is its key.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from daemon.durable import move_over, write_file
from deepseek_ocr.document import Page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Checkpoint(NamedTuple):
    """A page that an earlier run kept."""

    page: Page
    #: Its figures and tables have had their second look.
    closer: bool


def write_checkpoint(folder: Path, key: str, page: Page, *, closer: bool = False) -> None:
    """Keep a page in `pages/`; the one that was there is replaced.

    No fsync: a process that is killed loses nothing that way, and after a power cut a torn one does not parse and is
    read again.
    """
    path = _path(folder, page.page_number)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    head = json.dumps({"key": key, "closer": closer}).encode()
    write_file(temporary, head + b"\n" + page.model_dump_json().encode() + b"\n", sync=False)
    move_over(temporary, path)


def read_checkpoint(folder: Path, key: str, page_number: int) -> Checkpoint | None:
    """What an earlier run kept of a page; None if there is nothing for the same source, engine and task."""
    try:
        head, body, end = _path(folder, page_number).read_bytes().split(b"\n")
        meant = json.loads(head)
        if end or meant["key"] != key:
            return None
        kept = Checkpoint(Page.model_validate_json(body), meant["closer"] is True)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return kept if kept.page.page_number == page_number else None


def checkpoints(folder: Path, key: str, page_count: int) -> Iterator[Checkpoint]:
    """All that there are, in the order of their pages."""
    if not (folder / "pages").is_dir():
        return
    for number in range(1, page_count + 1):
        if kept := read_checkpoint(folder, key, number):
            yield kept


def checkpointed_page(folder: Path, key: str, page_number: int) -> Page:
    """A page that must be there; raises `FileNotFoundError` if it is not."""
    kept = read_checkpoint(folder, key, page_number)
    if kept is None:
        raise FileNotFoundError(2, "the page's checkpoint is gone", os.fspath(_path(folder, page_number)))
    return kept.page


def checkpointed_pages(folder: Path, key: str, page_count: int) -> Iterator[Page]:
    """All pages in order; raises `FileNotFoundError` if one is not there."""
    return (checkpointed_page(folder, key, number) for number in range(1, page_count + 1))


def _path(folder: Path, page_number: int) -> Path:
    return folder / "pages" / f"{page_number:04}.json"
