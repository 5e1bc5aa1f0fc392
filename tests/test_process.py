"""The real command in a process of its own, with a real notify socket, real signals and real workers.

After everything that happens to it, the next file is served.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
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
from tests.service import LIMIT_S, Service

if TYPE_CHECKING:
    from collections.abc import Callable

#: Several starts in one test on two busy cores take longer than most tests may.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def pages_read(service: Service, name: str) -> list[int]:
    """The pages of a document that were read so far, by any process, in order."""
    return [event["page_number"] for event in service.events("page.recognized") if event["file"] == name]


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
