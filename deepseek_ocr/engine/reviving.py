"""An engine that does not die: the one within is built anew, and a page that kills it is found and set aside.

After a death new pages wait, and those that were in flight are tried again in halves, one group after the other with
nothing beside it.  A group that comes back is cleared, one that the engine dies over is halved again.  A page that
was alone in flight at two deaths gets a `PageError`, so that its document becomes partial; of N pages P of which kill,
that takes at most P * (ceil(log2 N) + 2) deaths.

Left to others: noticing a death or a hang (the engine within raises `EngineDeadError`), and taking no new documents
meanwhile (`on_health`).
Residual risks: a page that comes after a death nobody knows of yet, not even the engine's own `health`, is alone in
flight at it, which counts as one of its two; what is known of a page ends with its call, so after a restart of the
service it is found out anew.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from deepseek_ocr.completion import Completion, Health
from deepseek_ocr.errors import EngineDeadError, EngineError, PageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from deepseek_ocr.completion import Engine, EngineInfo, PageImage
    from deepseek_ocr.prompt import Options

log = structlog.get_logger()

#: Waits before a rebuild, by how many there were since the last page that was read.
BACKOFF_S = (1.0, 5.0, 15.0, 60.0)
#: A page that was alone in flight at so many deaths is to blame; at one of them it may have been chance.
SOLO_DEATHS = 2
#: How long a rebuild that is given up may take to end before the engine is stopped over its head.
GIVE_UP_S = 5.0


@dataclass(slots=True, eq=False)
class _Call:
    """One page somebody waits for, over as many deaths as it takes."""

    page: PageImage
    options: Options
    on_text: Callable[[str], None] | None
    answer: asyncio.Future[Completion]
    #: Of whoever asked: its log events carry the document.
    context: Context = field(default_factory=copy_context)
    #: Deaths at which nothing else was in flight.
    solo_deaths: int = 0

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless it is answered or given up."""
        if not self.answer.done():
            self.answer.set_exception(error)


