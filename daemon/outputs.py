"""What is written for a document: Markdown, JSON, the manifest, and the words for a failure.

Pages are taken one at a time, so that a document of any length costs the memory of a page.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.durable import sync_folder, to_json, write_file
from daemon.names import IMAGES_SUFFIX, MANIFEST_SUFFIX
from deepseek_ocr.headings import levelled, survey
from deepseek_ocr.markdown import page_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daemon.job import Job
    from deepseek_ocr.document import DocumentHead, DocumentTail, Page
    from deepseek_ocr.errors import DocumentError

MANIFEST_VERSION = 1
#: Problem pages listed in a manifest; a hopeless document of thousands of pages need not repeat itself.
MAX_LISTED_PROBLEMS = 100


@dataclass(slots=True)
class Summary:
    """What a document's pages add up to."""

    pages: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    #: What was asked for beside the text and could not be made, each in a sentence.
    missing: list[str] = field(default_factory=list)
    #: Recognition time of all pages, which may have run side by side.
    page_seconds: float = 0.0


def display(path: str) -> str:
    """A path as text: bytes that are no UTF-8 are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_document(folder: Path, name: str, head: DocumentHead, pages: Callable[[], Iterable[Page]]) -> Summary:
    """Write and sync `<name>.md`, and `<name>.json` up to its end, page by page; `finish_document` writes that.

    `pages` is called twice: the levels of headings are known when all of them have been seen.
    """
    outline = survey(pages())
    summary = Summary()
    with (
        (folder / f"{name}.md").open("w", encoding="utf-8") as markdown,
        (folder / f"{name}.json").open("w", encoding="utf-8") as docjson,
    ):
        docjson.write(head.model_dump_json()[:-1] + ',"pages":[\n')
        for page in pages():
            levelled_page = levelled(page, outline)
            markdown.write("\n" if summary.pages else "")
            markdown.write(page_markdown(levelled_page, images=name + IMAGES_SUFFIX))
            docjson.write(",\n" if summary.pages else "")
            docjson.write(levelled_page.model_dump_json())
            summary.pages += 1
            summary.page_seconds += page.seconds
            if page.problem:
                summary.problems.append((page.page_number, page.problem))
        markdown.flush()
        os.fsync(markdown.fileno())
    return summary


def finish_document(folder: Path, name: str, tail: DocumentTail) -> None:
    """Write the end of `<name>.json`, what is known when all pages are, and sync it."""
    with (folder / f"{name}.json").open("a", encoding="utf-8") as docjson:
        docjson.write("\n]," + tail.model_dump_json()[1:] + "\n")
        docjson.flush()
        os.fsync(docjson.fileno())


def account(
    job: Job, *, summary: Summary, engine: dict[str, Any], sha256: str, source_type: str, outputs: list[str],
    instance: str, task: str, now: float, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """The account of a document that was read: its manifest, its line in the instance's file, its mark."""
    bad = summary.problems
    reasons = [f"{len(bad)} of {summary.pages} pages could not be read as they should"] if bad else []
    reasons += summary.missing[:1]
    return {
        "format": "ocr-daemon/manifest",
        "version": MANIFEST_VERSION,
        "job_id": job.job_id,
        "status": "partial" if reasons else "done",
        "reason": "; ".join(reasons),
        "name": display(job.name),
        "source": {"path": display(job.path), "size": job.sample.size, "sha256": sha256, "type": source_type},
        "outputs": outputs,
        "pages": summary.pages,
        "bad_pages": len(bad),
        "problems": [{"page": number, "problem": problem} for number, problem in bad[:MAX_LISTED_PROBLEMS]],
        "missing": summary.missing[:MAX_LISTED_PROBLEMS],
        "task": task,
        "engine": engine,
        "attempts": job.attempts,
        "seconds": round(seconds, 3),
        "page_seconds": round(summary.page_seconds, 3),
        "instance": instance,
        "claimed_at": job.claimed_at,
        "finished_at": now,
        "finished": iso(now),
    }


def failure(job: Job, error: DocumentError, *, engine: dict[str, Any], instance: str, now: float) -> dict[str, Any]:
    """The account of a document that cannot be read; also its `.error.json`."""
    return {
        "format": "ocr-daemon/error",
        "version": MANIFEST_VERSION,
        "job_id": job.job_id,
        "status": "failed",
        "reason": error.slug,
        "detail": str(error),
        "remedy": error.remedy,
        "name": display(job.name),
        "source": {"path": display(job.path), "size": job.sample.size},
        "engine": engine,
        "attempts": job.attempts,
        "instance": instance,
        "claimed_at": job.claimed_at,
        "finished_at": now,
        "finished": iso(now),
    }


def failure_sentence(job: Job, error: DocumentError) -> str:
    """What the person who dropped the file reads beside it."""
    name = Path(display(job.path)).name
    detail = str(error).rstrip(".")
    return f"{name} could not be read: {detail}.\nWhat to do: {error.remedy}\n"


def write_manifest(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write and sync the manifest into staging."""
    write_file(folder / f"{name}{MANIFEST_SUFFIX}", to_json(content))


def append_lines(path: Path, contents: Iterable[dict[str, Any]]) -> None:
    """Add durable lines to the instance's file, with one fsync; a torn tail of an earlier try is cut first."""
    lines = b"".join(json.dumps(content).encode("ascii") + b"\n" for content in contents)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        start = end = _whole_lines_end(descriptor)
        if start != os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, start)
        try:
            while lines:
                written = os.pwrite(descriptor, lines, end)
                end += written
                lines = lines[written:]
            os.fsync(descriptor)
        except OSError:
            # They are written again: a disk that fails must not fill up with them.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, start)
            raise
    finally:
        os.close(descriptor)
    if start == 0:
        sync_folder(path.parent)  # the file's name is new


def _whole_lines_end(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    step = 1
    while end > 0:
        start = max(0, end - step)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end, step = start, 65_536
    return 0


class Line(NamedTuple):
    """What is kept of a line in an instance's file: whole ones would cost 4 kB per document."""

    status: str
    #: Unix time, seconds.
    finished_at: float


def last_lines(path: Path) -> dict[str, Line]:
    """The last line of each job in an instance's file, by job id; what makes no sense is left out."""
    lines: dict[str, Line] = {}
    with path.open("rb") as file:
        for line in file:
            try:
                content = json.loads(line)
                lines[content["job_id"]] = Line(sys.intern(content["status"]), float(content["finished_at"]))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue
    return lines


def iso(now: float) -> str:
    """A time for people and programs, UTC."""
    return dt.datetime.fromtimestamp(now, dt.UTC).isoformat(timespec="milliseconds")
