"""What the service says about itself, in a file and in a line."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from daemon import status
from daemon.config import Inbox, Limits, Watch
from daemon.job import Job, Sample
from daemon.roots import this_owner
from daemon.share import Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.worker import Worker


@dataclass
class Running:
    """The part of a running document that the status looks at."""

    job: Job
    page_count: int = 9
    pages_done: int = 4


@dataclass
class Timed:
    """The part of a worker's passes that it looks at."""

    page_times: list[float] = field(default_factory=list)


@dataclass
class Counted:
    """The part of a worker that the status looks at."""

    running: dict[str, Running] = field(default_factory=dict)
    passes: Timed = field(default_factory=Timed)
    finished: dict[str, int] = field(default_factory=lambda: {"done": 0, "partial": 0, "failed": 0})


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """An inbox that is well and has nothing to do."""
    share = Share(
        Inbox(name="scans", root=tmp_path / "root"), Watch(), Limits(), owner=this_owner("north"), on_found=lambda: None
    )
    yield share
    share.threads.close()


def snapshot(*shares: Share, worker: Counted | None = None, **more: Any) -> dict[str, Any]:
    """The status of a service with these inboxes."""
    default: dict[str, Any] = {
        "head": {"version": "1"},
        "state": "ready",
        "pauses": {},
        "totals": {},
        "reload_error": "",
    }
    return status.snapshot(shares=list(shares), worker=cast("Worker | None", worker), **{**default, **more})


def progress(number: int, path: str = "x.pdf") -> Running:
    """A running document."""
    return Running(Job(f"job-{number:02}", "scans", path, path, Sample(1, 1, 1), float(number), attempts=1))


def test_a_quiet_service(share: Share) -> None:
    """Everything is there, all is zero, and the line is short."""
    before = time.time()
    content = snapshot(share, worker=Counted())
    assert before <= content["written_at"] <= time.time()
    assert content["version"] == "1"
    assert content["inboxes"] == [
        {
            "name": "scans", "root": str(share.root.path), "filesystem": share.filesystem, "events": False,
            "paused": "", "waiting": 0, "running_jobs": 0, "totals": {}, "ignored": 0, "not_readable": [],
            "closed_folders": [], "blocked": 0,
        }
    ]  # fmt: skip
    assert status.line(content) == "ready; 0 running, 0 waiting, 0 open, 0.0 pages/s; 0 done, 0 partial, 0 failed"
    json.dumps(content)


def test_running_documents_are_listed_oldest_first(share: Share) -> None:
    """Each with its inbox, its path as text, its pages and attempts; of many only the first."""
    running = {f"{number}": progress(number, os.fsdecode(b"\xff.pdf")) for number in reversed(range(30))}
    content = snapshot(share, worker=Counted(running))
    assert content["jobs"] == content["inboxes"][0]["running_jobs"] == 30
    assert [one["job_id"] for one in content["running"]] == [f"job-{number:02}" for number in range(20)]
    assert content["running"][0] == {
        "job_id": "job-00", "inbox": "scans", "path": "\\xff.pdf", "pages": 9, "pages_done": 4, "attempts": 1,
    }  # fmt: skip


def test_totals_are_by_inbox_and_over_all(share: Share) -> None:
    """Each inbox has its own, the service their sum, roots that are no longer configured included."""
    share.root.root_id = "id-1"
    content = snapshot(share, totals={"id-1": {"done": 2, "failed": 1}, "id-2": {"done": 3, "open": 1}})
    assert content["totals"] == {"done": 5, "failed": 1, "open": 1}
    assert content["inboxes"][0]["totals"] == {"done": 2, "failed": 1}
    assert status.line(content) == "ready; 0 running, 0 waiting, 1 open, 0.0 pages/s; 5 done, 0 partial, 1 failed"


def test_the_line_tells_the_worst_first(share: Share) -> None:
    """Pauses of the service, then of its inboxes, then a refused configuration, then what is blocked."""
    share.pause("the share is full")
    share.stuck_files = {"a.pdf": "cannot be taken out of the inbox"}
    share.watcher.inventory.add("a.pdf")
    share.watcher.closed_folders = ["private"]
    content = snapshot(share, pauses={"engine": "it died"}, reload_error="watch.settle_s: no", to_run_alone=3)
    assert status.line(content) == (
        "ready; PAUSED (it died); scans PAUSED (the share is full); "
        "the new configuration is refused: watch.settle_s: no; 0 running, 1 waiting, 0 open, 0.0 pages/s; "
        "after a crash 3 run alone, one by one, before anything new; "
        "2 may not be read or moved; 0 done, 0 partial, 0 failed"
    )


@pytest.mark.parametrize(
    ("state", "pauses", "words"),
    [
        ("ready", {}, "ready; the engine is not well (no answer); 0 running"),
        ("ready", {"engine": "it died"}, "ready; PAUSED (it died); 0 running"),
        ("starting", {}, "starting; 0 running"),
    ],
    ids=["ready", "known already", "not yet"],
)
def test_the_line_tells_of_an_engine_that_is_not_well(
    share: Share, state: str, pauses: dict[str, str], words: str
) -> None:
    """Unless a pause tells of it, or it has not been started yet."""
    head = {"engine": {"name": "vllm", "ok": False, "detail": "no answer"}}
    assert status.line(snapshot(share, head=head, state=state, pauses=pauses)).startswith(words)