class RevivingEngine:
    """Keeps the `Engine` protocol with another engine within, which may die."""

    def __init__(
        self,
        inner: Engine,
        *,
        on_health: Callable[[Health], None] = lambda _: None,
        warm_up: Callable[[], Awaitable[None]] | None = None,
        backoff_s: Sequence[float] = BACKOFF_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_health` hears of every change after a death, at last that all is well.

        `warm_up` has the engine within read a page after it was rebuilt: one that dies over any page must not be let
        loose on documents, each of which would be found guilty.  It raises where that fails.
        """
        self._inner = inner
        self._on_health = on_health
        self._warm_up = warm_up
        self._backoff_s = backoff_s
        self._sleep = sleep
        self._clock = clock
        #: Set while new pages may begin.
        self._gate = asyncio.Event()
        self._gate.set()
        #: All that somebody waits for, but for those at the gate.
        self._calls: set[_Call] = set()
        #: What the engine within works on.
        self._reading: dict[_Call, asyncio.Task[None]] = {}
        #: Why it is dead, and what was in flight then; None while it lives.
        self._death: EngineError | None = None
        self._suspects: list[_Call] = []
        #: Runs from a death until its pages are cleared.
        self._reviver: asyncio.Task[None] | None = None
        #: Whether there is a life that can end, whether its end is the last, and why no page is read any more.
        self._started = False
        self._final = False
        self._end: EngineError | None = None
        #: From a death until its pages are cleared; else None.
        self._health: Health | None = None
        #: What there is to say of earlier deaths while all is well.
        self._past = ""
        self.deaths = 0
        #: Rebuilds since the last page that was read.
        self._in_vain = 0

    @property
    def info(self) -> EngineInfo:
        """That of the engine within."""
        return self._inner.info

    async def start(self) -> None:
        """Start the engine within; raises `EngineStartError` if that fails, as there is nothing to revive yet."""
        await self._inner.start()
        self._started = True

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Read one page, however often the engine dies; raises `PageError` if the page is why.

        `EngineDeadError` comes only after `give_up` or `stop`.
        """
        self.notice_death()
        while not self._gate.is_set():
            await self._gate.wait()
        if self._end is not None:
            raise EngineDeadError(str(self._end))
        call = _Call(page, options, on_text, asyncio.get_running_loop().create_future())
        self._calls.add(call)
        self._begin(call)
        try:
            return await call.answer
        finally:
            self._calls.discard(call)
            if not call.answer.cancelled() and call.answer.done():
                call.answer.exception()  # it counts as seen, also where the caller was cancelled in the same moment
            attempt = self._reading.get(call)
            if attempt is not None and not attempt.done():
                attempt.cancel()
                await asyncio.wait((attempt,))

    async def stop(self) -> None:
        """Stop the engine within, or its rebuilding; pages in flight and pages that wait get `EngineDeadError`."""
        await self.give_up()
        self._lose(EngineDeadError("the engine is stopped"))
        await self._inner.stop()

    async def give_up(self) -> None:
        """Rebuild no more: pages that wait for that get `EngineDeadError`, as those in flight at a later death will."""
        self._final = True
        if self._reviver is not None:
            self._reviver.cancel()
            await asyncio.wait((self._reviver,), timeout=GIVE_UP_S)
            self._reviver = self._health = None
            self._lose(self._death or EngineDeadError("the engine is given up"))

    def notice_death(self) -> None:
        """Begin to bring it back if it says that it died while nothing was in flight; to be called now and then."""
        if self._started and not self._final and self._reviver is None and not self._reading:
            health = self._inner.health()
            if not health.ok:
                self._died(EngineDeadError(health.detail))

    def health(self) -> Health:
        """That of the engine within; after a death what is done about it, or how it went."""
        if self._health is not None:
            return self._health
        health = self._inner.health()
        return Health(health.ok, f"{health.detail}; {self._past}") if self._past else health

    # -- pages

    def _begin(self, call: _Call) -> asyncio.Task[None]:
        attempt = asyncio.create_task(self._attempt(call), context=call.context)
        self._reading[call] = attempt
        attempt.add_done_callback(lambda _: self._reading.pop(call, None))
        return attempt

    async def _attempt(self, call: _Call) -> None:
        """Have the engine within read a page; the answer goes to whoever asked."""
        task = asyncio.current_task()
        try:
            completion = await self._inner.recognize(call.page, call.options, call.on_text)
        except asyncio.CancelledError:
            if task is not None and not task.cancelling():
                self._died(EngineDeadError("it dropped a page that nobody gave up"))
            raise
        except EngineError as error:
            self._died(error)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            if self._death is None:  # else it is what was left of a dead engine, and the page is tried again
                call.fail(error)
        else:
            self._in_vain = 0
            if not call.answer.done():
                call.answer.set_result(completion)

    # -- deaths

    def _died(self, error: EngineError) -> None:
        """Note one death; all the pages that were in flight tell of it."""
        if self._death is not None:
            return
        self._death = error
        self.deaths += 1
        self._suspects = [call for call in self._reading if not call.answer.done()]
        if len(self._reading) == 1 and self._suspects:
            self._blame(self._suspects[0])
        if self._final:
            self._lose(error)
        elif self._reviver is None:
            self._gate.clear()
            # A context of its own: its events are not about the document whose page happened to notice.
            self._reviver = asyncio.create_task(self._revive(), context=Context())

    def _blame(self, call: _Call) -> None:
        call.solo_deaths += 1
        if call.solo_deaths == SOLO_DEATHS:
            log.warning("page.quarantined", page_number=call.page.page_index + 1, reason=str(self._death))
            call.fail(PageError("the engine died twice while reading only this page"))

    async def _revive(self) -> None:
        """From a death until all pages that were in flight are cleared, and new ones may begin."""
        # First in, first out: of two halves the one that is innocent need not wait until the other is searched.
        groups: deque[list[_Call]] = deque()
        while self._death is not None or groups:
            if self._death is not None:
                await self._rebuild(self._death)
                groups += _halves([call for call in self._suspects if not call.answer.done()])
                self._suspects = []
                if groups:
                    left = sum(len(group) for group in groups)
                    self._tell(f"the engine is back ({self._past}); pages that are tried again, in halves: {left}")
            else:
                await self._read_alone(groups.popleft())
        self._reviver = None
        self._health = None
        self._gate.set()
        self._on_health(self.health())

    async def _read_alone(self, group: list[_Call]) -> None:
        """Read these pages and nothing else, until all are answered or the engine dies."""
        pending = {self._begin(call) for call in group if not call.answer.done()}
        while pending and self._death is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    async def _rebuild(self, death: Exception) -> None:
        """Start the engine within until that works."""
        began = self._clock()
        for attempt in itertools.count(1):
            wait_s = self._backoff_s[min(self._in_vain, len(self._backoff_s) - 1)]
            self._in_vain += 1
            reason = str(death) or repr(death)
            unforeseen = None if isinstance(death, EngineError | PageError) else death
            log.error("engine.died", reason=reason, deaths=self.deaths, restart_in_s=wait_s, exc_info=unforeseen)
            self._tell(f"the engine died: {reason}; it is built anew after {wait_s:g} s (try {attempt})")
            try:
                await self._bury()
                await self._sleep(wait_s)
                await self._inner.start()
                if self._warm_up is not None:
                    await self._warm_up()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may find it mended
                death = error
                continue
            break
        seconds = self._clock() - began
        self._death = None
        self._past = f"deaths so far: {self.deaths}, last rebuilt in {seconds:.0f} s (try {attempt})"
        log.info("engine.revived", seconds=round(seconds, 3), tries=attempt, pages=len(self._calls))

    async def _bury(self) -> None:
        """Stop what is left of the engine; whatever it still worked on ends."""
        await self._inner.stop()
        left = tuple(self._reading.values())
        for attempt in left:
            attempt.cancel()
        if left:
            await asyncio.wait(left)

    def _lose(self, error: EngineError) -> None:
        """Nothing is read any more, neither what is in flight nor what waits at the gate."""
        self._end = self._end or error
        for call in tuple(self._calls):
            call.fail(EngineDeadError(str(error)))
        self._gate.set()

    def _tell(self, detail: str) -> None:
        self._health = Health(ok=False, detail=detail)
        self._on_health(self._health)


def _halves(calls: list[_Call]) -> list[list[_Call]]:
    """Two groups, as even as can be; fewer where there are not two."""
    middle = (len(calls) + 1) // 2
    return [group for group in (calls[:middle], calls[middle:]) if group]
