"""What is written for a document: Markdown and JSON, accounts, lines and words."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.job import Job, Sample
from daemon.outputs import (
    MAX_LISTED_PROBLEMS,
    Line,
    Summary,
    account,
    append_lines,
    display,
    failure,
    failure_sentence,
    finish_document,
    iso,
    last_lines,
    write_document,
    write_manifest,
)
from deepseek_ocr.document import Document, DocumentHead, DocumentTail, Page
from deepseek_ocr.errors import Corrupt, EmptyFile
from tests.fakes import fake_page
from tests.killed import changes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = Job("job-1", "default", "a/x.pdf", "a/x~2.pdf", Sample(10, 1, 2), claimed_at=1.0, attempts=1)
ENGINE: dict[str, Any] = {"name": "fake", "model": "fake-1", "mode": None, "reason": "a test", "scripts": []}


def head(pages: int) -> DocumentHead:
    """What begins a document."""
    return DocumentHead(
        source_name="x.pdf", source_type="pdf", engine="fake", model="fake-1", task="document", page_count=pages
    )


# Documents


def test_a_document_is_written_whole(tmp_path: Path) -> None:
    """The JSON is a valid Document with every page, the Markdown has every mark, and the summary adds up."""
    pages = [fake_page(1, "one"), fake_page(2, "", problem="nothing"), fake_page(3, "three <b> 日本")]
    summary = write_document(tmp_path, "x.pdf", head(3), lambda: pages)
    finish_document(tmp_path, "x.pdf", DocumentTail(keywords=("bus", "road"), language="en"))
    document = Document.model_validate_json((tmp_path / "x.pdf.json").read_bytes())
    assert document.pages == tuple(pages)
    assert document.page_count == 3
    assert (document.keywords, document.language, document.summary) == (("bus", "road"), "en", None)
    assert (tmp_path / "x.pdf.md").read_text(encoding="utf-8") == (
        "<!-- page 1 -->\n\none\n\n<!-- page 2: nothing -->\n\n<!-- page 3 -->\n\nthree \\<b> 日本\n"
    )
    assert (summary.pages, summary.problems) == (3, [(2, "nothing")])
    assert summary.page_seconds == pytest.approx(0.003)


def test_a_document_is_on_the_disk(tmp_path: Path) -> None:
    """Both files are synced before they are published."""

    def write() -> None:
        write_document(tmp_path, "x", head(1), lambda: [fake_page(1, "one")])
        finish_document(tmp_path, "x", DocumentTail())

    assert changes(write).count("fsync") == 2


def test_a_document_of_any_length_costs_the_memory_of_a_page(tmp_path: Path) -> None:
    """Pages are taken one by one and written at once."""

    def pages(count: int) -> Iterator[Page]:
        for number in range(1, count + 1):
            yield fake_page(number, "x" * 100_000)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            write_document(tmp_path, "x", head(count), lambda: pages(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(60) < peak(3) + 200_000


def test_names_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    """The outputs carry the source's own bytes in their names."""
    name = os.fsdecode(b"\xff.pdf")
    write_document(tmp_path, name, head(1), lambda: [fake_page(1, "one")])
    write_manifest(tmp_path, name, {"name": display(name)})
    assert sorted(os.fsencode(path.name) for path in tmp_path.iterdir()) == [
        b"\xff.pdf.json", b"\xff.pdf.manifest.json", b"\xff.pdf.md",
    ]  # fmt: skip


# Accounts


def test_the_account_of_a_document(tmp_path: Path) -> None:
    """A manifest names source, outputs, engine, times and counts; a document without problems is done."""
    accounted = account(
        JOB, summary=Summary(pages=2, page_seconds=0.5), engine=ENGINE, sha256="abc", source_type="pdf",
        outputs=["x~2.pdf.json", "x~2.pdf.md"], instance="north", task="document", now=2.0, seconds=1.23456,
    )  # fmt: skip
    assert accounted == {
        "format": "ocr-daemon/manifest", "version": 1, "job_id": "job-1", "status": "done", "reason": "",
        "name": "a/x~2.pdf", "source": {"path": "a/x.pdf", "size": 10, "sha256": "abc", "type": "pdf"},
        "outputs": ["x~2.pdf.json", "x~2.pdf.md"], "pages": 2, "bad_pages": 0, "problems": [], "missing": [],
        "task": "document", "engine": ENGINE, "attempts": 1, "seconds": 1.235, "page_seconds": 0.5,
        "instance": "north",
        "claimed_at": 1.0, "finished_at": 2.0, "finished": "1970-01-01T00:00:02.000+00:00",
    }  # fmt: skip
    write_manifest(tmp_path, "x~2.pdf", accounted)
    assert json.loads((tmp_path / "x~2.pdf.manifest.json").read_bytes()) == accounted


