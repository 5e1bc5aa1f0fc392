"""Rendering processes that die and hang: the page's fault, the file's or nobody's, and said in time."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

from deepseek_ocr.errors import Corrupt, PageError, WorkerDied, WorkerTimeout
from deepseek_ocr.processes import ProcessPool
from deepseek_ocr.reader import PROBE_BYTES, Reader, read_ends
from tests.documents import text_pdf
from tests.fakes import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")


class TroubledPool(ProcessPool):
    """Processes that answer a call with what is planned for its function, and otherwise as they should."""

    def __init__(self, **plans: list[Exception]) -> None:
        super().__init__(1)
        self._plans = plans
        #: Function and time limit of each call.
        self.calls: list[tuple[str, float]] = []

    async def run_within(
        self, timeout_s: float | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The next fault of the plan, or the real answer."""
        self.calls.append((function.__name__, timeout_s or 0))
        if self._plans.get(function.__name__):
            raise self._plans[function.__name__].pop(0)
        return await super().run_within(timeout_s, function, *args, **kwargs)

    @property
    def names(self) -> list[str]:
        """What was called, in order."""
        return [name for name, _ in self.calls]


DIED, SLOW = WorkerDied("it crashed"), WorkerTimeout("no result after 25 s")


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    """A sound PDF of one page."""
    path = tmp_path / "x.pdf"
    path.write_bytes(text_pdf(1))
    return path


async def test_a_page_that_hangs_its_process_is_given_up_in_time(letter: Path) -> None:
    """The file itself answers, so the page is at fault: its text layer stands in, and all of it takes under 60 s."""
    pool = TroubledPool(load_page=[DIED, SLOW])
    async with Reader(FakeEngine(), pool=pool) as reader:
        pool.calls.clear()
        page = await reader.read_page(letter, 0)
    assert pool.names == ["load_page", "load_page", "read_ends", "load_page"]
    assert sum(seconds for _, seconds in pool.calls) < 60
    assert page.problem == "no result after 25 s; the text is the file's own"


@pytest.mark.parametrize("fault", [DIED, SLOW, PageError("no")], ids=["dies", "hangs", "fails"])
async def test_an_engine_without_pixels_has_nothing_less_to_ask_for(letter: Path, fault: PageError) -> None:
    """Its pages are loaded without a picture: once the same call was made again, for another 45 s or two crashes."""
    pool = TroubledPool(load_page=[fault] * 2)
    async with Reader(FakeEngine(needs="nothing"), pool=pool) as reader:
        page = await reader.read_page(letter, 0)
    assert pool.names.count("load_page") == (2 if fault is DIED else 1)
    assert (page.problem, page.source, page.blocks) == (str(fault), "none", ())


async def test_a_file_that_does_not_answer_is_no_pages_fault(letter: Path) -> None:
    """A share that hangs: an OSError, for whoever knows about shares, and no page is given up for it."""
    pool = TroubledPool(load_page=[SLOW], inspect=[SLOW], read_ends=[SLOW, SLOW])
    async with Reader(FakeEngine(), pool=pool) as reader:
        for call in (reader.read_page(letter, 0), reader.inspect(letter)):
            with pytest.raises(TimeoutError, match="the file does not answer") as caught:
                await call
            assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, str(letter))


async def test_a_document_that_crashes_the_library_is_corrupt(letter: Path) -> None:
    """It dies twice when it is opened, while the same file can be read; once is nobody's fault."""
    pool = TroubledPool(inspect=[DIED, DIED, DIED])
    async with Reader(FakeEngine(), pool=pool) as reader:
        with pytest.raises(Corrupt, match="crashes the library"):
            await reader.inspect(letter)
        assert (await reader.inspect(letter)).page_count == 1


async def test_processes_that_cannot_live_are_no_documents_fault(letter: Path) -> None:
    """Where nothing at all can be done in a process, no document is called corrupt."""
    pool = TroubledPool(inspect=[DIED, DIED], read_ends=[DIED])
    async with Reader(FakeEngine(), pool=pool) as reader:
        with pytest.raises(WorkerDied):
            await reader.inspect(letter)
        reader.close()
        with pytest.raises(WorkerDied):
            await reader.inspect(letter)


async def test_a_document_that_takes_too_long_to_open_is_told_apart(letter: Path) -> None:
    """The file answers, and the time limit of opening it is what the caller hears of."""
    async with Reader(FakeEngine(), pool=TroubledPool(inspect=[SLOW])) as reader:
        with pytest.raises(WorkerTimeout):
            await reader.inspect(letter)


def test_both_ends_of_a_file_are_read(tmp_path: Path) -> None:
    """Also of a file that is shorter than what is read of each."""
    path = tmp_path / "x"
    for size, expected in ((0, 0), (10, 20), (PROBE_BYTES * 3, PROBE_BYTES * 2)):
        path.write_bytes(bytes(size))
        assert read_ends(path) == expected


async def test_reading_a_file_that_hangs_ends_in_time(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands in for a file of a dead server: its process is killed."""
    os.mkfifo(tmp_path / "hangs")
    pool = ProcessPool(1)
    await pool.warm()
    try:
        with pytest.raises(WorkerTimeout):
            await pool.run_within(0.3, read_ends, tmp_path / "hangs")
    finally:
        pool.close()