def test_the_report_says_it_in_full(share: Share) -> None:
    """After the line: the engine, each inbox with what is the matter, and what is running."""
    share.root.root_id = "id-1"
    share.pause("the share is full")
    share.watcher.closed_folders = ["private"]
    share.stuck_files = {"a.pdf": "cannot be taken out of the inbox"}
    share.watcher.inventory.add("a.pdf")
    engine = {"name": "cpu", "model": "m", "reason": "there is no NVIDIA device", "ok": True, "detail": "2 processes"}
    head = {"engine": engine}
    content = snapshot(share, worker=Counted({"1": progress(1)}), head=head, totals={"id-1": {"open": 3, "done": 2}})
    assert status.report(content) == [
        status.line(content),
        "engine cpu (m): there is no NVIDIA device; 2 processes",
        (
            f"inbox scans ({share.root.path}, {share.filesystem}, scan alone): PAUSED: the share is full; "
            "1 waiting, 1 running, 3 open, 2 done, 0 partial, 0 failed"
        ),
        "  a.pdf: cannot be taken out of the inbox",
        "  private/: may not be listed",
        "running scans/x.pdf: 4 of 9 pages",
    ]


async def test_events_are_what_they_are(share: Share) -> None:
    """Not what they should be on such a file system: they can be refused, lost and asked for again."""
    share.root.inbox.mkdir(parents=True)
    content = snapshot(share, head={"engine": {"name": "cpu", "model": "m", "reason": "r"}})
    assert content["inboxes"][0]["events"] is False
    assert ", scan alone): " in status.report(content)[2]
    if share.network:
        pytest.skip(f"the folder for tests is on {share.filesystem}")
    share.watcher.start_events(asyncio.get_running_loop())
    try:
        content |= snapshot(share)
        assert content["inboxes"][0]["events"] is True
        assert ", events and scan): " in status.report(content)[2]
    finally:
        share.watcher.stop_events()


def test_files_that_may_not_be_read_are_named(share: Share) -> None:
    """The first of them with the reason; all of them are counted."""
    now = time.monotonic()
    for number in range(30):
        share.watcher.settler.touch(f"{number:02}.pdf", now - 5)
        share.watcher.settler.observe(f"{number:02}.pdf", None, now)
    (inbox,) = snapshot(share)["inboxes"]
    assert inbox["not_readable"][0] == {"path": "00.pdf", "reason": "may not be read"}
    assert (len(inbox["not_readable"]), inbox["blocked"]) == (20, 30)


def test_a_stuck_file_that_was_taken_away_is_not_named(share: Share) -> None:
    """Once it is out of the inbox nothing is wrong with it."""
    share.stuck_files = {"a.pdf": "cannot be taken out of the inbox"}
    assert snapshot(share)["inboxes"][0]["not_readable"] == []


#: Name -> the seconds before now at which pages were finished, and the rate.
RATES: dict[str, tuple[list[float], float]] = {
    "none": ([], 0.0),
    "just now": ([0.1], 1.0),
    "one a second": ([10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1], 1.0),
    "many at once": ([0.5] * 50, 50.0),
    "long ago": ([100.0, 61], 0.0),
    "some of them long ago": ([100.0, 50, 25], 0.04),
}


@pytest.mark.parametrize(("ages_s", "expected"), RATES.values(), ids=RATES)
def test_pages_per_second(ages_s: list[float], expected: float) -> None:
    """Pages of the last minute over the time since the first of them."""
    assert status.pages_per_s([1000 - age for age in ages_s], 1000) == expected


STATES = {
    "fresh": ({"written_at": 1000, "state": "ready"}, True),
    "draining": ({"written_at": 1000, "state": "draining"}, True),
    "just fresh": ({"written_at": 991, "state": "ready"}, True),
    "stale": ({"written_at": 990, "state": "ready"}, False),
    "from the future": ({"written_at": 1010, "state": "ready"}, False),
    "stopped": ({"written_at": 1000, "state": "stopped"}, False),
}


@pytest.mark.parametrize(("content", "runs"), STATES.values(), ids=STATES)
def test_the_age_tells_whether_it_runs(tmp_path: Path, content: dict[str, Any], runs: bool) -> None:
    """A status that is not rewritten any more is that of a service that has ended."""
    (tmp_path / status.FILE_NAME).write_text(json.dumps(content), encoding="ascii")
    assert status.read(tmp_path, 1000.0) == (content, runs)


def test_a_service_that_never_ran(tmp_path: Path) -> None:
    """No file, or a torn one, is no status."""
    assert status.read(tmp_path, 1000.0) == (None, False)
    (tmp_path / status.FILE_NAME).write_bytes(b'{"state": "re')
    assert status.read(tmp_path, 1000.0) == (None, False)