def test_a_document_with_a_bad_page_is_partial() -> None:
    """Its account says how many pages are affected and lists them, up to a limit."""
    problems = [(number, f"problem {number}") for number in range(1, MAX_LISTED_PROBLEMS + 2)]
    accounted = account(
        JOB, summary=Summary(pages=200, problems=problems), engine=ENGINE, sha256="", source_type="pdf", outputs=[],
        instance="north", task="document", now=2.0, seconds=1.0,
    )  # fmt: skip
    assert (accounted["status"], accounted["bad_pages"]) == ("partial", len(problems))
    assert accounted["reason"] == f"{len(problems)} of 200 pages could not be read as they should"
    assert accounted["problems"][0] == {"page": 1, "problem": "problem 1"}
    assert len(accounted["problems"]) == MAX_LISTED_PROBLEMS


def test_a_document_without_an_export_is_partial() -> None:
    """What could not be made beside the text is named; the pages are good."""
    summary = Summary(pages=2, missing=["x.pdf.docling.json could not be made: no memory", "keywords ..."])
    accounted = account(
        JOB, summary=summary, engine=ENGINE, sha256="", source_type="pdf", outputs=[], instance="north",
        task="document", now=2.0, seconds=1.0,
    )  # fmt: skip
    assert (accounted["status"], accounted["bad_pages"]) == ("partial", 0)
    assert accounted["reason"] == "x.pdf.docling.json could not be made: no memory"
    assert accounted["missing"] == summary.missing


def test_the_account_of_a_failure() -> None:
    """It has the slug for programs, and the detail and the remedy for people."""
    accounted = failure(JOB, Corrupt("the file ends early"), engine=ENGINE, instance="north", now=2.0)
    assert {key: accounted[key] for key in ("format", "status", "reason", "detail", "remedy", "name")} == {
        "format": "ocr-daemon/error", "status": "failed", "reason": "corrupt", "detail": "the file ends early",
        "remedy": Corrupt.remedy, "name": "a/x~2.pdf",
    }  # fmt: skip


SENTENCES = {
    "plain": ("a/x.pdf", "it is empty", "x.pdf could not be read: it is empty.\nWhat to do: "),
    "with a full stop": ("x.pdf", "It is empty.", "x.pdf could not be read: It is empty.\nWhat to do: "),
    "a name that is no UTF-8": (os.fsdecode(b"\xff.pdf"), "no", "\\xff.pdf could not be read: no.\nWhat to do: "),
}


@pytest.mark.parametrize(("path", "detail", "expected"), SENTENCES.values(), ids=SENTENCES)
def test_the_sentence_for_people(path: str, detail: str, expected: str) -> None:
    """It names the file as its owner knows it, what is wrong and what to do."""
    job = Job("job-1", "default", path, "y.pdf", Sample(1, 1, 1), claimed_at=1.0)
    assert failure_sentence(job, EmptyFile(detail)) == f"{expected}{EmptyFile.remedy}\n"


