"""The service on a share that fails: errors of the file system itself, which no disk gives on demand.

The share is a FUSE file system of our own, so it also counts as a network file system: no events, the scan alone.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.drop_root import DropRoot
from tests.service import LIMIT_S, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
]
SERVER = Path(__file__).with_name("faulty_fs.py")
MNT_DETACH = 2


class FaultyShare:
    """A mounted share, and what goes wrong on it."""

    def __init__(self, folder: Path) -> None:
        self.point = folder / "share"
        self._rules = folder / "rules"
        #: The same files as the server has them, and other clients: nothing goes wrong here.
        self.backing = folder / "backing"
        for path in (self.point, self.backing):
            path.mkdir()
        self._server = subprocess.Popen(
            [sys.executable, SERVER, self.backing, self.point, self._rules], stderr=subprocess.PIPE
        )
        wait_until(lambda: os.path.ismount(self.point) or self._server.poll() is not None)

    @property
    def why_not(self) -> str:
        """Why it could not be mounted; empty if it is."""
        if self._server.poll() is None:
            return ""
        return self._server.communicate()[1].decode().strip()

    def fail(self, *rules: str) -> None:
        """From now on these rules hold, and no others."""
        new = self._rules.with_suffix(".new")
        new.write_text("\n".join(rules), encoding="utf-8")
        new.rename(self._rules)

    def close(self) -> None:
        """Unmount it."""
        ctypes.CDLL(None).umount2(os.fsencode(self.point), MNT_DETACH)
        self._server.kill()
        self._server.communicate()


@pytest.fixture
def share(tmp_path: Path) -> Iterator[FaultyShare]:
    """A share that is well so far."""
    share = FaultyShare(tmp_path)
    if why_not := share.why_not:
        pytest.skip(f"FUSE cannot be mounted here: {why_not}")
    yield share
    share.close()


@pytest.fixture
def service(share: FaultyShare, tmp_path: Path) -> Iterator[Service]:
    """A service on it, ready; at its end every document lies in one place, and the account balances."""
    with Service(tmp_path, limits="max_attempts = 2") as service:
        put_on(share, service)
        service.start().ready()
        yield service
        share.fail()
        service.root.drop("the last.pdf", text_pdf(1, words="the last"))
        assert "the last 1.1" in service.output("the last.pdf")
        service.root.check()
        assert service.audit()["pending"] == 0
        assert service.stop() == 0


def put_on(share: FaultyShare, service: Service) -> None:
    """Have the service work on the share, and look at it as the server does."""
    service.roots["default"] = DropRoot(share.point / "root")
    service.root = DropRoot(share.backing / "root")
    service.write_config()


def dropped(service: Service, count: int = 3) -> list[str]:
    """Drop some documents; their names."""
    names = [f"sub/{number}.pdf" for number in range(count)]
    for name in names:
        service.root.drop(name, text_pdf(2, words=name))
    return names


def all_done(service: Service, names: list[str]) -> None:
    """Wait until all came out, and none was charged an attempt."""
    for name in names:
        assert f"{name} 2.1" in service.output(name)
        assert service.finished(name)["attempts"] == 0
    assert service.root.ended() == (len(names), 0)


def test_a_share_without_events(service: Service) -> None:
    """It counts as a network file system; the scan alone serves it."""
    names = dropped(service)
    all_done(service, names)
    inbox = service.status["inboxes"][0]
    assert (inbox["filesystem"], inbox["events"]) == ("fuse.faults", False)


PAUSES = {
    "disk full at fsync": ("No space left on device", ["fsync /root/ ENOSPC"]),
    "outbox does not write": ("Input/output error", ["fsync /outbox EIO"]),
    "read only": ("Read-only file system", ["create /root/ EROFS", "mkdir /root/ EROFS", "rename /root/ EROFS"]),
    "stale handles": ("Stale file handle", ["open /root ESTALE", "lookup /root ESTALE", "opendir /root ESTALE"]),
    "the server is gone": ("Host is down", ["* /root EHOSTDOWN"]),
}


@pytest.mark.parametrize("case", PAUSES)
def test_a_fault_of_the_share_is_a_pause(service: Service, share: FaultyShare, case: str) -> None:
    """Nothing is claimed for good, nothing fails, STATUS says why; when it is well all is done, uncharged."""
    words, rules = PAUSES[case]
    share.fail(*rules)
    names = dropped(service)
    # Whose fault it is shows a probe; the share must not be well again before the last of them has asked.
    wanted = re.compile(rf"default PAUSED \(.*{words}.*; 0 running, ")
    wait_until(lambda: wanted.search(service.manager.status), LIMIT_S, lambda: service.manager.status)
    share.fail()
    assert service.root.ended()[1] == 0
    all_done(service, names)
    wait_until(lambda: "PAUSED" not in service.manager.status, 40)


def test_renames_that_happen_and_report_an_error(service: Service, share: FaultyShare) -> None:
    """The server's answer was lost: old gone, new there; that is a success, for claim, publish and finish."""
    share.fail("rename /root/ lie:ENOENT")
    all_done(service, dropped(service, 5))
    assert not service.events("root.paused")


def test_one_file_that_cannot_be_written_is_that_files_fault(service: Service, share: FaultyShare) -> None:
    """Where a file beside it can be written, the share is well: its attempts are used up, its neighbours are done."""
    share.fail("write /x.pdf.md EIO", "fsync /x.pdf.md EIO", "create x.pdf.md EIO")
    service.root.drop("x.pdf", text_pdf(1, words="cannot be published"))
    names = dropped(service)
    for name in names:
        assert f"{name} 2.1" in service.output(name)
    assert service.failure("x.pdf")["reason"] == "gave_up"


def test_a_share_that_hangs_does_not_starve_the_watchdog(share: FaultyShare, tmp_path: Path) -> None:
    """While every call waits for the server, systemd is pinged; afterwards everything goes on."""
    with Service(tmp_path) as service:
        put_on(share, service)
        service.start(WATCHDOG_USEC="900000").ready()
        names = dropped(service)
        share.fail("* /root hang:20")
        before = service.manager.count("WATCHDOG=1")
        wait_until(lambda: service.manager.count("WATCHDOG=1") >= before + 16, 20)
        share.fail()
        all_done(service, names)
        assert service.stop() == 0
