"""The service in this process, with an engine that dies: real folders, real rendering, a real notify socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest
import structlog
from structlog.testing import capture_logs

from daemon.config import load
from daemon.supervisor import Supervisor, hangs
from daemon.systemd import Notifier
from deepseek_ocr.completion import LONGEST_PAGE_S
from deepseek_ocr.engine import Choice
from deepseek_ocr.errors import EngineDeadError, EngineStartError
from tests.conftest import eventually
from tests.documents import text_pdf
from tests.fakes import MortalEngine
from tests.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

#: Rendering processes start in every test, on two busy cores.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")]

START_S = 25.0


class Running:
    """A supervisor that runs in this loop, from READY to SIGTERM."""

    def __init__(self, service: Service, engine: MortalEngine, *, watchdog_s: float = 0.0) -> None:
        self.service = service
        self.engine = engine
        self.supervisor = Supervisor(
            load(service.config), service.config, Notifier(str(service.manager.path), watchdog_s),
            build=lambda _: (Choice("mortal", "a test"), engine), backoff_s=(0.01,),
        )  # fmt: skip
        self.logs: list[MutableMapping[str, Any]] = []
        self._stack = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        """Wait until it is ready."""
        ready = self.service.manager.count("READY=1")
        self.logs = self._stack.enter_context(capture_logs([structlog.contextvars.merge_contextvars]))
        self.task = asyncio.create_task(self.supervisor.run())
        await eventually(lambda: self.task.done() or self.service.manager.count("READY=1") > ready, START_S)
        if self.task.done():
            self._close()
            self.task.result()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ask it to stop, if nobody has, and wait for its end."""
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await self.task
        self._close()

    def _close(self) -> None:
        self.supervisor.notifier.close()
        self._stack.close()

    def events(self, event: str) -> list[MutableMapping[str, Any]]:
        """What the log has of an event."""
        return [one for one in self.logs if one["event"] == event]

    def finished(self, name: str) -> dict[str, Any]:
        """The manifest of a document."""
        content: dict[str, Any] = json.loads((self.service.root.outbox / f"{name}.manifest.json").read_bytes())
        return content

    async def all_done(self, count: int) -> None:
        """Wait until so many originals lie in done/."""
        await eventually(lambda: self.service.root.ended() == (count, 0), 20, self.service.manager.messages.__repr__)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The folders, the configuration and the service manager; no process."""
    with Service(tmp_path, rescan_s=0.2) as service:
        yield service
        service.root.check()


async def test_an_engine_that_dies_costs_no_document_anything(service: Service) -> None:
    """16 pages of 4 documents in flight: the intake pauses, everybody sees why, and all documents are read."""
    engine = MortalEngine(capacity=16)
    async with Running(service, engine, watchdog_s=0.1) as running:
        engine.gate.clear()
        for number in range(4):
            service.root.drop(f"n{number}.pdf", text_pdf(4, lines=1, words=f"words {number}"))
        await eventually(lambda: len(engine.in_flight) == 16)
        engine.start_gate.clear()
        engine.doomed = True
        engine.gate.set()
        await eventually(lambda: engine.starts == 2)
        late = service.root.drop("late.pdf", text_pdf(1, words="late"))
        reason = "the engine died: it stumbled; it is built anew after 0.01 s (try 1)"
        await eventually(lambda: service.manager.status.startswith(f"ready; PAUSED ({reason}); 4 running, 1 waiting, "))
        await eventually(lambda: service.status["inboxes"][0]["waiting"] == 1)
        assert late.exists()
        assert service.status["pauses"] == {"engine": reason}
        assert (service.status["engine"]["ok"], service.status["engine"]["detail"]) == (False, reason)
        fed = service.manager.count("WATCHDOG=1")
        await eventually(lambda: service.manager.count("WATCHDOG=1") > fed + 2)
        engine.start_gate.set()
        await running.all_done(5)
        await eventually(lambda: service.status["engine"]["ok"] and not service.status["pauses"])
        assert service.status["engine"]["detail"].startswith("alive; deaths so far: 1, last rebuilt in ")
    for number in range(4):
        assert (running.finished(f"n{number}.pdf")["status"], running.finished(f"n{number}.pdf")["attempts"]) == (
            "done",
            0,
        )
        markdown = (service.root.outbox / f"n{number}.pdf.md").read_text()
        assert [markdown.count(f"words {number} {page}.1") for page in range(1, 5)] == [1, 1, 1, 1]
    names = [one["event"] for one in running.logs if one["event"].startswith(("engine.", "intake.", "job.retried"))]
    assert names == [
        "engine.chosen", "engine.ready", "engine.died", "intake.paused", "engine.revived", "intake.paused",
        "intake.resumed",
    ]  # fmt: skip
    assert service.manager.count("READY=1") == 1


async def test_a_page_that_kills_makes_its_document_partial(service: Service) -> None:
    """That page is marked and holds the file's own text; its neighbours are read, and so is what comes later."""
    engine = MortalEngine(capacity=8)
    async with Running(service, engine) as running:
        engine.gate.clear()
        service.root.drop("good.pdf", text_pdf(4, lines=1, words="good"))
        service.root.drop("bad.pdf", text_pdf(1, lines=1, words="poison"))
        await eventually(lambda: len(engine.in_flight) == 5)
        engine.gate.set()
        await running.all_done(2)
        service.root.drop("next.pdf", text_pdf(1, words="the next one"))
        await running.all_done(3)
    bad, good = running.finished("bad.pdf"), running.finished("good.pdf")
    assert (good["status"], good["attempts"]) == ("done", 0)
    assert (bad["status"], bad["attempts"]) == ("partial", 0)
    problem = "the engine died twice while reading only this page; the text is the file's own"
    assert bad["problems"] == [{"page": 1, "problem": problem}]
    assert f"<!-- page 1: {problem} -->" in (service.root.outbox / "bad.pdf.md").read_text()
    (quarantined,) = running.events("page.quarantined")
    assert (quarantined["file"], quarantined["page_number"]) == ("bad.pdf", 1)
    assert len(running.events("intake.resumed")) == 1


