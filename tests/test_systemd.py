"""The notify socket, over a real one."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from daemon.systemd import Notifier
from tests.fakes import FakeServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    """The other end."""
    with FakeServiceManager(tmp_path / "notify") as manager:
        yield manager


def test_each_message_is_what_systemd_reads(manager: FakeServiceManager) -> None:
    """The words of sd_notify(3), one datagram each."""
    notifier = Notifier(str(manager.path))
    before_us = time.monotonic_ns() // 1000
    notifier.extend_timeout(30.5)
    notifier.ready()
    notifier.watchdog()
    notifier.reloading()
    notifier.stopping()
    notifier.close()
    extend, ready, watchdog, reloading, stopping = manager.messages
    assert [extend, ready, watchdog, stopping] == [
        "EXTEND_TIMEOUT_USEC=30500000",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]
    word, _, time_us = reloading.partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before_us <= int(time_us) <= time.monotonic_ns() // 1000


def test_the_status_is_sent_when_it_changes(manager: FakeServiceManager) -> None:
    """The same line is not sent twice, and it is one line in any case."""
    notifier = Notifier(str(manager.path))
    for line in ("ready", "ready", "2 running\n1 waiting", "ready", "caf\udce9.pdf"):
        notifier.status(line)
    notifier.close()
    assert manager.messages == [
        "STATUS=ready", "STATUS=2 running 1 waiting", "STATUS=ready", "STATUS=caf\\udce9.pdf",
    ]  # fmt: skip


def test_an_abstract_socket() -> None:
    """An address that begins with @ is a socket without a file."""
    name = f"ocr-daemon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        notifier = Notifier("@" + name)
        notifier.ready()
        notifier.close()
        assert manager.recv(100) == b"READY=1"


#: Name -> WATCHDOG_USEC and WATCHDOG_PID, and the interval.
WATCHDOGS: dict[str, tuple[dict[str, str], float]] = {
    "none": ({}, 0.0),
    "for us": ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    "for whoever starts": ({"WATCHDOG_USEC": "500000"}, 0.5),
    "for another process": ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
}


@pytest.mark.parametrize(("variables", "expected"), WATCHDOGS.values(), ids=WATCHDOGS)
def test_the_environment_says_what_is_wanted(
    manager: FakeServiceManager, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: float
) -> None:
    """Address and watchdog come from the environment, and no child process inherits them."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NOTIFY_SOCKET": str(manager.path), **variables}.items():
        monkeypatch.setenv(name, value)
    notifier = Notifier.from_environment()
    notifier.ready()
    notifier.close()
    assert notifier.watchdog_s == expected
    assert manager.messages == ["READY=1"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is allowed and does nothing."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier.from_environment()
    notifier.ready()
    notifier.status("ready")
    notifier.close()
    notifier.close()


def test_a_service_manager_that_is_away_ends_nothing(tmp_path: Path) -> None:
    """An address where nobody listens is no fault of ours; whoever listens there later hears the next message."""
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.ready()
    for _ in range(2):
        with FakeServiceManager(tmp_path / "notify") as manager:
            notifier.watchdog()
            assert manager.messages == ["WATCHDOG=1"]
        notifier.watchdog()
    notifier.close()
    notifier.watchdog()


def test_what_had_no_room_goes_out_before_the_next(manager: FakeServiceManager) -> None:
    """READY is said once, and a service manager that never hears it ends the service."""
    notifier = Notifier(str(manager.path))
    for _ in range(1000):
        notifier.watchdog()
    notifier.ready()
    notifier.status("loading")
    notifier.status("ready")
    heard = len(manager.messages)
    notifier.status("ready")
    notifier.close()
    assert manager.messages[heard:] == ["WATCHDOG=1", "READY=1", "STATUS=ready"]


def test_a_manager_that_does_not_read_holds_nobody_up(manager: FakeServiceManager) -> None:
    """A full queue drops messages rather than block the loop."""
    notifier = Notifier(str(manager.path))
    for _ in range(1000):
        notifier.watchdog()
    notifier.close()
    assert manager.count("WATCHDOG=1") < 1000
