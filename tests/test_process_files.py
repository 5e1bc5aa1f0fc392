"""The real command and its files: those that change or may not be read, shares that are away, disks that are full."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.drop_root import DropRoot
from tests.process_steps import (
    begun,
    freeze,
    make_fixture,  # noqa: F401 - a fixture, by the name `make`
    reload,
    serves_next,
    service_fixture,  # noqa: F401 - a fixture, by the name `service`
)
from tests.service import LIMIT_S, Service, can_drop_override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Several starts in one test on two busy cores take longer than most tests may.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def thaw(pids: list[int]) -> None:
    """Let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


# Files


def test_a_file_that_changes_after_its_claim_is_read_anew(service: Service) -> None:
    """A writer that holds the file open and goes on is not cut off: what it wrote last comes out."""
    service.start().ready()
    frozen = freeze(service)
    first, last = text_pdf(1, words="first"), text_pdf(2, words="the last word")
    path = service.root.drop("growing.pdf.tmp", first)
    with path.open("r+b") as file:
        path.rename(service.root.inbox / "growing.pdf")
        begun(service, "growing.pdf")
        file.write(last)
        file.truncate()
    service.root.forget(first)
    thaw(frozen)
    assert "the last word 2.1" in service.output("growing.pdf")
    assert (service.root.done / "growing.pdf").read_bytes() == last
    assert service.events("job.changed")
    assert service.finished("growing.pdf")["attempts"] == 0
    serves_next(service)


def test_an_empty_file_fails_after_max_settle_s(make: Callable[..., Service]) -> None:
    """It waits, as a writer may be about to fill it, and then fails with the reason."""
    service = make(max_settle_s=1.5)
    service.start().ready()
    before = time.time()
    service.root.drop("empty.pdf", b"")
    serves_next(service)
    error = service.failure("empty.pdf")
    assert error["reason"] == "empty_file"
    assert error["claimed_at"] - before >= 1.5, "it did not wait"
    assert "Copy or scan the document again" in (service.root.failed / "empty.pdf.error.txt").read_text()
    serves_next(service)


def test_a_done_marker_ends_the_waiting(make: Callable[..., Service]) -> None:
    """With `x.pdf.done` beside it a file is taken at once, and the marker goes with it."""
    service = make(settle_s=3600)
    service.start().ready()
    waiting = service.root.drop("waiting.pdf", text_pdf(1, words="waiting"))
    service.root.drop("ready.pdf", text_pdf(1, words="ready"))
    (service.root.inbox / "ready.pdf.done").touch()
    assert "ready 1.1" in service.output("ready.pdf")
    assert waiting.exists()
    wait_until(lambda: not (service.root.inbox / "ready.pdf.done").exists())
    assert service.audit()["pending"] == 1


def not_readable(service: Service) -> list[str]:
    """The files that its status names so."""
    return sorted(one["path"] for one in service.status["inboxes"][0]["not_readable"])


@pytest.mark.skipif(not can_drop_override(), reason="root may read everything, and there is no setpriv")
def test_a_file_that_may_not_be_read_waits_and_then_fails(make: Callable[..., Service]) -> None:
    """STATUS shows it, it fails as no_permission after max_settle_s, and one that is mended meanwhile is served."""
    service = make(max_settle_s=10)
    service.start(override=False).ready()
    root = service.root
    for name in ("closed.pdf", "mended.pdf"):
        path = root.drop(f"{name}.part", text_pdf(1, words=name))
        path.chmod(0)  # it must not be seen before
        path.rename(root.inbox / name)
    wait_until(lambda: "2 may not be read" in service.manager.status, LIMIT_S, service.tail)
    wait_until(lambda: not_readable(service) == ["closed.pdf", "mended.pdf"], message=service.tail)
    (root.inbox / "mended.pdf").chmod(0o644)
    assert "mended.pdf 1.1" in service.output("mended.pdf")
    assert service.failure("closed.pdf")["reason"] == "no_permission"
    (root.failed / "closed.pdf").chmod(0o600)
    serves_next(service)


