"""A document's way from the inbox to done/ or failed/: real folders, real events, a fake reader.

The parts are wired as the supervisor does it, in this process, so that a test can hold a page back, let it fail in a
chosen way, or leave everything lying as a killed process would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import pytest
from structlog.testing import capture_logs

from daemon.assembly import Assembler
from daemon.config import Inbox, Limits, Watch
from daemon.fair import PageSlots
from daemon.intake import Intake
from daemon.ledger import Ledger, connect, entries
from daemon.roots import this_owner
from daemon.share import Share
from daemon.worker import Worker
from deepseek_ocr.errors import EngineDeadError, EngineStartError, TooManyPages, WorkerDied
from tests.conftest import eventually
from tests.fakes import DropRoot, FakeReader, fake_document, run_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.ledger import Entry

#: watchdog sets the watch of a folder that is made in a new folder twice, and says so in its thread.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")

ENGINE: dict[str, Any] = {"name": "fake", "model": "fake-1", "mode": None, "reason": "a test", "scripts": []}
#: Nothing is found by a scan after the first.
EVENTS_ONLY_S = 3600.0


class Journey:
    """Everything between inbox and done/ of one or more roots, from `async with` to the end of it."""

    def __init__(
        self, state_dir: Path, *roots: DropRoot, reader: FakeReader | None = None, capacity: int = 2,
        max_attempts: int = 3, engine: dict[str, Any] = ENGINE, watch: Watch | None = None, **inbox: Any,
    ) -> None:  # fmt: skip
        self.reader = reader or FakeReader()
        self.slots = PageSlots(capacity)
        self.ledger = Ledger(state_dir)
        self.owner = this_owner("test")
        self.worker = Worker(
            reader=self.reader, assembler=Assembler(self.reader.picture, run_here), slots=self.slots,
            ledger=self.ledger, engine=engine, instance="test", max_attempts=max_attempts,
            ledger_fault=self._ledger_fault,
        )  # fmt: skip
        self._roots = roots
        self._watch = watch or Watch(settle_s=0.05, rescan_s=0.2)
        self._inbox = inbox
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Adopt the roots and serve them."""
        await self._stack.enter_async_context(self.ledger)
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self.intake = Intake(self.worker, self._tasks)
        self.loops = [self._tasks.create_task(self.intake.run())]
        for number, root in enumerate(self._roots):
            settings = Inbox.model_validate({"name": root.path.name, "root": root.path} | self._inbox)
            if number and settings.priority:
                settings = settings.model_copy(update={"priority": 0})
            share = Share(settings, self._watch, Limits(min_free_mb=0), owner=self.owner, on_found=self.intake.wake)
            self.intake.shares.append(share)
            adopted = await share.adopt(self.ledger)
            self.intake.take_over(share, adopted.recovered, unclean=adopted.unclean)
            share.watcher.start_events(asyncio.get_running_loop())
            self.loops += [self._tasks.create_task(share.watch()), self._tasks.create_task(share.keep())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; unless it was killed or stopped before, as a service does that is asked to."""
        if not self.worker.passes.draining:
            await self.drain()
        self._end()
        await self._stack.aclose()
        assert self.slots.in_flight == 0
        assert self.slots.waiting == 0
        assert self.worker.running == {}

    async def drain(self) -> None:
        """Begin nothing more, let pages in flight finish, and sign off."""
        self.worker.drain()
        self.intake.stop()
        if self.intake.running:
            await asyncio.wait(self.intake.running)
        for share in self.intake.shares:
            await share.threads.run(share.root.release)

    async def intake_looks(self) -> None:
        """Have the intake look for something to begin, and begin it."""
        self.intake.wake()
        turns = iter(range(5))
        await eventually(lambda: next(turns, None) is None)

    def kill(self) -> None:
        """Leave everything lying as it is; nobody signs off."""
        self.worker.passes.draining = True
        for task in self.intake.running:
            task.cancel()

    def _end(self) -> None:
        for share in self.intake.shares:
            share.watcher.stop_events()
            share.threads.close()
        for task in self.loops:
            task.cancel()
        for thread in threading.enumerate():
            if thread.name.startswith(tuple(f"disk-{share.name}_" for share in self.intake.shares)):
                thread.join()  # what still writes is not to meet the next journey in its folders

    async def _ledger_fault(self, error: Exception) -> None:
        raise AssertionError(error)


def out(root: DropRoot, name: str) -> bool:
    """Whether a document has come out whole."""
    return (root.done / name).exists() and (root.outbox / f"{name}.manifest.json").exists()


def manifest(root: DropRoot, name: str) -> dict[str, Any]:
    """Its manifest."""
    content: dict[str, Any] = json.loads((root.outbox / f"{name}.manifest.json").read_bytes())
    return content


def error(root: DropRoot, name: str) -> dict[str, Any]:
    """The account of its failure."""
    content: dict[str, Any] = json.loads((root.failed / f"{name}.error.json").read_bytes())
    return content


def markdown(root: DropRoot, name: str) -> str:
    """Its Markdown."""
    return (root.outbox / f"{name}.md").read_text(encoding="utf-8")


def rows(state_dir: Path) -> dict[str, Entry]:
    """The ledger's rows by path in the inbox."""
    with contextlib.closing(connect(state_dir / "ledger.sqlite3")) as connection:
        ids = [row[0] for row in connection.execute("SELECT root_id FROM roots")]
        return {entry.path: entry for root_id in ids for entry in entries(connection, root_id)}


# Finding


@pytest.mark.parametrize(
    "arrive",
    [
        lambda root: root.drop("a.pdf", fake_document(words="news")),
        lambda root: root.drop("x/y/a.pdf", fake_document(words="news")),
    ],
    ids=["in the inbox", "in new subfolders"],
)
async def test_events_alone_find_a_file(root: DropRoot, tmp_path: Path, arrive: Callable[[DropRoot], Path]) -> None:
    """A file that is dropped is found long before the next scan."""
    watch = Watch(settle_s=0.05, rescan_s=EVENTS_ONLY_S)
    async with Journey(tmp_path, root, watch=watch) as journey:
        await eventually(lambda: journey.intake.shares[0].watcher.settler.next_due() is None)
        name = str(arrive(root).relative_to(root.inbox))
        await eventually(lambda: out(root, name))
    assert markdown(root, name) == "<!-- page 1 -->\n\nnews 1\n"


async def test_a_folder_that_is_moved_in_is_found(root: DropRoot, tmp_path: Path) -> None:
    """Files in a folder that comes whole raise no event of their own; they are found all the same."""
    async with Journey(tmp_path, root, watch=Watch(settle_s=0.05, rescan_s=EVENTS_ONLY_S)):
        outside = DropRoot(tmp_path / "outside")
        for number in range(3):
            content = fake_document(words=f"letter {number}")
            outside.drop(f"letters/deep/{number}.pdf", content)
            root.drop("placeholder.part", content).unlink()
        (outside.inbox / "letters").rename(root.inbox / "letters")
        await eventually(lambda: all(out(root, f"letters/deep/{number}.pdf") for number in range(3)))


async def test_the_scan_alone_finds_a_file(root: DropRoot, tmp_path: Path) -> None:
    """Where no event comes, as on a network file system, the scan is enough."""
    async with Journey(tmp_path, root) as journey:
        journey.intake.shares[0].watcher.stop_events()
        root.drop("x/a.pdf", fake_document())
        await eventually(lambda: out(root, "x/a.pdf"))


async def test_a_slow_writer_is_waited_for(root: DropRoot, tmp_path: Path) -> None:
    """A file is taken when it has been quiet for settle_s, and then it is whole."""
    content = fake_document(2, "slowly written")
    async with Journey(tmp_path, root, watch=Watch(settle_s=0.4, rescan_s=0.1)) as journey:
        path = root.drop("slow.pdf", b"")
        root.forget(b"")
        with path.open("wb", buffering=0) as file:
            for byte in content:
                assert path.exists(), "it was taken while it was written"
                file.write(bytes([byte]))
                due = time.monotonic() + 0.02
                await eventually(lambda due=due: time.monotonic() > due)  # type: ignore[misc]
        root.dropped.update(dict.fromkeys(root.places(), "slow.pdf"))
        await eventually(lambda: out(root, "slow.pdf"))
        assert journey.reader.inspected == ["slowly written"]
    assert manifest(root, "slow.pdf")["pages"] == 2


async def test_temporary_names_are_never_documents(root: DropRoot, tmp_path: Path) -> None:
    """Names that writers use while they write stay untouched, until they get their real one."""
    names = [".hidden.pdf", "a.pdf.part", "b.pdf.tmp", "~$c.docx", "Thumbs.db", "d.pdf.crdownload", "e.done"]
    async with Journey(tmp_path, root) as journey:
        for name in names:
            root.drop("x", fake_document(words=name)).rename(root.inbox / name)
        root.drop("real.pdf", fake_document(words="real"))
        await eventually(lambda: out(root, "real.pdf"))
        watcher = journey.intake.shares[0].watcher
        await eventually(lambda: watcher.ignored == len(names))
        (root.inbox / "a.pdf.part").rename(root.inbox / "a.pdf")
        await eventually(lambda: out(root, "a.pdf"))
    assert sorted(path.name for path in root.inbox.iterdir()) == sorted(set(names) - {"a.pdf.part"})


async def test_a_file_that_is_taken_back_in_time_is_forgotten(root: DropRoot, tmp_path: Path) -> None:
    """Who deletes a file before it has settled has not dropped it."""
    async with Journey(tmp_path, root, watch=Watch(settle_s=1, rescan_s=0.1)) as journey:
        content = fake_document(words="a mistake")
        path = root.drop("oops.pdf", content)
        watcher = journey.intake.shares[0].watcher
        await eventually(lambda: "oops.pdf" in watcher.settler)
        path.unlink()
        root.forget(content)
        await eventually(lambda: "oops.pdf" not in watcher.settler and "oops.pdf" not in watcher.inventory)
    assert rows(tmp_path) == {}


# The straight line


async def test_everything_that_comes_out_of_a_document(root: DropRoot, tmp_path: Path) -> None:
    """Markdown, JSON, manifest, line and ledger tell the same, and the log has one full line."""
    content = fake_document(3, "minutes")
    with capture_logs() as logs:
        async with Journey(tmp_path, root):
            root.drop("sub/minutes.pdf", content)
            await eventually((root.done / "sub/minutes.pdf").exists)
            await eventually(lambda: not any(root.work.iterdir()))
    assert (root.done / "sub/minutes.pdf").read_bytes() == content
    account = manifest(root, "sub/minutes.pdf")
    assert (account["status"], account["pages"], account["attempts"]) == ("done", 3, 0)
    assert account["source"]["path"] == "sub/minutes.pdf"
    assert account["engine"] == ENGINE
    assert [json.loads(line) for line in (root.outbox / "manifest-test.jsonl").read_text().splitlines()] == [account]
    document = json.loads((root.outbox / "sub/minutes.pdf.json").read_bytes())
    assert [page["blocks"][0]["text"] for page in document["pages"]] == ["minutes 1", "minutes 2", "minutes 3"]
    assert rows(tmp_path)["sub/minutes.pdf"].status == "done"
    assert sorted(account["outputs"]) == ["minutes.pdf.json", "minutes.pdf.md"]
    assert not list((root.outbox / ".staging").iterdir())
    events = [one["event"] for one in logs if one["event"].startswith("job.")]
    assert events == ["job.claimed", "job.done"]
    done = next(one for one in logs if one["event"] == "job.done")
    assert (done["status"], done["pages"], done["attempts"], done["reason"]) == ("done", 3, 0, "")


async def test_one_name_many_documents(root: DropRoot, tmp_path: Path) -> None:
    """A name that was used gets a number, for every output and for the original; nothing is overwritten."""
    contents = [fake_document(1, f"version {number}") for number in (1, 2, 3)]
    async with Journey(tmp_path, root):
        for number, content in enumerate(contents):
            root.drop("report.pdf", content)
            await eventually(lambda number=number: sum(root.ended()) == number + 1)  # type: ignore[misc]
    for name, content in zip(("report.pdf", "report~2.pdf", "report~3.pdf"), contents, strict=True):
        assert (root.done / name).read_bytes() == content
        assert markdown(root, name).endswith(f"{content.decode().splitlines()[2]} 1\n")


async def test_a_bad_page_makes_the_document_partial(root: DropRoot, tmp_path: Path) -> None:
    """No page is dropped: the bad one is marked in the Markdown, and the original goes to done/."""
    async with Journey(tmp_path, root) as journey:
        journey.reader.problems["ledger", 2] = "the engine repeated itself"
        root.drop("ledger.pdf", fake_document(3, "ledger"))
        await eventually(lambda: out(root, "ledger.pdf"))
    account = manifest(root, "ledger.pdf")
    assert (account["status"], account["bad_pages"]) == ("partial", 1)
    assert account["problems"] == [{"page": 2, "problem": "the engine repeated itself"}]
    assert "<!-- page 2: the engine repeated itself -->\n\nledger 2" in markdown(root, "ledger.pdf")
    assert rows(tmp_path)["ledger.pdf"].status == "partial"


async def test_a_document_that_cannot_be_read_fails_with_its_reason(root: DropRoot, tmp_path: Path) -> None:
    """Its original goes to failed/ with a reason for programs and a sentence for people; nothing is in the outbox."""
    with capture_logs() as logs:
        async with Journey(tmp_path, root) as journey:
            journey.reader.inspect_faults["tome"].append(TooManyPages("it has 9 pages, the limit is 5"))
            root.drop("box/tome.pdf", fake_document(9, "tome"))
            root.drop("noise.pdf", b"no document at all")
            await eventually(lambda: root.ended() == (0, 2))
    assert error(root, "box/tome.pdf")["reason"] == "too_many_pages"
    assert error(root, "noise.pdf")["reason"] == "corrupt"
    text = (root.failed / "box/tome.pdf.error.txt").read_text(encoding="utf-8")
    assert text == (
        "tome.pdf could not be read: it has 9 pages, the limit is 5.\n"
        "What to do: Split the document, or ask the operator to raise limits.max_pages.\n"
    )
    assert sorted(path.name for path in root.outbox.iterdir()) == [".staging", "manifest-test.jsonl"]
    assert {one["reason"] for one in logs if one["event"] == "job.failed"} == {"too_many_pages", "corrupt"}


async def test_a_page_can_fail_its_document(root: DropRoot, tmp_path: Path) -> None:
    """A fault of the document that shows only at a page ends it there; its other pages are given up."""
    async with Journey(tmp_path, root, capacity=4) as journey:
        journey.reader.faults["bomb", 3].append(TooManyPages("a picture too large"))
        root.drop("bomb.pdf", fake_document(50, "bomb"))
        await eventually(lambda: root.ended() == (0, 1))
        assert len(journey.reader.calls) < 50
        root.drop("next.pdf", fake_document())
        await eventually(lambda: out(root, "next.pdf"))


# Faults


async def test_an_unforeseen_fault_is_tried_again_and_then_given_up(root: DropRoot, tmp_path: Path) -> None:
    """It counts an attempt each time; at the last the document fails, and its neighbour never notices."""
    with capture_logs() as logs:
        async with Journey(tmp_path, root, max_attempts=2) as journey:
            journey.reader.faults["odd", 1] = [RuntimeError("boom"), RuntimeError("boom again")]
            journey.reader.faults["lucky", 2] = [RuntimeError("once only")]
            root.drop("odd.pdf", fake_document(1, "odd"))
            root.drop("lucky.pdf", fake_document(2, "lucky"))
            root.drop("neighbour.pdf", fake_document(2, "neighbour"))
            await eventually(lambda: root.ended() == (2, 1), 25)  # the waits before its attempts are 6 s
    account = error(root, "odd.pdf")
    assert (account["reason"], account["attempts"]) == ("gave_up", 2)
    assert manifest(root, "lucky.pdf")["attempts"] == 1
    assert manifest(root, "neighbour.pdf")["attempts"] == 0
    assert len([one for one in logs if one["event"] == "job.crashed"]) == 3


async def test_an_engine_error_costs_no_document_anything(root: DropRoot, tmp_path: Path) -> None:
    """One that is not mended beneath the reader is met again and again, and no document is charged for it."""
    async with Journey(tmp_path, root, capacity=6, max_attempts=1) as journey:
        for number in range(6):
            journey.reader.faults[f"n{number}", 1] += [EngineDeadError("it died"), EngineStartError("and stays dead")]
            root.drop(f"n{number}.pdf", fake_document(2, f"n{number}"))
        await eventually(lambda: root.ended() == (6, 0))
    assert {manifest(root, f"n{number}.pdf")["attempts"] for number in range(6)} == {0}


async def test_inspection_that_kills_its_process_counts(root: DropRoot, tmp_path: Path) -> None:
    """A file whose opening kills worker processes again and again ends in failed/."""
    async with Journey(tmp_path, root, max_attempts=1) as journey:
        journey.reader.inspect_faults["killer"] = [WorkerDied("killed")] * 9
        root.drop("killer.pdf", fake_document(1, "killer"))
        root.drop("next.pdf", fake_document(1, "next"))
        await eventually(lambda: root.ended() == (1, 1))
    assert error(root, "killer.pdf")["reason"] in {"gave_up", "corrupt"}


async def test_a_manifest_of_another_document_is_never_replaced(root: DropRoot, tmp_path: Path) -> None:
    """Where somebody else's document has got the name meanwhile, ours goes by another one and costs no attempt."""
    async with Journey(tmp_path, root) as journey:
        journey.reader.gate.clear()
        root.drop("x.pdf", fake_document(1, "ours"))
        await eventually(lambda: journey.reader.calls)
        theirs = root.outbox / "x.pdf.manifest.json"
        theirs.write_text('{"job_id": "theirs"}', encoding="utf-8")
        journey.reader.gate.set()
        await eventually(lambda: root.ended() == (1, 0))
    assert theirs.read_text(encoding="utf-8") == '{"job_id": "theirs"}'
    assert (manifest(root, "x~2.pdf")["status"], manifest(root, "x~2.pdf")["attempts"]) == ("done", 0)


@pytest.mark.parametrize(
    "clear", [lambda folder: next(folder.glob("source.*")).unlink(), shutil.rmtree], ids=["its file", "all of it"]
)
async def test_a_job_that_somebody_clears_out_of_work(
    root: DropRoot, tmp_path: Path, clear: Callable[[Path], object]
) -> None:
    """A document whose file is gone for good fails instead of going round for ever; the next one is served."""
    async with Journey(tmp_path, root, max_attempts=1) as journey:
        journey.reader.gate.clear()
        content = fake_document(1, "deleted")
        root.drop("deleted.pdf", content)
        await eventually(lambda: journey.reader.calls)
        (folder,) = root.work.iterdir()
        clear(folder)
        root.forget(content)
        journey.reader.gate.set()
        await eventually((root.failed / "deleted.pdf.error.json").exists)
        root.drop("next.pdf", fake_document(1, "next"))
        await eventually(lambda: out(root, "next.pdf"))
        await eventually(lambda: not any(root.work.iterdir()))
    assert rows(tmp_path)["deleted.pdf"].status == "failed"


# Stop, crash, and the next start


async def test_a_drain_finishes_the_pages_in_flight_and_no_more(root: DropRoot, tmp_path: Path) -> None:
    """What was begun is kept, the next start reads the rest, and no page is read twice."""
    reader = FakeReader()
    async with Journey(tmp_path, root, reader=reader) as journey:
        reader.gate.clear()
        root.drop("long.pdf", fake_document(10, "long"))
        await eventually(lambda: reader.in_flight == 2)
        stopping = asyncio.create_task(journey.drain())
        await eventually(lambda: journey.worker.passes.draining)
        reader.gate.set()
        await stopping
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
        reader.gate.clear()
        root.drop("long.pdf", fake_document(3, "long"))
        await eventually(lambda: reader.in_flight == 2)
        stopping = asyncio.create_task(journey.drain())
        await eventually(lambda: journey.worker.passes.draining)
        reader.gate.set()
        await stopping
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


async def test_pictures_come_with_the_markdown_that_shows_them(root: DropRoot, tmp_path: Path) -> None:
    """They are in the outbox before the manifest, which names their folder; no second look without being asked."""
    reader = FakeReader()
    reader.illustrated.add("atlas")
    async with Journey(tmp_path, root, reader=reader):
        root.drop("a/atlas.pdf", fake_document(2, "atlas"))
        await eventually(lambda: root.ended() == (1, 0))
    pictures = sorted((root.outbox / "a" / "atlas.pdf.images").iterdir())
    assert [path.name for path in pictures] == ["p0001-b02.png", "p0002-b02.png"]
    assert pictures[1].read_bytes().startswith(b"source.pdf 1 ")
    assert "](atlas.pdf.images/p0002-b02.png)" in markdown(root, "a/atlas.pdf")
    assert manifest(root, "a/atlas.pdf")["outputs"] == ["atlas.pdf.images", "atlas.pdf.json", "atlas.pdf.md"]
    assert reader.looked_closer == []


async def test_the_second_pass_follows_the_first(root: DropRoot, tmp_path: Path) -> None:
    """Pages with figures are looked at again once all of the document are read; others are not."""
    reader = FakeReader()
    reader.illustrated.add("atlas")
    async with Journey(tmp_path, root, reader=reader, second_pass=True):
        root.drop("atlas.pdf", fake_document(3, "atlas"))
        root.drop("letter.pdf", fake_document(1, "letter"))
        await eventually(lambda: root.ended() == (2, 0))
    assert sorted(reader.looked_closer) == [("atlas", 1), ("atlas", 2), ("atlas", 3)]
    assert markdown(root, "atlas.pdf").count("seen closer") == 3


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


async def test_low_priority_waits(tmp_path: Path) -> None:
    """Pages of the inbox with the higher number come first; equal ones take turns."""
    high, low = DropRoot(tmp_path / "high"), DropRoot(tmp_path / "low")
    async with Journey(tmp_path, high, low, capacity=1, priority=5) as journey:
        reader = journey.reader
        reader.gate.clear()
        low.drop("first.pdf", fake_document(3, "first"))
        await eventually(lambda: reader.in_flight == 1)
        high.drop("urgent.pdf", fake_document(3, "urgent"))
        await eventually(lambda: journey.slots.waiting == 2)
        reader.gate.set()
        await eventually(lambda: out(high, "urgent.pdf") and out(low, "first.pdf"))
    assert [words for words, _ in reader.calls] == ["first", "urgent", "urgent", "urgent", "first", "first"]
    high.check()
    low.check()


async def test_a_long_document_holds_up_nobody(root: DropRoot, tmp_path: Path) -> None:
    """A one-page file that comes behind a book of hundreds of pages is done after a few of them."""
    async with Journey(tmp_path, root) as journey:
        reader = journey.reader
        reader.gate.clear()
        root.drop("book.pdf", fake_document(300, "book"))
        await eventually(lambda: reader.in_flight == 2)
        root.drop("note.pdf", fake_document(1, "note"))
        await eventually(lambda: journey.slots.waiting == 2)
        reader.gate.set()
        await eventually(lambda: out(root, "note.pdf") and out(root, "book.pdf"), 20)
    assert reader.calls.index(("note", 1)) <= 4
    assert reader.most_in_flight == 2


async def test_documents_of_one_page_fill_a_large_engine(root: DropRoot, tmp_path: Path) -> None:
    """As many are open as the engine reads pages at once: a fixed limit left nine tenths of a card idle."""
    reader = FakeReader()
    reader.gate.clear()
    async with Journey(tmp_path, root, reader=reader, capacity=100):
        for number in range(110):
            root.drop(f"{number}.pdf", fake_document(words=f"words {number}"))
        await eventually(lambda: reader.in_flight == 100)
        reader.gate.set()
        await eventually(lambda: root.ended() == (110, 0), 20)


async def test_one_long_document_fills_a_large_engine(root: DropRoot, tmp_path: Path) -> None:
    """It has as many pages in flight as the engine reads at once: a fixed limit left most of a card idle here, too."""
    reader = FakeReader()
    reader.gate.clear()
    async with Journey(tmp_path, root, reader=reader, capacity=100):
        root.drop("book.pdf", fake_document(110))
        await eventually(lambda: reader.in_flight == 100)
        reader.gate.set()
        await eventually(lambda: root.ended() == (1, 0), 20)


async def test_many_files_at_once(root: DropRoot, tmp_path: Path) -> None:
    """Two hundred files in one go: all come out, with never more pages in flight than the engine has room for."""
    async with Journey(tmp_path, root, capacity=3) as journey:
        for number in range(200):
            root.drop(f"{number % 7}/{number}.pdf", fake_document(1 + number % 3, f"file {number}"))
        await eventually(lambda: root.ended() == (200, 0), 25)
        assert journey.reader.most_in_flight <= 3
    assert len((root.outbox / "manifest-test.jsonl").read_text().splitlines()) == 200
    assert {entry.status for entry in rows(tmp_path).values()} == {"done"}
