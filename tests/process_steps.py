"""What tests of the real command share: the service of a test, what is done to it, and that it goes on serving."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from daemon import log
from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.service import LIMIT_S, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.drop_root import DropRoot

DOCUMENTED = set(re.findall(r"^([a-z]+\.[a-z_]+) ", str(log.__doc__), re.MULTILINE))


@pytest.fixture(name="make")
def make_fixture(tmp_path: Path) -> Iterator[Callable[..., Service]]:
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


@pytest.fixture(name="service")
def service_fixture(make: Callable[..., Service]) -> Service:
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


def begun(service: Service, name: str) -> None:
    """Wait until a document is claimed and at work, which the status tells; `job.claimed` comes before its turn."""
    wait_until(
        lambda: any(job["path"] == name for job in service.status.get("running", [])), LIMIT_S, service.tail
    )  # fmt: skip
    assert not (service.root.inbox / name).exists()


def reload(service: Service) -> None:
    """SIGHUP, and wait for the READY that ends it."""
    ready = service.manager.count("READY=1")
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.manager.count("READY=1") > ready, LIMIT_S, service.tail)