async def test_an_engine_that_dies_with_nothing_to_do_is_brought_back(service: Service) -> None:
    """Before the next document needs it."""
    engine = MortalEngine()
    async with Running(service, engine) as running:
        engine.die()
        await eventually(lambda: running.events("intake.resumed"))
        service.root.drop("next.pdf", text_pdf(1, words="the next one"))
        await running.all_done(1)
    assert (engine.starts, len(running.events("engine.died"))) == (2, 1)


async def test_a_stop_does_not_wait_for_a_rebuild(service: Service) -> None:
    """SIGTERM while the engine is brought back: it leaves at once, and the next start reads what is left."""
    service.write_config(grace_s=600)
    engine = MortalEngine()
    async with Running(service, engine) as running:
        engine.gate.clear()
        service.root.drop("open.pdf", text_pdf(3, lines=1, words="open"))
        await eventually(lambda: len(engine.in_flight) == 3)
        engine.start_gate.clear()
        engine.doomed = True
        engine.gate.set()
        await eventually(lambda: engine.starts == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await running.task
    assert service.root.ended() == (0, 0)
    async with Running(service, MortalEngine()) as running:
        await running.all_done(1)
    assert (running.finished("open.pdf")["status"], running.finished("open.pdf")["attempts"]) == ("done", 0)


async def test_a_death_while_it_drains_is_the_last(service: Service) -> None:
    """Nobody builds an engine for a service that ends."""
    service.write_config(grace_s=600)
    engine = MortalEngine()
    async with Running(service, engine) as running:
        engine.gate.clear()
        service.root.drop("open.pdf", text_pdf(3, lines=1, words="open"))
        await eventually(lambda: len(engine.in_flight) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: "STOPPING=1" in service.manager.messages)
        engine.doomed = True
        engine.gate.set()
        async with asyncio.timeout(10):
            await running.task
    assert engine.starts == 1


@pytest.mark.parametrize("words", ["cannot start: no model", "dies over its warm-up page: it stumbled"])
async def test_an_engine_that_never_was_well_ends_the_start(service: Service, words: str) -> None:
    """There is nothing to go back to: it is told at once, with an exit code, rather than tried for ever."""
    engine = MortalEngine()
    if "no model" in words:
        engine.start_faults.append(EngineStartError("it cannot start: no model"))
    else:
        engine.doomed = True
    with pytest.raises(ExceptionGroup) as raised:
        async with Running(service, engine):
            pass
    assert raised.group_contains(EngineStartError, match=words)
    assert not raised.group_contains(EngineDeadError)
    assert (engine.starts, service.manager.count("READY=1")) == (1, 0)


async def test_what_an_engine_learns_when_it_starts_is_in_the_manifests(service: Service) -> None:
    """The model that read: a remote engine knows it only when it has asked, and it may be another after a rebuild."""

    class Learning(MortalEngine):
        async def start(self) -> None:
            await super().start()
            self.info = replace(self.info, model=f"learned-{self.starts}")

    engine = Learning()
    async with Running(service, engine) as running:
        service.root.drop("first.pdf", text_pdf(1, words="the first"))
        await running.all_done(1)
        engine.die()
        await eventually(lambda: running.events("intake.resumed"))
        service.root.drop("second.pdf", text_pdf(1, words="the second"))
        await running.all_done(2)
        await eventually(lambda: service.status["engine"]["model"] == "learned-2")
    models = [running.finished(f"{name}.pdf")["engine"]["model"] for name in ("first", "second")]
    assert models == ["learned-1", "learned-2"]


BEGAN = 1000.0
#: Name -> now, since when pages are in flight, when one came back last, and whether that is a hang.
HANGS: dict[str, tuple[float, float | None, float, bool]] = {
    "nothing to do": (BEGAN + 9 * LONGEST_PAGE_S, None, 0.0, False),
    "just begun": (BEGAN + 1, BEGAN, 0.0, False),
    "for long": (BEGAN + LONGEST_PAGE_S, BEGAN, 0.0, True),
    "one came back since": (BEGAN + LONGEST_PAGE_S, BEGAN, BEGAN + 1, False),
}


@pytest.mark.parametrize(("now", "busy_since", "progress_at", "expected"), HANGS.values(), ids=HANGS)
def test_what_a_hang_is(now: float, busy_since: float | None, progress_at: float, expected: bool) -> None:
    """Pages in flight, and nothing for long."""
    assert hangs(now, busy_since, progress_at, LONGEST_PAGE_S) is expected
    assert not hangs(now, busy_since, progress_at, math.inf), "its engine watches it"
