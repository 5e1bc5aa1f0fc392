"""A drain or a kill on a document's way, and the next start: what is kept, read again, or given up."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually
from tests.drop_root import DropRoot
from tests.fakes import FakeReader, fake_document
from tests.journey import ENGINE, Journey, error, manifest, markdown, out, rows

if TYPE_CHECKING:
    from pathlib import Path

#: watchdog sets the watch of a folder that is made in a new folder twice, and says so in its thread.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")


async def drained_with_two_pages_in_flight(journey: Journey, reader: FakeReader) -> None:
    """They end when the drain has begun."""
    reader.gate.clear()
    await eventually(lambda: reader.in_flight == 2)
    stopping = asyncio.create_task(journey.drain())
    await eventually(lambda: journey.worker.passes.draining)
    reader.gate.set()
    await stopping


async def test_a_drain_finishes_the_pages_in_flight_and_no_more(root: DropRoot, tmp_path: Path) -> None:
    """What was begun is kept, the next start reads the rest, and no page is read twice."""
    reader = FakeReader()
    async with Journey(tmp_path, root, reader=reader) as journey:
        root.drop("long.pdf", fake_document(10, "long"))
        await drained_with_two_pages_in_flight(journey, reader)
        assert len(reader.calls) == 2
    assert len(list(root.work.glob("*/pages/*.json"))) == 2
    async with Journey(tmp_path, root, reader=reader):
        await eventually(lambda: out(root, "long.pdf"))
    assert sorted(reader.calls) == [("long", number) for number in range(1, 11)]
    assert manifest(root, "long.pdf")["attempts"] == 0


@pytest.mark.parametrize(
    "change",
    [{"engine": ENGINE | {"model": "fake-2"}}, {"engine": ENGINE | {"name": "other"}}, {"task": "free"}],
    ids=["model", "engine", "task"],
)
async def test_checkpoints_of_something_else_are_ignored(
    root: DropRoot, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Pages that another engine, model or task has read are read again."""
    reader = FakeReader()
    async with Journey(tmp_path, root, reader=reader) as journey:
        root.drop("long.pdf", fake_document(3, "long"))
        await drained_with_two_pages_in_flight(journey, reader)
    async with Journey(tmp_path, root, reader=reader, **change):
        await eventually(lambda: out(root, "long.pdf"))
    assert len(reader.calls) == 2 + 3


async def test_after_a_kill_open_documents_run_alone(root: DropRoot, tmp_path: Path) -> None:
    """One by one, each from its first page without a checkpoint; new ones are taken only after them."""
    reader = FakeReader()
    async with Journey(tmp_path, root, reader=reader, capacity=4) as journey:
        reader.gate.clear()
        for name in ("a", "b", "c"):
            root.drop(f"{name}.pdf", fake_document(3, name))
        await eventually(lambda: reader.in_flight == 4 and len(list(root.work.glob("*/source.*"))) == 3)
        journey.kill()
    reader.calls.clear()
    async with Journey(tmp_path, root, reader=reader, capacity=4) as journey:
        root.drop("new.pdf", fake_document(1, "new"))
        await eventually(lambda: reader.in_flight == 3)
        assert len({words for words, _ in reader.calls}) == 1
        reader.gate.set()
        await eventually(lambda: root.ended() == (4, 0))
    order = [words for words, _ in reader.calls]
    assert order[9:] == ["new"]
    assert all(len(set(order[start : start + 3])) == 1 for start in (0, 3, 6)), order
    assert rows(tmp_path)["a.pdf"].status == "done"


async def test_a_kill_in_the_second_pass_repeats_neither(root: DropRoot, tmp_path: Path) -> None:
    """After it only the pages are looked at again that had not been."""
    reader = FakeReader()
    reader.illustrated.add("atlas")
    reader.held_looks.add(("atlas", 2))
    async with Journey(tmp_path, root, reader=reader, second_pass=True, capacity=3) as journey:
        root.drop("atlas.pdf", fake_document(3, "atlas"))
        await eventually(lambda: len(reader.looked_closer) == 3)
        await eventually(
            lambda: sum(b'"closer": true' in path.read_bytes() for path in root.work.glob("*/pages/*.json")) == 2
        )
        journey.kill()
    assert root.ended() == (0, 0)
    again = FakeReader()
    async with Journey(tmp_path, root, reader=again, second_pass=True):
        await eventually(lambda: root.ended() == (1, 0))
    assert again.calls == []
    assert again.looked_closer == [("atlas", 2)]
    assert markdown(root, "atlas.pdf").count("seen closer") == 3


