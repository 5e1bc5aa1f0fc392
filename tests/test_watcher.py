"""Finds settled files: by the scan alone, and by events from a real inotify."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from daemon.config import Inbox
from daemon.folders import take_sample
from daemon.roots import Root
from daemon.settle import Verdict
from daemon.threads import Threads
from daemon.watcher import WINDOW, Found, Watcher
from tests.conftest import eventually
from tests.permissions import closed
from tests.test_scan import tree, unix_socket
from tests.watched import NEVER_S, watching, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: watchdog says so when it comes twice to a folder in a new folder; `log.set_up` keeps that out of the log.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")


def move_in(path: Path) -> None:
    """Rename a file in, as careful programs do."""
    outside = path.parents[2] / "outside"
    outside.write_bytes(b"content")
    outside.rename(path)


def rename_from_part(path: Path) -> None:
    """Write under a temporary name in the inbox itself, then rename."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"content")
    part.rename(path)


def link(path: Path) -> None:
    """Give a file from elsewhere a second name here, as some copy programs do."""
    outside = path.parents[2] / "outside"
    outside.write_bytes(b"content")
    path.hardlink_to(outside)


@pytest.mark.parametrize("arrive", [write, move_in, rename_from_part, link])
@pytest.mark.parametrize("name", ["x.pdf", os.fsdecode(b"\xff.pdf")], ids=["text", "no UTF-8"])
async def test_events_find_a_new_file(tmp_path: Path, arrive: Callable[[Path], None], name: str) -> None:
    """However a file comes into a local inbox, an event tells of it long before the next scan."""
    async with watching(tmp_path) as watched:
        arrive(watched.inbox / name)
        await watched.until_found(name)
        (found,) = watched.watcher.found
        assert found == Found(name, take_sample(watched.inbox / name), Verdict.SETTLED)


async def test_a_folder_that_is_moved_in_is_looked_through(tmp_path: Path) -> None:
    """The files of a folder that comes by a rename raise no events of their own and are found."""
    tree(tmp_path, "outside/a/x.pdf", "outside/y.pdf")
    async with watching(tmp_path) as watched:
        (tmp_path / "outside").rename(watched.inbox / "batch")
        await watched.until_found("batch/a/x.pdf", "batch/y.pdf")
        write(watched.inbox / "batch" / "a" / "later.pdf")
        await watched.until_found("batch/a/later.pdf", "batch/a/x.pdf", "batch/y.pdf")


async def test_files_in_new_folders_are_found(tmp_path: Path) -> None:
    """Folders that are made and filled at once, faster than watches can be set, lose nothing."""
    names = [f"{folder}/sub/{name}.pdf" for folder in range(5) for name in range(5)]
    async with watching(tmp_path) as watched:
        tree(watched.inbox, *names)
        await watched.until_found(*names)


async def test_a_folder_that_is_renamed_takes_its_files_along(tmp_path: Path) -> None:
    """Each file is found once, under the name it has in the end."""
    async with watching(tmp_path, settle_s=0.3) as watched:
        tree(watched.inbox, "before/x.pdf")
        await eventually(lambda: "before/x.pdf" in watched.watcher.settler)
        (watched.inbox / "before").rename(watched.inbox / "after")
        await watched.until_found("after/x.pdf")
        assert len(watched.watcher.inventory) == 1


async def test_what_is_there_at_the_start_is_found(tmp_path: Path) -> None:
    """The first step scans, events or not."""
    tree(tmp_path / "root" / "inbox", "x.pdf", "a/y.pdf")
    async with watching(tmp_path, events=False) as watched:
        await watched.until_found("a/y.pdf", "x.pdf")


async def test_the_scan_alone_is_enough(tmp_path: Path) -> None:
    """Without events, as on a network file system, everything is found, also a second file of a name."""
    async with watching(tmp_path, events=False, rescan_s=0.05) as watched:
        tree(watched.inbox, "x.pdf", "a/y.pdf")
        await watched.until_found("a/y.pdf", "x.pdf")
        watched.take()
        write(watched.inbox / "x.pdf")
        await watched.until_found("a/y.pdf", "x.pdf", "x.pdf")


