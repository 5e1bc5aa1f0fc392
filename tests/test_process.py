"""The real command in a process of its own, with a real notify socket, real signals and real workers.

After everything that happens to it, the next file is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import log, samples
from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.fakes import DropRoot
from tests.service import LIMIT_S, Service, can_drop_override, command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Several starts in one test on two busy cores take longer than most tests may.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DOCUMENTED = set(re.findall(r"^([a-z]+\.[a-z_]+) ", str(log.__doc__), re.MULTILINE))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes the service of a test; at its end nothing runs, no document is lost, and every event is documented."""
    with contextlib.ExitStack() as stack:
        made: list[Service] = []

        def make(folder: Path = tmp_path, **settings: Any) -> Service:
            made.append(stack.enter_context(Service(folder, **settings)))
            return made[-1]

        yield make
        for service in made:
            service.kill_group()
            service.root.check()
            unknown = {event["event"] for event in service.events()} - DOCUMENTED
            assert not unknown, f"not in the docstring of daemon/log.py: {unknown}"


@pytest.fixture
def service(make: Callable[..., Service]) -> Service:
    """A service on an empty root, not started."""
    return make()


def serves_next(service: Service, root: DropRoot | None = None) -> None:
    """The next file is served."""
    root = root or service.root
    number = len(root.dropped)
    root.drop(f"next-{number}.pdf", text_pdf(1, words=f"next one, number {number}"))
    assert f"next one, number {number}" in service.output(f"next-{number}.pdf", root)


