"""Starts, drains and stops everything; the only place that wires the parts together.

Residual risk: when a share hangs (a hard NFS mount), threads that wait for it cannot be ended; the command leaves
without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
import sqlite3
import sys
import time
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from daemon import status
from daemon.assembly import Assembler
from daemon.config import ConfigError, Settings, load
from daemon.durable import to_json, write_atomic
from daemon.engines import Refused, build_engine, engine_account, page_limits, refuse_inboxes, warm_up
from daemon.fair import PageSlots
from daemon.faults import free_mb
from daemon.intake import Intake
from daemon.ledger import Ledger
from daemon.roots import RootRefused, this_owner
from daemon.shares import Shares
from daemon.worker import Worker
from deepseek_ocr.engine.reviving import BACKOFF_S, RevivingEngine
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.processes import collect_rarely
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from daemon.config import Inbox
    from daemon.systemd import Notifier
    from deepseek_ocr.completion import Engine, Health
    from deepseek_ocr.engine import Choice

log = structlog.get_logger()

#: Start and stop tell the service manager so often that they go on, and for how long it may wait for the next word.
EXTEND_EVERY_S, EXTEND_FOR_S = 5.0, 30.0
#: How long the start waits for one share to answer.
ADOPT_S = 10.0
#: How long another thread may keep the event loop from running on (Python: 5 ms).
SWITCH_INTERVAL_S = 0.001


class Supervisor:
    """The service."""

    def __init__(
        self, settings: Settings, config_path: Path, notifier: Notifier,
        build: Callable[[Settings], tuple[Choice, Engine]] = build_engine, backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:  # fmt: skip
        """`build` makes the engine, `backoff_s` are the waits before it is built anew; tests pass their own."""
        self.settings = settings
        self.config_path = config_path
        self.notifier = notifier
        self.state = "starting"
        self.reload_error = ""
        self._owner = this_owner(settings.service.instance_name)
        self._stop = asyncio.Event()
        self._engine_ready = asyncio.Event()
        self._build, self._backoff_s = build, backoff_s
        self._totals: dict[str, dict[str, int]] = {}
        #: Steady clock: when the engine last came back, or went.
        self._engine_since = 0.0
        self._status_lock = asyncio.Lock()
        self._reload_lock = asyncio.Lock()
        self._just_asked = False
        #: Read once: it comes from a file, which an upgrade may replace under the running service.
        self._version = version("ocr-daemon")

    # -- the life of the service

    async def run(self) -> None:
        """From start to stop; raises `Refused` and `EngineStartError` for a start that must not be."""
        async with AsyncExitStack() as stack:
            self._handle_signals()
            self._open_state_dir(stack)
            self._choice, mortal = await asyncio.to_thread(self._build, self.settings)  # may wait for a card
            log.info("engine.chosen", engine=self._choice.name, reason=self._choice.reason)
            self._ledger = await self._open_ledger(stack)
            self._engine = RevivingEngine(
                mortal, on_health=self._on_engine_health, warm_up=self._warm_up, backoff_s=self._backoff_s
            )
            self._reader = Reader(self._engine, limits=page_limits(self.settings))
            self._assembler = Assembler(self._reader.picture)
            stack.callback(self._assembler.close)
            #: Reads past all revival: a page that decides whether the engine may be let loose must not wait for that.
            self._tester = self._reader.with_engine(mortal)
            self._worker = self._new_worker()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._intake = Intake(self._worker, tasks)
                self._shares = Shares(self._owner, self._ledger, self._intake, tasks, self._engine_ready)
                stack.push_async_callback(self._release_all)
                background = [tasks.create_task(loop) for loop in (self._keep_status(), self._feed_watchdog())]
                async with self._extending():
                    for inbox in self.settings.inbox:
                        await self._adopt_first(inbox)
                    started = await self._start_engine(stack)
                if started:
                    background.append(tasks.create_task(self._intake.run()))
                    await self._serve()
                else:
                    self.notifier.stopping()
                self.state = "stopped"
                await self._write_status()
                for task in background:
                    task.cancel()
                self._shares.stop()

    async def _open_ledger(self, stack: AsyncExitStack) -> Ledger:
        try:
            return await stack.enter_async_context(Ledger(self.settings.service.state_dir))
        except sqlite3.OperationalError:
            raise  # a full or failing disk, a lock: a later start may find it mended
        except (sqlite3.Error, PermissionError) as error:
            raise Refused(f"the ledger in {self.settings.service.state_dir} cannot be opened: {error}") from error

    async def _start_engine(self, stack: AsyncExitStack) -> bool:
        """Have it read its warm-up page; False if the service was asked to stop meanwhile."""

        async def start() -> None:
            await self._reader.__aenter__()
            stack.push_async_callback(self._stop_engine)
            await self._warm_up()

        starting = asyncio.create_task(start())
        if not await self._unless_stopped(starting):
            starting.cancel()
            await asyncio.wait((starting,))
            self._reader.close()
            return False
        try:
            starting.result()
        except PageError as error:
            raise EngineStartError(f"the rendering processes do not start: {error}") from error
        except EngineDeadError as error:
            raise EngineStartError(f"the engine dies over its warm-up page: {error}") from error
        # Some engines know only now what reads: the name of a remote model, the scripts of the operator's own.
        self._worker.engine = engine_account(self._choice, self._engine)
        info = self._engine.info
        log.info("engine.ready", engine=info.name, model=info.model, detail=self._engine.health().detail)
        return True

    async def _stop_engine(self) -> None:
        """A card takes a while to be left; the shares are given back after it, which must not be cut off."""
        async with self._extending():
            await self._reader.__aexit__()

    async def _warm_up(self) -> None:
        await warm_up(self._tester)

    async def _unless_stopped(self, task: asyncio.Task[Any], timeout_s: float | None = None) -> bool:
        """Wait for a task; False if the service was asked to stop, or the time was up, before it ended."""
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stopping), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return task.done()

    async def _serve(self) -> None:
        """From READY to the end of the drain."""
        if self.settings.http.enabled:
            log.warning("service.http_inert", reason="this version does not serve HTTP yet; [http] has no effect")
        # What is there now stays, half a million objects with vLLM; each look through them stopped the loop for 0.3 s.
        gc.collect()
        gc.freeze()
        collect_rarely(self._engine.info.capacity)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._engine_ready.set()
        self.state = "ready"
        await self._write_status()
        self.notifier.ready()
        log.info("service.ready", inboxes=[share.name for share in self._intake.shares])
        await self._stop.wait()
        async with self._extending():
            await self._drain()

    def _open_state_dir(self, stack: AsyncExitStack) -> None:
        state_dir = self.settings.service.state_dir
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((state_dir / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"another ocr-daemon uses the state folder {state_dir}; give each its own") from error
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise Refused(f"the state folder {state_dir} cannot be used: {error.strerror or error}") from error

    def _new_worker(self) -> Worker:
        return Worker(
            reader=self._reader,
            assembler=self._assembler,
            slots=PageSlots(self._engine.info.capacity),
            ledger=self._ledger,
            engine=engine_account(self._choice, self._engine),
            instance=self._owner.instance,
            max_attempts=self.settings.limits.max_attempts,
            ledger_fault=self._mend_ledger,
        )

    async def _adopt_first(self, inbox: Inbox) -> None:
        """At start: a root that is away, or does not answer, is a pause; one that is refused ends the start."""
        share, adopting = self._shares.add(inbox, self.settings.watch, self.settings.limits)
        if not await self._unless_stopped(adopting, ADOPT_S):
            share.pause(f"{share.root.path} does not answer")
        elif isinstance(refused := adopting.exception(), RootRefused):
            raise Refused(str(refused)) from refused

    async def _release_all(self) -> None:
        await self._shares.release_all(stopped=self.state == "stopped")

    # -- faults

    def _on_engine_health(self, health: Health) -> None:
        """Take nothing new while the engine is brought back; the pages of open documents wait for it by themselves."""
        self._engine_since = time.monotonic()
        if health.ok:
            self._worker.engine = engine_account(self._choice, self._engine)
            self._intake.resume("engine")
        else:
            self._intake.pause("engine", health.detail)

    async def _mend_ledger(self, error: Exception) -> None:
        """Wait until the state folder can be written again."""
        self._intake.pause("ledger", f"the ledger cannot be written: {error}")
        await asyncio.sleep(5.0)
        with contextlib.suppress(sqlite3.Error):
            for share in self._intake.shares:
                if share.adopted:  # a write; reading works on a full disk, too
                    await self._ledger.remember_root(share.root.path, share.root.root_id, time.time())
            self._intake.resume("ledger")

    # -- background

    async def _keep_status(self) -> None:
        while True:
            if self.state == "ready":
                self._engine.notice_death()
            await self._write_status()
            await asyncio.sleep(status.WRITE_S)

    async def _write_status(self) -> None:
        async with self._status_lock:
            await self._write_status_now()

    async def _write_status_now(self) -> None:
        state_dir = self.settings.service.state_dir
        with contextlib.suppress(sqlite3.Error):
            self._totals = await self._ledger.totals()
        health = self._engine.health()
        content = status.snapshot(
            head={
                "version": self._version, "instance": self._owner.instance, "pid": os.getpid(),
                "config": str(self.config_path),
                "engine": {**self._worker.engine, "ok": health.ok, "detail": health.detail},
            },
            state=self.state, pauses=self._intake.pauses, shares=self._intake.shares, worker=self._worker,
            totals=self._totals, reload_error=self.reload_error, to_run_alone=self._intake.to_run_alone,
        )  # fmt: skip
        self.notifier.status(status.line(content))
        try:
            await asyncio.to_thread(write_atomic, state_dir / status.FILE_NAME, to_json(content), sync=False)
            free = await asyncio.to_thread(free_mb, state_dir)
            ledger_is_there = await asyncio.to_thread(self._ledger.is_there)
        except OSError as error:
            self._intake.pause("state", f"{state_dir}: {error.strerror or error}")
            return
        if not ledger_is_there:
            self._intake.pause(
                "state", f"{self._ledger.path} was deleted or replaced: stop the service, put it back, start it again"
            )
        elif free < self.settings.limits.min_free_mb:
            self._intake.pause("state", f"only {free:.0f} MB are free at {state_dir}")
        else:
            self._intake.resume("state")

    async def _feed_watchdog(self) -> None:
        """As long as the loop turns and a busy engine makes progress, or is brought back, which may take long."""
        interval_s = self.notifier.watchdog_s / 3
        while interval_s:
            last = max(self._worker.passes.progress_at, self._engine_since)
            busy_since, longest_s = self._worker.passes.slots.busy_since, self._engine.info.longest_page_s
            if "engine" in self._intake.pauses or not hangs(time.monotonic(), busy_since, last, longest_s):
                self.notifier.watchdog()
            await asyncio.sleep(interval_s)

    @contextlib.asynccontextmanager
    async def _extending(self) -> Any:
        """Tell the service manager that something slow goes on, as long as the loop turns."""

        async def extend() -> None:
            while True:
                self.notifier.extend_timeout(EXTEND_FOR_S)
                await asyncio.sleep(EXTEND_EVERY_S)

        task = asyncio.create_task(extend())
        try:
            yield
        finally:
            task.cancel()

    # -- signals

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)

    def _on_stop_signal(self) -> None:
        if self._stop.is_set() and not self._just_asked:
            # Worker processes end with this one; whatever is open resumes at the next start, as after a crash.
            os._exit(1)
        self._stop.set()
        # Signals that came together are one: a wrapper passes on what the process group has got already.
        self._just_asked = True
        asyncio.get_running_loop().call_soon(self._asked_before)

    def _asked_before(self) -> None:
        self._just_asked = False

    def _on_reload_signal(self) -> None:
        if self.state == "ready":
            self._tasks.create_task(self._reload())

    async def _drain(self) -> None:
        """No new page; pages in flight may finish within the grace time; the rest resumes at the next start."""
        self.state = "draining"
        self.notifier.stopping()
        log.info("service.draining", jobs=len(self._intake.running), grace_s=self.settings.service.grace_s)
        self._worker.drain()
        self._intake.stop()
        await self._engine.give_up()  # pages that wait for a rebuild are read after the next start
        await self._write_status()
        if self._intake.running:
            await asyncio.wait(self._intake.running, timeout=self.settings.service.grace_s)
        left = tuple(self._worker.running.values())
        for progress in left:
            await self._worker.pardon(progress.share, progress.job)
        for task in self._intake.running:
            task.cancel()
        log.info("service.stopped", left_to_resume=len(left))

    async def _reload(self) -> None:
        """Take over inboxes, [watch] and [limits]; a mistake changes nothing."""
        async with self._reload_lock:
            await self._reload_now()

    async def _reload_now(self) -> None:
        self.notifier.reloading()
        try:
            await self._apply(load(self.config_path, may_be_empty=False))
        except (ConfigError, Refused) as error:
            self.reload_error = str(error)
            log.error("service.reload_refused", reason=str(error))  # noqa: TRY400 - a wrong file needs no traceback
        else:
            self.reload_error = ""
            log.info("service.reloaded", inboxes=[share.name for share in self._intake.shares])
        self.notifier.ready()
        await self._write_status()

    async def _apply(self, settings: Settings) -> None:
        refuse_inboxes(self._engine, settings.inbox)
        self._shares.refuse_retiring(settings.inbox)
        fixed = [
            name for name in ("service", "engine", "http") if getattr(settings, name) != getattr(self.settings, name)
        ]
        if fixed:
            log.warning("service.reloaded", needs_restart=fixed)
        self.settings = self.settings.model_copy(
            update={"inbox": settings.inbox, "watch": settings.watch, "limits": settings.limits}
        )
        self._reader.limits = self._tester.limits = page_limits(self.settings)
        self._worker.max_attempts = self.settings.limits.max_attempts
        self._shares.apply(settings.inbox, settings.watch, settings.limits)


def hangs(now: float, busy_since: float | None, progress_at: float, longest_s: float) -> bool:
    """Whether pages are in flight (None: none is) and nothing has come back for as long as any may take.

    On the steady clock.
    """
    return busy_since is not None and now - max(busy_since, progress_at) >= longest_s