async def test_a_growing_file_is_not_found(tmp_path: Path) -> None:
    """A file that is written to goes on being watched; what is found has the sample of the end."""
    root, threads, now = Root(Inbox(root=tmp_path)), Threads("test", 1), 0.0
    root.inbox.mkdir()
    watcher = Watcher(
        root, settle_s=3, max_settle_s=600, rescan_s=1, events=False, threads=threads, on_found=lambda: None,
        clock=lambda: now,
    )  # fmt: skip

    async def found_at(time_s: float) -> int:
        nonlocal now
        now = time_s
        watcher.wake()
        await watcher.step()
        return len(watcher.found)

    try:
        with (root.inbox / "x.pdf").open("wb", buffering=0) as file:
            for time_s in (10.0, 12.0, 15.0, 20.0):
                file.write(b"more")
                assert await found_at(time_s) == 0
        assert await found_at(22.9) == 0
        assert await found_at(23.0) == 1
        assert watcher.found[0].sample == take_sample(root.inbox / "x.pdf")
    finally:
        threads.close()


async def test_a_marker_makes_it_quick(tmp_path: Path) -> None:
    """With `x.pdf.done` beside it a file is found at once, whatever the settle time."""
    async with watching(tmp_path, settle_s=NEVER_S, events=False, rescan_s=0.05) as watched:
        tree(watched.inbox, "y.pdf", "x.pdf", "x.pdf.done")
        await watched.until_found("x.pdf")


@pytest.mark.parametrize(("events", "rescan_s"), [(True, NEVER_S), (False, 0.05)], ids=["by an event", "by the scan"])
async def test_a_marker_that_comes_later_wakes_its_file(tmp_path: Path, events: bool, rescan_s: float) -> None:
    """A file that is followed already is taken when its marker comes, not when it is looked at next."""
    async with watching(tmp_path, settle_s=NEVER_S, events=events, rescan_s=rescan_s) as watched:
        tree(watched.inbox, "a/x.pdf", "a/y.pdf")
        settler = watched.watcher.settler
        await eventually(lambda: len(settler) == 2 and (settler.next_due() or 0.0) > time.monotonic())
        (watched.inbox / "a" / "x.pdf.done").touch()
        await watched.until_found("a/x.pdf")


async def test_a_file_that_goes_before_its_time_is_forgotten(tmp_path: Path) -> None:
    """A file that its writer takes back is neither found nor remembered."""
    async with watching(tmp_path, settle_s=0.2) as watched:
        write(watched.inbox / "x.pdf")
        await eventually(lambda: "x.pdf" in watched.watcher.settler)
        (watched.inbox / "x.pdf").unlink()
        await eventually(lambda: not len(watched.watcher.inventory))
        assert not watched.watcher.found
        assert not len(watched.watcher.settler)


async def test_a_file_is_found_once(tmp_path: Path) -> None:
    """A file that waits for its claim is not found again though it is written to: its sample tells the claimer."""
    async with watching(tmp_path, rescan_s=0.05) as watched:
        write(watched.inbox / "x.pdf")
        await watched.until_found("x.pdf")
        (watched.inbox / "x.pdf").write_bytes(b"other content")
        write(watched.inbox / "y.pdf")
        await watched.until_found("x.pdf", "y.pdf")
        assert watched.watcher.found[0].sample != take_sample(watched.inbox / "x.pdf")


async def test_a_file_that_could_not_be_claimed_is_watched_anew(tmp_path: Path) -> None:
    """`put_back` starts from the beginning, and it settles once more."""
    async with watching(tmp_path) as watched:
        write(watched.inbox / "x.pdf")
        await watched.until_found("x.pdf")
        watched.watcher.put_back(watched.watcher.found.popleft().path)
        assert "x.pdf" in watched.watcher.inventory
        await watched.until_found("x.pdf")


HOPELESS = {"empty": (0o644, Verdict.EMPTY), "not permitted": (0o000, Verdict.NO_PERMISSION)}