def freeze(service: Service) -> list[int]:
    """Stop all worker processes where they are, so that whatever is begun stays begun; their ids."""
    pids = service.workers()
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def thaw(pids: list[int]) -> None:
    """Let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def begun(service: Service, name: str) -> None:
    """Wait until a document is claimed and at work, which the status tells; `job.claimed` comes before its turn."""
    wait_until(
        lambda: any(job["path"] == name for job in service.status.get("running", [])), LIMIT_S, service.tail
    )  # fmt: skip
    assert not (service.root.inbox / name).exists()


def pages_read(service: Service, name: str) -> list[int]:
    """The pages of a document that were read so far, by any process, in order."""
    return [event["page_number"] for event in service.events("page.recognized") if event["file"] == name]


# Start


def test_ready_comes_after_the_engine_has_read_a_page(service: Service) -> None:
    """READY is told only when the engine has proved itself, with the queue in STATUS and nothing before."""
    service.start().ready()
    wait_until(lambda: service.events("service.ready"), LIMIT_S, service.tail)
    names = [event["event"] for event in service.events()]
    assert names.index("engine.ready") < names.index("service.ready")
    messages = service.manager.messages
    assert messages[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert messages[-1] == "READY=1"
    assert re.search(r"^ready; 0 running, 0 waiting, .* 0 done, 0 partial, 0 failed$", service.manager.status)
    assert service.status["state"] == "ready"
    serves_next(service)
    wait_until(lambda: "1 done, 0 partial, 0 failed" in service.manager.status, 10)


def test_files_that_are_there_at_the_start_are_served(service: Service) -> None:
    """What was dropped while nobody ran is taken at the start, subfolders kept."""
    service.root.drop("before.pdf", text_pdf(2, words="before"))
    service.root.drop("letters/2024/müller & co.pdf", text_pdf(1, words="a letter"))
    service.root.drop("letters/2024/secret.pdf", samples.encrypted_pdf())
    service.start().ready()
    assert "before 2.1" in service.output("before.pdf")
    assert "a letter" in service.output("letters/2024/müller & co.pdf")
    assert service.failure("letters/2024/secret.pdf")["reason"] == "encrypted"
    serves_next(service)
    assert service.audit()["seen"] == 4


def test_the_watchdog_is_fed(service: Service) -> None:
    """WATCHDOG comes several times per interval, and worker processes cannot speak for the service."""
    service.start(WATCHDOG_USEC="600000").ready()
    wait_until(lambda: service.manager.count("WATCHDOG=1") >= 5, 5)
    for pid in service.workers():
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
    serves_next(service)


def test_nobody_feeds_a_watchdog_that_is_not_wanted(service: Service) -> None:
    """Without WATCHDOG_USEC no ping is sent, and without a service manager it runs all the same."""
    service.start(NOTIFY_SOCKET="")
    wait_until(lambda: service.status.get("state") == "ready", LIMIT_S, service.tail)
    serves_next(service)
    assert service.stop() == 0
    assert service.manager.messages == []


# Refused starts


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("unknown key", {"limits": "max_page = 3"}, 78, "limits.max_page: unknown key"),
    ("out of bounds", {"settle_s": -1}, 78, "watch.settle_s"),
    ("not TOML", {"limits": "max_pages ="}, 78, "not valid TOML"),
    ("a task beyond the engine", {"inboxes": '[[inbox]]\nroot = "root"\ntask = "figure"\n'}, 78, "figure"),
    ("no such backend", {"backend": "tesseract"}, 78, "engine.backend"),
    ("a backend that is not installed", {"backend": "vllm"}, 69, "vLLM is not installed; install it with `pip install"),
    ("overlapping folders", {"inboxes": '[[inbox]]\nroot = "root"\noutbox = "root/inbox/out"\n'}, 78, "overlap"),
]


@pytest.mark.parametrize(("settings", "code", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_configuration_ends_the_start(
    make: Callable[..., Service], settings: dict[str, Any], code: int, words: str
) -> None:
    """What waiting cannot mend ends with its exit code and one sentence, and touches no folder."""
    service = make(**settings)
    assert service.start().wait() == code
    assert words in service.tail(1)
    assert "READY=1" not in service.manager.messages
    assert not service.root.path.exists()


def test_a_missing_configuration_ends_the_start(tmp_path: Path) -> None:
    """A file that is named must exist."""
    result = command("run", "--config", str(tmp_path / "none.toml"))
    assert result.returncode == 78
    assert "there is no such file" in result.stderr


def test_a_second_daemon_on_the_root_is_refused(service: Service, tmp_path: Path, make: Callable[..., Service]) -> None:
    """Two daemons on one root: the second leaves with 78 and says whose it is; the first goes on."""
    service.start().ready()
    second_folder = tmp_path / "second"
    second_folder.mkdir()
    second = make(second_folder)
    second.roots["default"] = service.root
    second.write_config()
    assert second.start().wait() == 78
    assert f"process {service.pid}" in second.tail(1)
    assert f"process {service.pid}" in second.manager.status
    serves_next(service)


def test_a_second_daemon_on_the_state_folder_is_refused(service: Service) -> None:
    """Two daemons with one ledger: the second leaves with 78."""
    service.start().ready()
    result = command("run", "--config", str(service.config))
    assert result.returncode == 78
    assert "another ocr-daemon uses the state folder" in result.stderr
    serves_next(service)


def test_nothing_new_is_taken_before_what_a_crash_left(service: Service) -> None:
    """Not even what lies in the inbox while the engine starts: its watcher finds it before the open jobs are known."""
    service.start().ready()
    freeze(service)
    service.root.drop("old.pdf", text_pdf(2, words="old"))
    begun(service, "old.pdf")
    service.kill_group()
    service.root.drop("new.pdf", text_pdf(1, words="new"))
    service.start().ready()
    service.finished("new.pdf")
    order = [(event["event"], event["file"]) for event in service.events() if event["event"].startswith("job.")]
    assert order.index(("job.done", "old.pdf")) < order.index(("job.claimed", "new.pdf"))


# Stops


def test_sigterm_drains_and_the_next_start_resumes(service: Service) -> None:
    """SIGTERM ends it with 0 within the grace time, and no page is read twice."""
    service.start().ready()
    service.root.drop("long.pdf", text_pdf(1000, lines=4))
    wait_until(lambda: len(pages_read(service, "long.pdf")) > 20, LIMIT_S, service.tail)
    assert service.stop() == 0
    assert "STOPPING=1" in service.manager.messages
    assert service.status["state"] == "stopped"
    first = pages_read(service, "long.pdf")
    assert len(first) < 1000, "it was too fast for this test"
    kept = list(service.root.work.glob("*/pages/*.json"))
    assert len(kept) == len(first)

    service.start().ready()
    markdown = service.output("long.pdf")
    assert [markdown.count(f"<!-- page {number} -->") for number in range(1, 1001)] == [1] * 1000
    assert sorted(pages_read(service, "long.pdf")) == list(range(1, 1001))
    assert service.finished("long.pdf")["attempts"] == 0
    assert service.events("root.adopted")[-1]["unclean"] is False
    serves_next(service)
    assert service.audit()["done"] == 2


def test_pages_that_outlast_the_grace_time_are_left_for_the_next_start(make: Callable[..., Service]) -> None:
    """After grace_s it ends all the same, with 0, and the document is not to blame."""
    service = make(grace_s=0.5)
    service.start().ready()
    freeze(service)
    service.root.drop("stuck.pdf", text_pdf(2))
    begun(service, "stuck.pdf")
    assert service.stop() == 0
    assert service.events("service.stopped")[-1]["left_to_resume"] == 1
    service.start().ready()
    service.output("stuck.pdf")
    assert service.finished("stuck.pdf")["attempts"] == 0
    serves_next(service)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_stops_at_once(make: Callable[..., Service], number: signal.Signals) -> None:
    """Who asks twice waits no longer; what was open resumes at the next start."""
    service = make(grace_s=600)
    service.start().ready()
    frozen = freeze(service)
    service.root.drop("stuck.pdf", text_pdf(2))
    begun(service, "stuck.pdf")
    service.signal(number)
    wait_until(lambda: "STOPPING=1" in service.manager.messages)
    assert service.alive
    service.signal(number)
    assert service.wait() == 1
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in frozen), 5, "its workers outlive it")
    service.start().ready()
    service.output("stuck.pdf")
    serves_next(service)


def test_after_sigkill_the_next_start_finishes(service: Service) -> None:
    """Killed in the middle of a document, it reads the rest of it, and its workers died with it."""
    service.start().ready()
    service.root.drop("long.pdf", text_pdf(1000, lines=4))
    service.root.drop("other.pdf", text_pdf(3, words="other"))
    wait_until(lambda: len(pages_read(service, "long.pdf")) > 20, LIMIT_S, service.tail)
    workers = service.workers()
    service.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 5, "its workers outlive it")
    before = len(pages_read(service, "long.pdf"))
    assert before < 1000, "it was too fast for this test"

    service.start().ready()
    assert service.output("long.pdf").count("<!-- page ") == 1000
    assert "other 3.1" in service.output("other.pdf")
    assert service.events("root.adopted")[-1]["unclean"] is True
    assert len(pages_read(service, "long.pdf")) <= 1000 + len(workers) * 2 + 1, "pages were read twice"
    serves_next(service)
    assert service.audit()["done"] == 3


# Reload


def reload(service: Service) -> None:
    """SIGHUP, and wait for the READY that ends it."""
    ready = service.manager.count("READY=1")
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.manager.count("READY=1") > ready, LIMIT_S, service.tail)


def test_sighup_adds_and_removes_an_inbox(service: Service, tmp_path: Path) -> None:
    """A new inbox is served, one that is gone is left alone, and RELOADING ... READY frames it."""
    service.start().ready()
    serves_next(service)
    more = service.roots["more"] = DropRoot(tmp_path / "more")
    service.write_config()
    reload(service)
    messages = [one.split("\n")[0] for one in service.manager.messages]
    reloading = messages.index("RELOADING=1")
    assert "READY=1" in messages[reloading:]
    assert "MONOTONIC_USEC=" in service.manager.messages[reloading]
    wait_until(more.inbox.exists, LIMIT_S, service.tail)
    serves_next(service, more)
    serves_next(service)

    del service.roots["default"]
    service.write_config()
    reload(service)
    left_alone = service.root.drop("unwanted.pdf", text_pdf(1, words="unwanted"))
    serves_next(service, more)
    assert left_alone.exists()
    wait_until(lambda: service.events("root.released"), LIMIT_S, service.tail)
    assert json.loads((service.root.path / ".ocr-daemon.json").read_bytes())["owner"] is None
    assert [inbox["name"] for inbox in service.status["inboxes"]] == ["more"]

    service.roots["default"] = service.root
    service.write_config()
    reload(service)
    assert "unwanted" in service.output("unwanted.pdf")
    more.check()


def test_sighup_changes_limits(service: Service) -> None:
    """A limit holds for documents that come after the reload."""
    service.start().ready()
    service.root.drop("before.pdf", text_pdf(3, words="before"))
    service.output("before.pdf")
    service.write_config(limits="max_pages = 2")
    reload(service)
    service.root.drop("after.pdf", text_pdf(3, words="after"))
    assert service.failure("after.pdf")["reason"] == "too_many_pages"
    serves_next(service)


def test_a_wrong_reload_changes_nothing(service: Service) -> None:
    """It goes on as before and STATUS says what is wrong, until the file is right again."""
    service.start().ready()
    service.write_config(limits="max_pages = 2\nmax_page = 3", max_settle_s=1)
    reload(service)
    wait_until(lambda: "limits.max_page: unknown key" in service.manager.status)
    assert "limits.max_page" in service.events("service.reload_refused")[-1]["reason"]
    service.root.drop("three pages.pdf", text_pdf(3))
    assert "<!-- page 3 -->" in service.output("three pages.pdf")
    service.write_config(limits="max_pages = 2")
    reload(service)
    wait_until(lambda: "unknown key" not in service.manager.status)
    service.root.drop("three more.pdf", text_pdf(3, words="more"))
    assert service.failure("three more.pdf")["reason"] == "too_many_pages"
    serves_next(service)


# Worker processes


def test_a_killed_worker_takes_down_only_its_page(service: Service) -> None:
    """Its page is read again, in a process of its own; document, neighbours and pool go on."""
    service.start().ready()
    service.root.drop("long.pdf", text_pdf(1600, lines=2))
    service.root.drop("neighbour.pdf", text_pdf(400, lines=4, words="neighbour"))
    for name in ("long.pdf", "neighbour.pdf"):
        wait_until(lambda name=name: pages_read(service, name), LIMIT_S, service.tail)  # type: ignore[misc]
    # All at once: a page that came from one of them to the next would lose that, too, and be given up.
    for pid in freeze(service):
        os.kill(pid, signal.SIGKILL)
    assert len(pages_read(service, "long.pdf")) < 1600, "it was too fast for this test"
    assert service.output("long.pdf").count("<!-- page ") == 1600
    assert service.output("neighbour.pdf").count("<!-- page ") == 400
    for name in ("long.pdf", "neighbour.pdf"):
        event = service.finished(name)
        assert (event["status"], event["attempts"]) == ("done", 0)
    serves_next(service)
    assert service.workers()


def test_a_worker_killed_while_it_opens_a_document(service: Service) -> None:
    """The document is opened once more, and not given up."""
    service.start().ready()
    frozen = freeze(service)
    service.root.drop("victim.pdf", text_pdf(2, words="victim"))
    begun(service, "victim.pdf")
    for pid in frozen:
        os.kill(pid, signal.SIGKILL)
    assert "victim 2.1" in service.output("victim.pdf")
    serves_next(service)


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


# Several inboxes, and what else it says


def test_http_says_that_it_is_inert(service: Service) -> None:
    """[http] is accepted, has no effect, and says so."""
    service.write_config(limits="[http]\nenabled = true")
    service.start().ready()
    assert service.events("service.http_inert")
    serves_next(service)


def test_log_is_json_and_holds_no_text(service: Service) -> None:
    """Every line is one event with time and level, and no word of a page gets into it."""
    service.start().ready()
    service.root.drop("private.pdf", text_pdf(2, words="confidential words"))
    for number in range(10):  # watchdog warns of folders in new folders
        service.root.drop(f"{number}/in a/new folder/x.pdf", text_pdf(1, words=f"confidential words {number}"))
    wait_until(lambda: service.root.ended() == (11, 0), LIMIT_S, service.tail)
    assert service.stop() == 0
    lines = service.log_path.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert all({"event", "time", "level"} <= event.keys() for event in events)
    assert not [line for line in lines if "confidential" in line]
    done = service.finished("private.pdf")
    assert {"job_id", "file", "inbox", "status", "pages", "seconds", "attempts", "reason"} <= done.keys()
