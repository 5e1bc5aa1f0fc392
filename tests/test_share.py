"""One inbox's share: how often it is looked at while it is away, and the lines of its documents."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from daemon.config import Inbox, Limits, Watch
from daemon.outputs import last_lines
from daemon.roots import this_owner
from daemon.share import BACKOFF_S, Share
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def test_a_share_that_stays_away_is_looked_at_ever_less_often(tmp_path: Path) -> None:
    """The waits grow to the last of them, begin anew only after a time of that length that was well, and then do."""
    now, waits = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(seconds)

    share = Share(
        Inbox(name="scans", root=tmp_path / "away"), Watch(), Limits(), owner=this_owner("north"),
        on_found=lambda: None, clock=lambda: now, sleep=sleep,
    )  # fmt: skip

    async def goes_away_after(well_s: float, looks: int) -> list[float]:
        nonlocal now
        share.resume()
        now += well_s
        share.pause("it does not answer")
        del waits[:]
        for _ in range(looks):
            await share.heal()
        assert share.paused
        return waits

    longest = BACKOFF_S[-1]
    assert await goes_away_after(longest + 1, len(BACKOFF_S) + 2) == [*BACKOFF_S, longest, longest]
    assert await goes_away_after(1, 1) == [longest]
    assert await goes_away_after(longest + 1, 2) == [*BACKOFF_S[:2]]
    share.threads.close()


# Lines


class Disk:
    """Syncs files only when it is let, and fails at the calls it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        #: Counted from 0.
        self.fails_at = -1
        #: How many lines the file had at each call.
        self.lines: list[int] = []
        #: Calls that are under way, now and at most.
        self.inside = self.most_inside = 0
        self._fsync = os.fsync

    def fsync(self, fd: int) -> None:
        """In the place of `os.fsync`."""
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return self._fsync(fd)
        fails = len(self.lines) == self.fails_at
        self.lines.append(os.pread(fd, 100_000, 0).count(b"\n"))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.answers.wait()
        self.inside -= 1
        if fails:
            raise OSError(errno.EIO, "the disk fails")
        return self._fsync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the test's share."""
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


@pytest.fixture
def share(tmp_path: Path, disk: Disk) -> Iterator[Share]:
    """A share that is well."""
    share = Share(
        Inbox(name="lines", root=tmp_path), Watch(), Limits(), owner=this_owner("north"), on_found=lambda: None
    )
    share.root.outbox.mkdir()
    yield share
    disk.answers.set()
    share.threads.close()


def line(number: int) -> dict[str, Any]:
    """One finished document."""
    return {"job_id": f"job-{number}", "status": "done", "finished_at": 1.0}


def written(share: Share) -> list[str]:
    """The jobs of the instance's file."""
    return [*last_lines(share.root.outbox / "manifest-north.jsonl")]


async def adding(share: Share, disk: Disk, count: int) -> list[asyncio.Task[None]]:
    """Lines of so many documents: the first is being written, the others came meanwhile."""
    tasks = [asyncio.create_task(share.add_line(line(number))) for number in range(count)]
    await eventually(lambda: disk.lines)
    return tasks


async def test_lines_that_come_meanwhile_are_written_together(share: Share, disk: Disk) -> None:
    """One call writes all that wait, and each caller returns when its own is there."""
    tasks = await adding(share, disk, 100)
    assert not any(task.done() for task in tasks)
    disk.answers.set()
    await asyncio.gather(*tasks)
    names = [f"job-{number}" for number in range(100)]
    assert disk.lines == [1, 100]
    assert written(share) == names


async def test_a_line_that_cannot_be_written_is_its_callers_alone(share: Share, disk: Disk) -> None:
    """Who wrote learns of it; the others' lines are tried again, his is not."""
    disk.fails_at = 1
    tasks = await adding(share, disk, 4)
    disk.answers.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), OSError, type(None), type(None)]
    assert disk.lines == [1, 4, 3]
    assert written(share) == ["job-0", "job-2", "job-3"]


@pytest.mark.parametrize("cancelled", [0, 2], ids=["who writes", "who waits"])
async def test_a_caller_that_is_cancelled_takes_nobody_with_it(share: Share, disk: Disk, cancelled: int) -> None:
    """The lines of all others are written, also while the call of one that was cancelled still goes on."""
    tasks = await adding(share, disk, 4)
    tasks[cancelled].cancel()
    await asyncio.wait((tasks[cancelled],))
    disk.answers.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number, result in enumerate(results) if result is not None] == [cancelled]
    assert {f"job-{number}" for number in range(4) if number != cancelled} <= {*written(share)}


async def test_two_calls_never_write_at_once(share: Share, disk: Disk) -> None:
    """The next one waits for a call that goes on although its caller was cancelled."""
    [writer] = await adding(share, disk, 1)
    writer.cancel()
    await asyncio.wait((writer,))
    other = asyncio.create_task(share.add_line(line(1)))
    await eventually(lambda: len(share.threads._running) == 2)  # noqa: SLF001 - nothing else tells
    disk.answers.set()
    await other
    assert disk.most_inside == 1
    assert written(share) == ["job-0", "job-1"]