@pytest.mark.parametrize(("mode", "verdict"), HOPELESS.values(), ids=HOPELESS)
async def test_hopeless_files_are_found_at_last(tmp_path: Path, mode: int, verdict: Verdict) -> None:
    """After `max_settle_s` an empty file, or one that may not be read, is handed over with that verdict."""
    tree(tmp_path / "root" / "inbox", "other/")
    path = tmp_path / "root" / "inbox" / "x.pdf"
    path.touch()
    with closed(path):
        path.chmod(mode)
        async with watching(tmp_path, max_settle_s=0.2) as watched:
            await watched.until_found("x.pdf")
            assert watched.watcher.found[0].verdict is verdict


async def test_only_a_window_of_files_is_followed(tmp_path: Path) -> None:
    """Of many files only so many are sampled at a time; the others follow as room is made, none is left out."""
    names = [f"{number:04}.pdf" for number in range(WINDOW + 100)]
    tree(tmp_path / "root" / "inbox", *names)
    async with watching(tmp_path, events=False) as watched:
        await eventually(lambda: len(watched.watcher.found) == WINDOW)
        assert len(watched.watcher.settler) == 0
        assert len(watched.watcher.inventory) == len(names)
        watched.take()
        await eventually(lambda: watched.take() and len(watched.taken) == len(names))
        assert [found.path for found in watched.taken] == names


async def test_empty_files_hold_up_nobody(tmp_path: Path) -> None:
    """More empty files than the window has room for wait for their time, and a sound file behind them is found.

    Five hundred files that the service might not read once held up their inbox for ten minutes.
    """
    inbox = tmp_path / "root" / "inbox"
    tree(tmp_path, "root/inbox/")
    for number in range(WINDOW + 100):
        (inbox / f"{number:04}.pdf").touch()
    write(inbox / "z.pdf")
    async with watching(tmp_path, events=False) as watched:
        await watched.until_found("z.pdf")


async def test_a_socket_in_the_inbox_disturbs_nobody(tmp_path: Path) -> None:
    """A socket raises an event like a file; once its error paused the whole inbox for ever."""
    async with watching(tmp_path) as watched:
        with unix_socket(watched.inbox / "socket"):
            write(watched.inbox / "x.pdf")
            await watched.until_found("x.pdf")


async def test_a_rescan_looks_now(tmp_path: Path) -> None:
    """What events have missed is found when somebody asks for a scan."""
    async with watching(tmp_path, events=False) as watched:
        write(watched.inbox / "x.pdf")
        watched.watcher.rescan()
        await watched.until_found("x.pdf")


async def test_a_share_that_goes_away_is_the_callers(tmp_path: Path) -> None:
    """A step that cannot list the inbox raises, for the share to pause."""
    root, threads = Root(Inbox(root=tmp_path / "root")), Threads("test", 1)
    watcher = Watcher(
        root, settle_s=1, max_settle_s=1, rescan_s=1, events=True, threads=threads, on_found=lambda: None
    )  # fmt: skip
    try:
        with pytest.raises(OSError, match="No such file"):
            watcher.start_events(asyncio.get_running_loop())
        with pytest.raises(FileNotFoundError):
            await watcher.step()
    finally:
        watcher.stop_events()
        threads.close()


async def test_what_is_found_is_logged(tmp_path: Path) -> None:
    """A scan that found changes and a file that settled are said, at the level for people who look for trouble."""
    with capture_logs() as logs:
        async with watching(tmp_path, events=False) as watched:
            write(watched.inbox / "x.pdf")
            watched.watcher.rescan()
            await watched.until_found("x.pdf")
    said = {one["event"]: one for one in logs}
    assert {key: said["watcher.rescanned"][key] for key in ("new", "gone", "known", "log_level")} == {
        "new": 1, "gone": 0, "known": 1, "log_level": "debug",
    }  # fmt: skip
    assert said["file.settled"]["file"] == "x.pdf"
    assert said["file.settled"]["verdict"] == "settled"
