"""Names by themselves; what they mean for claims and open jobs stands in `test_folders_names.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from daemon.config import Inbox
from daemon.names import Names
from daemon.roots import Root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lstats(run: Callable[[], object]) -> int:
    """How often `run` looked at the disk."""
    count = 0

    def profile(_frame: object, event: str, function: object) -> None:
        nonlocal count
        count += event == "c_call" and getattr(function, "__name__", "") == "lstat"

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def used(folder: Path, *numbers: int) -> Names:
    """A root whose done/ holds `scan.pdf` with these numbers."""
    root = Root(Inbox(root=folder))
    root.done.mkdir()
    for number in numbers:
        (root.done / ("scan.pdf" if number == 1 else f"scan~{number}.pdf")).touch()
    return Names(root)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 100])
def test_the_first_free_number_follows_the_used_ones(tmp_path: Path, count: int) -> None:
    """Where no number was freed, the next one is chosen, again and again."""
    names = used(tmp_path, *range(1, count + 1))
    expected = [f"scan~{number}.pdf" if number > 1 else "scan.pdf" for number in range(count + 1, count + 4)]
    assert [names.choose(f"job-{number}", "scan.pdf") for number in range(3)] == expected


@pytest.mark.parametrize("numbers", [{1, 2, 4, 8, 9}, {1, 3}, {1, 2, 4, 5, 6, 16, 17}, {2, 3}], ids=str)
def test_where_numbers_were_freed_a_free_one_is_chosen(tmp_path: Path, numbers: set[int]) -> None:
    """Whatever is missing in the row, no name that is used is ever chosen, and none twice."""
    names = used(tmp_path, *numbers)
    chosen = [names.choose(f"job-{number}", "scan.pdf") for number in range(10)]
    assert len(set(chosen)) == len(chosen)
    assert not [name for name in chosen if (tmp_path / "done" / name).exists()]


def test_a_name_that_was_used_thousands_of_times_is_found_quickly(tmp_path: Path) -> None:
    """A scanner that calls every file the same costs some hundred looks at the disk, not eleven per earlier file.

    Every number was once tried in turn: 0.6 s per claim after 5,000 files.
    """
    names = used(tmp_path, *range(1, 2001))
    assert lstats(lambda: names.choose("job", "scan.pdf")) < 250
    assert names.choose("job-2", "scan.pdf") == "scan~2002.pdf"


def test_a_released_name_is_free(tmp_path: Path) -> None:
    """What a recovered job reserves is used by nobody else until it is released."""
    names = used(tmp_path)
    names.reserve("job-1", "scan.pdf")
    assert names.choose("job-2", "scan.pdf") == "scan~2.pdf"
    names.release("job-1")
    assert names.choose("job-3", "scan.pdf") == "scan.pdf"
