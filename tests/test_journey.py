"""A document's way from the inbox to done/ or failed/: real folders, real events, a fake reader."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from deepseek_ocr.errors import EngineDeadError, EngineStartError, TooManyPages, WorkerDied
from tests.conftest import eventually
from tests.drop_root import DropRoot
from tests.fakes import FakeReader, fake_document
from tests.journey import ENGINE, Journey, error, manifest, markdown, out, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: watchdog sets the watch of a folder that is made in a new folder twice, and says so in its thread.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")


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


# Pictures, and a second look


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


# Many at once


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
