"""The pages of a job that were read already: kept, found again, and ignored where they are of something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.checkpoints import Checkpoint, checkpointed_pages, checkpoints, read_checkpoint, write_checkpoint
from tests.fakes import fake_page
from tests.killed import changes

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    """A page is kept as it is, with the words of any script, and its number alone is found again."""
    page = fake_page(3, 'Zeile 1\nline "2"\\ \u2028 日本語', problem="faint")
    write_checkpoint(tmp_path, "key", page)
    assert read_checkpoint(tmp_path, "key", 3) == Checkpoint(page, closer=False)
    assert list(checkpoints(tmp_path, "key", 5)) == [Checkpoint(page, closer=False)]
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["0003.json"]


def test_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    """The last one counts, as that of a page that was looked at again."""
    write_checkpoint(tmp_path, "key", fake_page(1, "first"))
    write_checkpoint(tmp_path, "key", fake_page(1, "second"), closer=True)
    assert read_checkpoint(tmp_path, "key", 1) == Checkpoint(fake_page(1, "second"), closer=True)


def test_a_checkpoint_of_something_else_is_ignored(tmp_path: Path) -> None:
    """Another source, engine or task is another key; a file under another page's number is not that page."""
    write_checkpoint(tmp_path, "key", fake_page(1, "text"))
    assert read_checkpoint(tmp_path, "other", 1) is None
    (tmp_path / "pages" / "0001.json").rename(tmp_path / "pages" / "0002.json")
    assert read_checkpoint(tmp_path, "key", 2) is None
    assert list(checkpoints(tmp_path, "key", 2)) == []


TEARS = {
    "cut at the end": slice(0, -1),
    "cut in the midst": slice(0, 60),
    "empty": slice(0, 0),
    "headless": slice(9, None),
}


@pytest.mark.parametrize("kept", TEARS.values(), ids=TEARS)
def test_a_torn_checkpoint_is_ignored(tmp_path: Path, kept: slice) -> None:
    """What a power cut left of a page is none: the page is read again."""
    write_checkpoint(tmp_path, "key", fake_page(1, "text"))
    path = tmp_path / "pages" / "0001.json"
    path.write_bytes(path.read_bytes()[kept])
    assert read_checkpoint(tmp_path, "key", 1) is None


@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_checkpoint_never_raises(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    """Whatever byte is wrong, it is a page or none."""
    folder = tmp_path_factory.getbasetemp()
    write_checkpoint(folder, "key", fake_page(1, "text"))
    path = folder / "pages" / "0001.json"
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content)
    assert isinstance(read_checkpoint(folder, "key", 1), Checkpoint | None)


def test_all_pages_come_in_order_or_not_at_all(tmp_path: Path) -> None:
    """A missing checkpoint is an error, never a page less."""
    for number in (2, 1):
        write_checkpoint(tmp_path, "key", fake_page(number, "text"))
    assert [page.page_number for page in checkpointed_pages(tmp_path, "key", 2)] == [1, 2]
    with pytest.raises(FileNotFoundError, match="the page's checkpoint is gone"):
        list(checkpointed_pages(tmp_path, "key", 3))


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    """A job that has just begun."""
    assert list(checkpoints(tmp_path, "key", 9)) == []


def test_a_checkpoint_is_not_synced(tmp_path: Path) -> None:
    """One costs no wait for the disk: there is one per page."""
    assert "fsync" not in changes(lambda: write_checkpoint(tmp_path, "key", fake_page(1, "text")))