def test_a_ledger_that_is_deleted_is_a_pause(service: Service) -> None:
    """SQLite would go on in the file without a name, and all that came would be recorded nowhere."""
    service.start().ready()
    serves_next(service)
    aside = service.state_dir.rename(service.folder / "aside")
    service.state_dir.mkdir()
    wait_until(lambda: "ledger.sqlite3 was deleted or replaced" in service.manager.status, LIMIT_S, service.tail)
    waiting = service.root.drop("waiting.pdf", text_pdf(1, words="waiting"))
    wait_until(lambda: "1 waiting" in service.manager.status, LIMIT_S, service.tail)
    assert waiting.exists()
    assert service.stop() == 0
    shutil.rmtree(service.state_dir)
    aside.rename(service.state_dir)
    service.start().ready()
    assert "waiting 1.1" in service.output("waiting.pdf")
    assert service.audit()["done"] == 2


# Shares


def test_a_share_that_is_missing_at_the_start_is_a_pause(service: Service, tmp_path: Path) -> None:
    """It gets ready, says what it waits for, creates nothing, and serves the share as soon as it is there."""
    late = service.roots["late"] = DropRoot(tmp_path / "mnt" / "late")
    service.write_config()
    service.start().ready()
    wait_until(lambda: "late PAUSED" in service.manager.status)
    serves_next(service)
    assert not late.path.parent.exists()
    late.path.parent.mkdir()
    wait_until(late.inbox.exists, LIMIT_S, service.tail)
    serves_next(service, late)
    wait_until(lambda: "PAUSED" not in service.manager.status)
    late.check()


def test_a_share_that_goes_away_is_a_pause(service: Service) -> None:
    """Where the marker is gone nothing is created or lost; it goes on by itself when the share is back."""
    service.start().ready()
    serves_next(service)
    share = service.root.path
    away = share.rename(share.with_name("away"))
    share.mkdir()
    wait_until(lambda: "default PAUSED" in service.manager.status, LIMIT_S, service.tail)
    assert not list(share.iterdir())
    assert service.stop() == 0
    service.start().ready()
    assert "default PAUSED" in service.manager.status, "also at the start"
    assert not list(share.iterdir())
    share.rmdir()
    away.rename(share)
    wait_until(lambda: "PAUSED" not in service.manager.status, LIMIT_S, service.tail)
    serves_next(service)
    assert service.audit()["done"] == 2


def test_low_space_keeps_new_documents_out(make: Callable[..., Service]) -> None:
    """Below min_free_mb nothing is taken, with the reason in STATUS; a reload that lowers it goes on."""
    service = make(min_free_mb=10**12)
    service.start().ready()
    wait_until(lambda: "MB are free" in service.manager.status)
    path = service.root.drop("waits.pdf", text_pdf(1))
    wait_until(lambda: "1 waiting" in service.manager.status, 10)
    assert path.exists()
    service.write_config(min_free_mb=0)
    reload(service)
    service.output("waits.pdf")
    wait_until(lambda: "PAUSED" not in service.manager.status, 15)
    serves_next(service)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", point], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def test_a_full_disk_is_a_pause(small_disk: Path, make: Callable[..., Service]) -> None:
    """ENOSPC in the middle of documents fails none of them; they finish when there is space again."""
    service = make()
    root = service.root = service.roots["default"] = DropRoot(small_disk / "root")
    service.write_config()
    service.start().ready()
    frozen = freeze(service)
    names = [f"{number}.pdf" for number in range(5)]
    for name in names:
        root.drop(name, text_pdf(3, words=name))
    for name in names:
        begun(service, name)
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    thaw(frozen)
    wait_until(lambda: "PAUSED" in service.manager.status and "No space left" in service.manager.status, 15)
    assert not any(root.ended())
    (small_disk / "filler").unlink()
    for name in names:
        assert f"{name} 3.1" in service.output(name)
        assert service.finished(name)["attempts"] == 0
    wait_until(lambda: "PAUSED" not in service.manager.status, 10)
    serves_next(service)
    assert service.audit()["done"] == 6
    assert service.stop() == 0
