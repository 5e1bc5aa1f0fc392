"""Starts of the real command: when it is ready, what it then serves, and which starts are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import samples
from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.process_steps import (
    begun,
    freeze,
    make_fixture,  # noqa: F401 - a fixture, by the name `make`
    serves_next,
    service_fixture,  # noqa: F401 - a fixture, by the name `service`
)
from tests.service import LIMIT_S, Service, command

if TYPE_CHECKING:
    from collections.abc import Callable

#: Several starts in one test on two busy cores take longer than most tests may.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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
    (
        "a backend that is not installed",
        {"backend": "vllm"},
        69,
        "vLLM is not installed; install vLLM from the checkout",
    ),
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