def test_display_shows_every_byte() -> None:
    """A path as text: what is UTF-8 as it is, other bytes as escapes."""
    assert display("a/ü.pdf") == "a/ü.pdf"
    assert display(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


def test_times_are_utc() -> None:
    """With milliseconds and their zone, so that they sort and nobody guesses."""
    assert iso(1_750_000_000.1234) == "2025-06-15T15:06:40.123+00:00"


# Lines


def line(number: int) -> dict[str, Any]:
    """One finished document."""
    return {"job_id": f"job-{number}", "status": "done", "name": "ä" * number}


def test_lines_are_added(tmp_path: Path) -> None:
    """One line of JSON per call, in order, in a file that is made if it is missing."""
    path = tmp_path / "manifest-north.jsonl"
    for number in range(3):
        append_lines(path, [line(number)])
    assert [json.loads(one) for one in path.read_bytes().splitlines()] == [line(0), line(1), line(2)]


TAILS = {
    "nothing": b"",
    "half a line": b'{"job_id": "jo',
    "half a line, long": b'{"job_id": "' + b"x" * 200_000,
    "a line without its end": b'{"job_id": "job-9"}',
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("before", [0, 2], ids=["in an empty file", "after two lines"])
def test_a_torn_tail_is_cut(tmp_path: Path, before: int, tail: bytes) -> None:
    """What an interrupted write left is removed; every line in the file is whole."""
    path = tmp_path / "manifest-north.jsonl"
    for number in range(before):
        append_lines(path, [line(number)])
    with path.open("ab") as file:
        file.write(tail)
    append_lines(path, [line(7)])
    assert [json.loads(one) for one in path.read_bytes().splitlines()] == [*map(line, range(before)), line(7)]


@given(whole=st.lists(st.integers(0, 40_000), max_size=5), torn=st.integers(0, 140_000))
def test_a_tail_of_any_length_is_cut(tmp_path_factory: pytest.TempPathFactory, whole: list[int], torn: int) -> None:
    """Wherever the last whole line ends, it is found."""
    path = tmp_path_factory.getbasetemp() / "manifest-any.jsonl"
    lines = [b"x" * length for length in whole]
    path.write_bytes(b"".join(one + b"\n" for one in lines) + b"y" * torn)
    append_lines(path, [{}])
    assert path.read_bytes().splitlines() == [*lines, b"{}"]


def test_lines_share_an_fsync(tmp_path: Path) -> None:
    """Those that are written together are all there after one."""
    path = tmp_path / "manifest-north.jsonl"
    append_lines(path, [line(0)])
    assert changes(lambda: append_lines(path, [line(1), line(2), line(3)])).count("fsync") == 1
    assert [json.loads(one) for one in path.read_bytes().splitlines()] == [*map(line, range(4))]


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_lines_that_cannot_be_written_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Else each try on a disk that fails would leave some behind."""
    path = tmp_path / "manifest-north.jsonl"
    append_lines(path, [line(0)])
    pwrite = os.pwrite

    def fails(descriptor: int, *rest: Any) -> int:
        if call == "pwrite" and len(rest[0]) > 60:
            return pwrite(descriptor, rest[0][:60], rest[1])
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as failing:
        failing.setattr(os, call, fails)
        with pytest.raises(OSError, match="the disk fails"):
            append_lines(path, [line(1), line(2), line(3)])
    assert [json.loads(one) for one in path.read_bytes().splitlines()] == [line(0)]


def test_a_line_is_durable(tmp_path: Path) -> None:
    """Each line is synced, and with the first one the folder, in which the file's name is new."""
    path = tmp_path / "manifest-north.jsonl"
    assert [changes(lambda: append_lines(path, [line(1)])).count("fsync") for _ in range(3)] == [2, 1, 1]


def test_the_last_line_of_a_job_counts(tmp_path: Path) -> None:
    """Lines are read by job; torn ones and those of other programs are left out."""
    path = tmp_path / "manifest-north.jsonl"
    path.write_bytes(
        b'{"job_id": "a", "status": "failed", "finished_at": 1}\nnoise\n[1]\n"a"\n{"status": "done"}\n\xff\n'
        b'{"job_id": "d", "status": "done"}\n{"job_id": "e", "status": 1, "finished_at": []}\n'
        b'{"job_id": "b", "status": "done", "finished_at": 2.5}\n'
        b'{"job_id": "a", "status": "done", "finished_at": 3}\n{"job_id": "c"'
    )
    assert last_lines(path) == {"a": Line("done", 3.0), "b": Line("done", 2.5)}


def test_lines_are_not_kept_whole(tmp_path: Path) -> None:
    """Reading them costs the memory of their ids and times: whole, 100,000 lines took 410 MB."""
    path = tmp_path / "manifest-north.jsonl"
    line = {"status": "done", "finished_at": 1.0, "problems": ["x" * 3000]}
    path.write_bytes(b"".join(json.dumps({"job_id": f"job-{n}"} | line).encode() + b"\n" for n in range(1000)))
    tracemalloc.start()
    try:
        lines = last_lines(path)
        assert len(lines) == 1000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