async def test_nothing_is_taken_while_the_last_one_runs_alone(root: DropRoot, tmp_path: Path) -> None:
    """Also where one document was open at the crash: who dies with it must be it, not a neighbour.

    The intake once looked only at those that had not begun, and took new files beside the last.
    """
    reader = FakeReader()
    reader.gate.clear()
    async with Journey(tmp_path, root, reader=reader, capacity=4) as journey:
        root.drop("old.pdf", fake_document(2, "old"))
        await eventually(lambda: reader.in_flight == 2)
        journey.kill()
    async with Journey(tmp_path, root, reader=reader, capacity=4) as journey:
        await eventually(lambda: reader.in_flight == 2)
        root.drop("new.pdf", fake_document(1, "new"))
        await eventually(lambda: journey.intake.shares[0].watcher.found)
        await journey.intake_looks()
        assert len(journey.intake.running) == journey.intake.to_run_alone == 1
        assert (root.inbox / "new.pdf").exists()
        reader.gate.set()
        await eventually(lambda: root.ended() == (2, 0))
        assert journey.intake.to_run_alone == 0


async def test_one_that_runs_alone_and_stands_still_for_a_while_runs_alone_afterwards(tmp_path: Path) -> None:
    """Where its share was away meanwhile and another inbox had its turn, nothing is taken beside it either."""
    roots = DropRoot(tmp_path / "a"), DropRoot(tmp_path / "b")
    reader = FakeReader()
    reader.held |= {"first", "second"}
    async with Journey(tmp_path, *roots, reader=reader, capacity=4) as journey:
        for root, words in zip(roots, ("first", "second"), strict=True):
            root.drop(f"{words}.pdf", fake_document(1, words))
        await eventually(lambda: reader.in_flight == 2)
        journey.kill()
    reader.held.discard("second")
    async with Journey(tmp_path, *roots, reader=reader, capacity=4) as journey:
        away, well = journey.intake.shares
        await eventually(lambda: reader.in_flight == 1)
        away.pause("it does not answer")
        journey.intake.wake()
        await eventually(lambda: roots[1].ended() == (1, 0))
        await eventually(lambda: not away.paused)
        new = roots[1].drop("new.pdf", fake_document(1, "new"))
        await eventually(lambda: well.watcher.found)
        await journey.intake_looks()
        assert new.exists()
        assert len(journey.intake.running) == journey.intake.to_run_alone == 1
        journey.kill()
    for root in roots:
        root.check()


async def test_a_kill_while_a_finished_job_is_cleared_costs_no_account(root: DropRoot, tmp_path: Path) -> None:
    """A folder without job.json can be what is left of a finished job, not only of one whose file was damaged.

    Found by the crash test: the document lay in done/, and the ledger no longer counted it.
    """
    async with Journey(tmp_path, root):
        root.drop("x.pdf", fake_document())
        await eventually(lambda: root.ended() == (1, 0))
        await eventually(lambda: not any(root.work.iterdir()))
    (before,) = rows(tmp_path).values()
    (root.work / before.job_id).mkdir()
    async with Journey(tmp_path, root):
        await eventually(lambda: not any(root.work.iterdir()))
    (after,) = rows(tmp_path).values()
    assert after == before
    assert (after.status, after.retried_at) == ("done", None)


async def test_a_file_that_kills_the_service_ends_in_failed(root: DropRoot, tmp_path: Path) -> None:
    """Each solo run that dies without a new page counts; its neighbour does not pay for it."""
    for start in range(3):
        reader = FakeReader()
        reader.held |= {"killer"} if start else {"killer", "neighbour"}
        async with Journey(tmp_path, root, reader=reader, capacity=4, max_attempts=2) as journey:
            if not start:
                root.drop("killer.pdf", fake_document(2, "killer"))
                root.drop("neighbour.pdf", fake_document(2, "neighbour"))
                await eventually(lambda: len(list(root.work.glob("*/source.*"))) == 2)
            await eventually(lambda reader=reader: ("killer", 1) in reader.calls)  # type: ignore[misc]
            journey.kill()
    async with Journey(tmp_path, root, max_attempts=2) as journey:
        await eventually(lambda: root.ended() == (1, 1))
        assert ("killer", 1) not in journey.reader.calls
    assert error(root, "killer.pdf")["reason"] == "gave_up"
    assert manifest(root, "neighbour.pdf")["status"] == "done"


async def test_a_new_page_takes_the_attempt_back(root: DropRoot, tmp_path: Path) -> None:
    """A document that is killed again and again, but each time after a new page, is read to its end."""
    for start in range(6):
        async with Journey(tmp_path, root, capacity=1, max_attempts=2) as journey:
            if not start:
                root.drop("slow.pdf", fake_document(8, "slow"))
            journey.reader.held_pages |= {("slow", start + 2)}
            await eventually(lambda start=start, journey=journey: ("slow", start + 2) in journey.reader.calls)  # type: ignore[misc]
            # The next page may begin before the one before it is kept, and before its attempt is taken back.
            (job,) = root.work.iterdir()
            await eventually(lambda start=start, job=job: (job / "pages" / f"{start + 1:04}.json").exists())  # type: ignore[misc]
            await eventually(lambda job=job: not json.loads((job / "job.json").read_bytes())["solo"])  # type: ignore[misc]
            journey.kill()
    async with Journey(tmp_path, root, max_attempts=2) as journey:
        await eventually(lambda: out(root, "slow.pdf"))
        assert sorted(journey.reader.calls) == [("slow", 7), ("slow", 8)]
