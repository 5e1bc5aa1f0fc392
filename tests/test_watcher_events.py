"""The watches behind the events: they end with their folder, are set anew where it is now, and stop for good."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.conftest import eventually
from tests.watched import NEVER_S, watching, write

#: watchdog says so when it comes twice to a folder in a new folder; `log.set_up` keeps that out of the log.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")


async def test_an_inbox_that_is_deleted_and_made_again(tmp_path: Path) -> None:
    """The events of a deleted inbox folder end; that is said, and those of the new one come instead."""
    with capture_logs() as logs:
        async with watching(tmp_path, replaced=True, rescan_s=0.05, settle_s=0.05) as watched:
            os.replace(watched.inbox, tmp_path / "aside")  # noqa: PTH105 - the next line is as quick as can be
            watched.inbox.mkdir()
            (tmp_path / "aside").rmdir()
            await eventually(lambda: [one for one in logs if one["event"] == "watcher.events_lost"])
            await eventually(lambda: watched.watcher.events_alive)
            watched.watcher.rescan_s = NEVER_S
            write(watched.inbox / "x.pdf")
            await watched.until_found("x.pdf")


async def test_an_inbox_that_another_folder_replaced(tmp_path: Path) -> None:
    """A folder that was moved away raises events still, of files that are not in the inbox: the scan notices."""
    async with watching(tmp_path, replaced=True, rescan_s=0.05) as watched:
        watched.inbox.rename(tmp_path / "aside")
        watched.inbox.mkdir()
        inode = watched.inbox.stat().st_ino
        await eventually(lambda: any(mark == inode for mark in watches()))


def watches() -> set[int]:
    """Inodes that this process has inotify watches on (proc(5), fdinfo)."""
    found = set()
    for info in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            for line in info.read_text(encoding="ascii").splitlines():
                if line.startswith("inotify "):
                    found.add(int(line.split(" ino:")[1].split()[0], 16))
    return found


async def test_events_are_set_anew_for_a_share_that_came_back(tmp_path: Path) -> None:
    """Watches die with an unmount: they are set again on the share as it is now, and what came meanwhile is found."""
    async with watching(tmp_path) as watched:
        watcher, loop = watched.watcher, asyncio.get_running_loop()
        watched.inbox.rmdir()
        watched.inbox.mkdir()
        await eventually(lambda: not watcher.events_alive)
        write(watched.inbox / "meanwhile.pdf")
        for arm in (watcher.restart_events, watcher.start_events):
            await asyncio.to_thread(arm, loop)
            assert watcher.events_alive
        await watched.until_found("meanwhile.pdf")
        write(watched.inbox / "x.pdf")
        await watched.until_found("meanwhile.pdf", "x.pdf")


async def test_a_stop_of_events_is_final(tmp_path: Path) -> None:
    """A start that was given up while it waited for a thread may come after the stop: nothing of watchdog runs then."""
    async with watching(tmp_path) as watched:
        watcher = watched.watcher
        await asyncio.to_thread(watcher.stop_events)
        for arm in (watcher.start_events, watcher.restart_events):
            await asyncio.to_thread(arm, asyncio.get_running_loop())
            assert not watcher.events_alive


async def test_without_events_there_are_none_to_set(tmp_path: Path) -> None:
    """On a network file system nothing is watched, whoever asks."""
    async with watching(tmp_path, events=False) as watched:
        watched.watcher.restart_events(asyncio.get_running_loop())
        assert not watched.watcher.events_alive
