"""Claim, publish, finish, fail and recover: names, order, and a stop at any step."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import Inbox
from daemon.durable import TEMPORARY_PREFIX, read_json, remove_tree
from daemon.folders import (
    FAILED,
    JOB_FILE,
    PUBLISHED,
    Folders,
    Recovered,
    hash_file,
    take_sample,
)
from daemon.job import Job, Sample
from daemon.names import MANIFEST_SUFFIX, MAX_NAME_BYTES, OUTPUT_SUFFIXES
from daemon.outputs import write_manifest
from daemon.roots import MARKER, Root, this_owner
from tests.killed import changes, killed_at
from tests.permissions import closed, without_override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

NOW = 1_750_000_000.0


def folders_at(path: Path, **settings: Any) -> Folders:
    """The folders of a root that is ours."""
    root = Root(Inbox(root=path / "root", **settings))
    root.adopt(this_owner("north"), known_id=None, now=NOW)
    return Folders(root, "north")


def drop(folders: Folders, name: str, content: bytes = b"content") -> Sample:
    """Put a file into the inbox."""
    path = folders.root.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return take_sample(path)


def claim(folders: Folders, name: str, content: bytes = b"content") -> Job:
    """Drop and claim a file."""
    return folders.claim(name, drop(folders, name, content), NOW)


def account(job: Job, status: str, **more: Any) -> dict[str, Any]:
    """What a mark or a manifest says."""
    return {"job_id": job.job_id, "status": status, "reason": "", "name": job.name, "finished_at": NOW, **more}


def stage(folders: Folders, job: Job) -> list[str]:
    """Stage a document's outputs, each naming what it belongs to; the names to publish."""
    name = Path(job.name).name
    staging = folders.open_staging(job)
    outputs = [f"{name}.images", f"{name}.json", f"{name}.md"]
    (staging / outputs[0]).mkdir()
    (staging / outputs[0] / "p1b1.png").write_bytes(b"a picture")
    for output in outputs[1:]:
        (staging / output).write_bytes(output.encode("utf-8", "surrogateescape") + b" whole")
    write_manifest(staging, name, account(job, "done", outputs=outputs))
    return outputs


def carry(folders: Folders, job: Job, accounted: dict[str, Any] | None = None) -> None:
    """The journey of one document after its claim, as the worker goes it; content that begins with "bad" fails."""
    if accounted is None:
        if folders.source(job).read_bytes().startswith(b"bad"):
            accounted = account(job, "failed")
            folders.write_error(job, accounted, "What to do: nothing.\n")
            folders.mark(job, FAILED, accounted)
        else:
            outputs = stage(folders, job)
            folders.publish(job, outputs)
            accounted = account(job, "done", outputs=outputs)
            folders.mark(job, PUBLISHED, accounted)
    folders.finish(job, FAILED if accounted["status"] == "failed" else PUBLISHED)


def listing(folder: Path) -> list[str]:
    """All files below a folder, as relative paths."""
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)  # noqa: PTH118


# Claim


def test_a_claimed_file_lies_in_its_job_folder(tmp_path: Path) -> None:
    """The file is out of the inbox, in work/<job id>/, beside a job.json that says where it came from."""
    folders = folders_at(tmp_path)
    sample = drop(folders, "a/Scan.PDF", b"content")
    job = folders.claim("a/Scan.PDF", sample, NOW)
    assert listing(folders.root.inbox) == []
    assert listing(folders.root.work) == [f"{job.job_id}/job.json", f"{job.job_id}/source.pdf"]
    assert folders.source(job).read_bytes() == b"content"
    assert (job.path, job.name, job.sample, job.claimed_at) == ("a/Scan.PDF", "a/Scan.PDF", sample, NOW)
    content = read_json(folders.job_folder(job) / JOB_FILE) or {}
    assert {key: content[key] for key in ("version", "path", "name", "attempts", "solo", "instance")} == {
        "version": 1, "path": "a/Scan.PDF", "name": "a/Scan.PDF", "attempts": 0, "solo": False, "instance": "north",
    }  # fmt: skip


def test_the_order_of_job_ids_is_the_order_of_claims(tmp_path: Path) -> None:
    """Ids begin with the time, so that recovery takes the oldest first."""
    folders = folders_at(tmp_path)
    later = folders.claim("b", drop(folders, "b"), NOW + 1)
    earlier = folders.claim("a", drop(folders, "a"), NOW)
    assert [one.job.job_id for one in folders_at(tmp_path).recover()] == [earlier.job_id, later.job_id]


EXTENSIONS = {
    "x.PDF": "source.pdf", "x.tar.gz": "source.gz", "x": "source.bin", "x.p df": "source.bin",
    "x.verylongone": "source.bin", "x.ä": "source.bin", "x.": "source.bin",
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), EXTENSIONS.items(), ids=EXTENSIONS)
def test_only_a_harmless_extension_is_kept(tmp_path: Path, name: str, expected: str) -> None:
    """The source's name in work/ is ours, whatever people call their files."""
    folders = folders_at(tmp_path)
    assert folders.source(claim(folders, name)).name == expected


def test_a_file_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    """A claim that finds no file raises, leaves no job folder, and frees the name."""
    folders = folders_at(tmp_path)
    with pytest.raises(FileNotFoundError):
        folders.claim("x.pdf", Sample(1, 1, 1), NOW)
    assert not list(folders.root.work.iterdir())
    assert claim(folders, "x.pdf").name == "x.pdf"


def test_a_file_that_may_not_be_moved_stays(tmp_path: Path) -> None:
    """Where the rename is not permitted the file stays in the inbox and nothing of the try is left."""
    folders = folders_at(tmp_path)
    sample = drop(folders, "a/x.pdf")
    folder = folders.root.inbox / "a"
    with closed(folder):
        folder.chmod(0o500)
        with pytest.raises(PermissionError):
            folders.claim("a/x.pdf", sample, NOW)
    assert (folder / "x.pdf").exists()
    assert not list(folders.root.work.iterdir())


@pytest.mark.parametrize("came", [True, False], ids=["it was moved", "it stayed"])
def test_a_claim_that_nobody_can_tell_is_looked_for_later(tmp_path: Path, came: bool) -> None:
    """Where the check of a failed rename fails too, the job keeps its name and is found once the share answers.

    The source of a rename that had happened once lay in work/ until the next start, its name given to the next file.
    """
    folders = folders_at(tmp_path)
    sample = drop(folders, "x.pdf")
    with away_after(folders, came=came), pytest.raises(PermissionError):
        folders.claim("x.pdf", sample, NOW)
    (job,) = folders.lost.values()
    if came:
        assert claim(folders, "x.pdf").name == "x~2.pdf"
    assert folders.find_lost() == ([job] if came else [])
    assert folders.find_lost() == []
    assert not folders.lost
    if came:
        carry(folders, job)
        assert (folders.root.done / "x.pdf").read_bytes() == b"content"
    else:
        assert not folders.job_folder(job).exists()
        assert claim(folders, "x.pdf").name == "x.pdf"


@contextlib.contextmanager
def away_after(folders: Folders, *, came: bool) -> Iterator[None]:
    """Let the share vanish at the rename of a claim, which the server has done already or not."""
    parts = folders.root.inbox, folders.root.work

    def profile(frame: FrameType, event: str, function: object) -> None:
        del frame
        if event == "c_call" and getattr(function, "__name__", "") == "rename":
            sys.setprofile(None)
            if came:
                (source,) = folders.root.inbox.glob("*.pdf")
                (target,) = folders.root.work.iterdir()
                source.rename(target / "source.pdf")
            for part in parts:
                part.chmod(0)

    sys.setprofile(profile)
    try:
        with without_override():
            yield
    finally:
        sys.setprofile(None)
        for part in parts:
            part.chmod(0o755)


def test_a_marker_goes_with_its_file(tmp_path: Path) -> None:
    """The `.done` marker of a claimed file is removed: it would release the next file of that name too early."""
    folders = folders_at(tmp_path)
    drop(folders, "x.pdf.done", b"")
    claim(folders, "x.pdf")
    assert listing(folders.root.inbox) == []


def test_save_and_recover_keep_what_a_job_has_been_through(tmp_path: Path) -> None:
    """Attempts, a solo run and a new sample survive in job.json."""
    folders = folders_at(tmp_path)
    job = replace(claim(folders, "x.pdf"), attempts=2, solo=True, sample=Sample(9, 8, 7))
    folders.save(job)
    assert folders_at(tmp_path).recover() == [Recovered(job, None)]


# Names

#: Name -> what lies in the root already, what is dropped, and the name that is chosen.
NAMES: dict[str, tuple[list[str], str, str]] = {
    "free": ([], "x.pdf", "x.pdf"),
    "an original of that name": (["done/x.pdf"], "x.pdf", "x~2.pdf"),
    "two of them": (["done/x.pdf", "done/x~2.pdf"], "x.pdf", "x~3.pdf"),
    "one was taken away": (["done/x~2.pdf"], "x.pdf", "x.pdf"),
    "a failed one": (["failed/x.pdf"], "x.pdf", "x~2.pdf"),
    "the reason of a failure": (["failed/x.pdf.error.txt"], "x.pdf", "x~2.pdf"),
    "only its Markdown is left": (["outbox/x.pdf.md"], "x.pdf", "x~2.pdf"),
    "only its pictures": (["outbox/x.pdf.images/1.png"], "x.pdf", "x~2.pdf"),
    "another subfolder": (["done/x.pdf"], "a/x.pdf", "a/x.pdf"),
    "in a subfolder": (["done/a/x.pdf"], "a/x.pdf", "a/x~2.pdf"),
    "no extension": (["done/x"], "x", "x~2"),
    "an output's name as a source": (["outbox/x.pdf.md", "done/x.pdf"], "x.pdf.md", "x.pdf.md"),
    "a reason's name as a source that fails": (["failed/x.pdf.error.txt"], "x.pdf.error.txt", "x.pdf.error~2.txt"),
    "a manifest's name as a source": (["outbox/x.manifest.json"], "x", "x~2"),
    "a subfolder where a file lies": (["outbox/a"], "a/x.pdf", "a~/x.pdf"),
    "a subfolder where an original lies": (["done/a/b", "failed/a/b~"], "a/b/x.pdf", "a/b~~/x.pdf"),
    "a subfolder where an output lies": (["outbox/x.pdf.md"], "x.pdf.md/y.pdf", "x.pdf.md~/y.pdf"),
    "a folder where the original would lie": (["done/x.pdf/y"], "x.pdf", "x~2.pdf"),
    "dots in the name": (["done/v1.2.final.pdf"], "v1.2.final.pdf", "v1.2.final~2.pdf"),
    "no UTF-8": ([os.fsdecode(b"done/\xe9.pdf")], os.fsdecode(b"\xe9.pdf"), os.fsdecode(b"\xe9~2.pdf")),
}


@pytest.mark.parametrize(("there", "dropped", "expected"), NAMES.values(), ids=NAMES)
def test_a_name_that_was_used_is_not_used_again(tmp_path: Path, there: list[str], dropped: str, expected: str) -> None:
    """The first name is chosen that no trace of an earlier document stands in the way of; nothing is overwritten."""
    folders = folders_at(tmp_path)
    for path in there:
        (folders.root.path / path).parent.mkdir(parents=True, exist_ok=True)
        (folders.root.path / path).write_bytes(b"theirs")
    before = {path: (folders.root.path / path).read_bytes() for path in there}
    job = claim(folders, dropped)
    assert job.name == expected
    carry(folders, job)
    assert (folders.root.done / expected).read_bytes() == b"content"
    assert (folders.root.outbox / f"{expected}.md").exists()
    assert {path: (folders.root.path / path).read_bytes() for path in there} == before


#: Documents that are open at the same time -> the names they get.
OPEN: dict[str, list[tuple[str, str]]] = {
    "the same name again": [("x.pdf", "x.pdf"), ("x.pdf", "x~2.pdf"), ("x.pdf", "x~3.pdf")],
    "a name that another one's number gives": [("x.pdf", "x.pdf"), ("x~2.pdf", "x~2.pdf"), ("x.pdf", "x~3.pdf")],
    "a reason's name": [("x.pdf", "x.pdf"), ("x.pdf.error.txt", "x.pdf.error~2.txt")],
    "a reason's name first": [("x.pdf.error.txt", "x.pdf.error.txt"), ("x.pdf", "x~2.pdf")],
    "an output's name": [("x", "x"), ("x.json", "x.json")],
    "an output that is another's export": [("x", "x"), ("x.docling", "x~2.docling")],
    "a subfolder of an output's name": [("x.pdf", "x.pdf"), ("x.pdf.md/y", "x.pdf.md~/y")],
    "a subfolder of an output's name first": [("x.pdf.md/y", "x.pdf.md/y"), ("x.pdf", "x~2.pdf")],
    "a subfolder of a source's name": [("a", "a"), ("b/a/y", "b/a/y"), ("b", "b~2")],
}


@pytest.mark.parametrize("documents", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize("recovered", [False, True], ids=["in one run", "after a stop"])
def test_open_jobs_never_share_a_name(tmp_path: Path, documents: list[tuple[str, str]], recovered: bool) -> None:
    """Nothing that one open job will write is in the way of another, also when a stop came between their claims."""
    folders = folders_at(tmp_path)
    jobs = []
    for number, (path, name) in enumerate(documents):
        job = claim(folders, path, f"{number}".encode())
        assert job.name == name
        for parent in list(Path(path).parents)[:-1]:
            (folders.root.inbox / parent).rmdir()
        jobs.append(job)
        if recovered:
            folders = folders_at(tmp_path)
            assert {one.job for one in folders.recover()} == set(jobs)
    for job in jobs:
        carry(folders, job)
    assert {path: (folders.root.done / path).read_bytes() for path in listing(folders.root.done)} == {
        name: f"{number}".encode() for number, (_, name) in enumerate(documents)
    }


def test_a_finished_job_frees_what_it_had_reserved(tmp_path: Path) -> None:
    """Once users have taken everything away the name is free again."""
    folders = folders_at(tmp_path)
    carry(folders, claim(folders, "x.pdf"))
    for path in (*folders.root.outbox.glob("x*"), folders.root.done / "x.pdf"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert claim(folders, "x.pdf").name == "x.pdf"


def test_claims_in_many_threads_choose_different_names(tmp_path: Path) -> None:
    """Claims and ends of jobs in several threads at once neither fail nor choose names that are in each other's way."""
    folders = folders_at(tmp_path)
    # `1.docling` would write 1.docling.json, which is also an export of `1`.
    names = [f"{number}{end}" for number in range(60) for end in ("", ".docling", ".pdf")]
    samples = {name: drop(folders, name) for name in names}
    chosen: dict[str, str] = {}

    def one(name: str) -> None:
        job = folders.claim(name, samples[name], NOW)
        chosen[name] = job.name
        # Where the first of a pair had ended, the other's name would be free.
        if name.endswith(".pdf"):
            carry(folders, job)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, names))
    finally:
        sys.setswitchinterval(interval)
    clashes = [number for number in range(60) if {f"{number}", f"{number}.docling"} <= set(chosen.values())]
    assert not clashes
    assert len(set(chosen.values())) == len(names)


LONG = {
    "at the limit": "a" * (MAX_NAME_BYTES - 4) + ".pdf",
    "just over": "a" * (MAX_NAME_BYTES - 3) + ".pdf",
    "as long as can be": "a" * 251 + ".pdf",
    "letters of several bytes": "ä" * 125 + ".pdf",
    "no UTF-8": os.fsdecode(b"\xff" * 251 + b".pdf"),
    "an extension without end": "a." + "b" * 250,
    "no extension": "a" * 255,
}


@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
def test_long_names_get_room_for_every_output(tmp_path: Path, name: str) -> None:
    """A name is cut so that the longest suffix and a number fit behind it, and two long names stay two."""
    folders = folders_at(tmp_path)
    jobs = [claim(folders, f"{number}/{name}") for number in (1, 1)]
    for job in jobs:
        chosen = Path(job.name).name
        assert max(len(os.fsencode(f"{chosen}{suffix}")) for suffix in OUTPUT_SUFFIXES) <= 255
        assert (chosen == name) == (len(os.fsencode(name)) <= MAX_NAME_BYTES and job is jobs[0])
        carry(folders, job)
    assert len(listing(folders.root.done)) == 2


def test_long_names_that_begin_the_same_stay_apart(tmp_path: Path) -> None:
    """What is cut off tells two documents apart still."""
    folders = folders_at(tmp_path)
    one, other = (claim(folders, "a" * 240 + end + ".pdf").name for end in ("1", "2"))
    assert one != other
    assert "~2" not in one + other


# Publish, finish, fail


def test_publish_puts_the_outputs_out_and_leaves_staging_empty(tmp_path: Path) -> None:
    """All outputs and the manifest are in the outbox, in the source's subfolder."""
    folders = folders_at(tmp_path)
    job = claim(folders, "a/b/x.pdf")
    folders.publish(job, stage(folders, job))
    assert listing(folders.root.outbox) == [
        f"a/b/x.pdf.{suffix}" for suffix in ("images/p1b1.png", "json", "manifest.json", "md")
    ]
    assert folders.source(job).exists()


def test_outputs_may_lie_on_another_place(tmp_path: Path) -> None:
    """An outbox outside the root has its own staging, so that publishing is a rename there."""
    folders = folders_at(tmp_path, outbox=tmp_path / "out")
    carry(folders, claim(folders, "x.pdf"))
    assert listing(tmp_path / "out") == [
        MARKER, "x.pdf.images/p1b1.png", "x.pdf.json", "x.pdf.manifest.json", "x.pdf.md",
    ]  # fmt: skip


def test_the_manifest_comes_last(tmp_path: Path) -> None:
    """Outputs go out in the order given; if one cannot, those after it and the manifest stay in."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    outputs = stage(folders, job)
    (folders.root.outbox / "x.pdf.md").mkdir()
    with pytest.raises(OSError, match=r"x\.pdf\.md"):
        folders.publish(job, outputs)
    (folders.root.outbox / "x.pdf.md").rmdir()
    assert listing(folders.root.outbox) == [
        f".staging/{job.job_id}/x.pdf.manifest.json",
        f".staging/{job.job_id}/x.pdf.md",
        "x.pdf.images/p1b1.png",
        "x.pdf.json",
    ]


def test_own_outputs_of_an_earlier_try_are_replaced(tmp_path: Path) -> None:
    """Until the manifest is out, another try begins with empty staging and replaces what the first one put out."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    stage(folders, job)
    (folders.root.outbox / "x.pdf.md").write_bytes(b"first try")
    (folders.root.outbox / "x.pdf.images").mkdir()
    (folders.root.outbox / "x.pdf.images" / "p1b2.png").write_bytes(b"first try")
    folders.publish(job, stage(folders, job))
    assert listing(folders.root.outbox / "x.pdf.images") == ["p1b1.png"]
    assert (folders.root.outbox / "x.pdf.md").read_bytes() == b"x.pdf.md whole"


@pytest.mark.parametrize("theirs", [b'{"job_id": "other"}', b"notes"], ids=["a manifest", "something else"])
def test_the_manifest_of_another_document_is_never_replaced(tmp_path: Path, theirs: bytes) -> None:
    """Publishing under a name that another document has got raises, before any output goes out."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    outputs = stage(folders, job)
    manifest = folders.root.outbox / "x.pdf.manifest.json"
    manifest.write_bytes(theirs)
    with pytest.raises(FileExistsError, match=r"another document has this name: .*x\.pdf\.manifest\.json"):
        folders.publish(job, outputs)
    assert manifest.read_bytes() == theirs
    assert not (folders.root.outbox / "x.pdf.md").exists()


def test_the_claim_is_durable_before_the_manifest(tmp_path: Path) -> None:
    """The outbox may be another disk, which must not know of a document whose claim a power cut has undone."""
    folders = folders_at(tmp_path, outbox=tmp_path / "out")
    job = claim(folders, "x.pdf")
    outputs = stage(folders, job)
    made = [one for one in changes(lambda: folders.publish(job, outputs)) if one in {"rename", "replace", "fsync"}]
    # The folder of pictures, the outputs, their names, the claim; then the manifest and its name.
    assert made == ["rename", "replace", "replace", "fsync", "fsync", "replace", "fsync"]


def test_a_reason_that_did_not_come_true_is_withdrawn(tmp_path: Path) -> None:
    """A stop between the reason of a failure and its mark, and then a good end: no reason is left, but others' are."""
    folders = folders_at(tmp_path)
    job, other = claim(folders, "x.pdf"), claim(folders, "y.pdf")
    folders.write_error(job, account(job, "failed"), "words")
    folders.write_error(other, account(job, "failed", job_id="somebody's"), "words")
    for one in (job, other):
        carry(folders, one)
    assert listing(folders.root.failed) == ["y.pdf.error.json", "y.pdf.error.txt"]


def test_a_failure_lies_beside_its_original(tmp_path: Path) -> None:
    """failed/ holds the original, the reason for programs and the sentence for people; nothing else is left."""
    folders = folders_at(tmp_path)
    carry(folders, claim(folders, "a/x.pdf", b"bad"))
    assert listing(folders.root.failed) == ["a/x.pdf", "a/x.pdf.error.json", "a/x.pdf.error.txt"]
    assert json.loads((folders.root.failed / "a/x.pdf.error.json").read_bytes())["status"] == "failed"
    assert (folders.root.failed / "a/x.pdf.error.txt").read_text(encoding="utf-8") == "What to do: nothing.\n"
    assert listing(folders.root.work) == listing(folders.root.outbox) == []


def test_a_sentence_may_hold_any_name(tmp_path: Path) -> None:
    """A name that is no UTF-8 does not keep the sentence from being written."""
    folders = folders_at(tmp_path)
    job = claim(folders, os.fsdecode(b"\xff.pdf"), b"bad")
    folders.write_error(job, {}, f"{job.name} could not be read.\n")
    assert (folders.root.failed / f"{job.name}.error.txt").read_bytes() == b"\\udcff.pdf could not be read.\n"


@pytest.mark.parametrize(("mark", "base"), [(PUBLISHED, "done"), (FAILED, "failed")], ids=["done", "failed"])
def test_a_strangers_file_in_the_way_is_kept(tmp_path: Path, mark: str, base: str) -> None:
    """If somebody put a file where the original belongs, the original gets the job's id and the file stays."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.PDF")
    (folders.root.path / base / "x.PDF").write_bytes(b"theirs")
    folders.finish(job, mark)
    assert {path.name: path.read_bytes() for path in (folders.root.path / base).iterdir()} == {
        "x.PDF": b"theirs",
        f"{job.job_id}.pdf": b"content",
    }


@pytest.mark.parametrize("mark", [PUBLISHED, FAILED])
def test_finish_may_be_repeated(tmp_path: Path, mark: str) -> None:
    """A second `finish` finds nothing to do."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    folders.finish(job, mark)
    folders.finish(job, mark)
    assert listing(folders.root.work) == []


def test_originals_leave_done_after_their_time(tmp_path: Path) -> None:
    """Only originals that came to done/ before the time are deleted, however old their content is."""
    folders = folders_at(tmp_path)
    job = claim(folders, "a/x.pdf")
    os.utime(folders.source(job), (0, 0))
    carry(folders, job)
    moved = (folders.root.done / "a/x.pdf").stat().st_ctime
    assert folders.expire_done(moved) == 0
    assert folders.expire_done(moved + 1) == 1
    assert listing(folders.root.done) == []


# After a stop


def test_a_manifest_that_is_out_settles_it(tmp_path: Path) -> None:
    """A job whose manifest is out needs only to be finished, and the mark is set for the next time."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    folders.publish(job, stage(folders, job))
    (recovered,) = folders_at(tmp_path).recover()
    assert recovered.account == read_json(folders.root.outbox / "x.pdf.manifest.json")
    assert (folders.job_folder(job) / PUBLISHED).exists()


def test_a_mark_in_a_folder_that_was_cleared_away_is_found_again(tmp_path: Path) -> None:
    """Killed behind it, the next start finishes the job; a folder without job.json would go back to the inbox."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    remove_tree(folders.job_folder(job))
    account = {"job_id": job.job_id, "status": "failed", "reason": "gave_up", "name": "x.pdf", "finished_at": 2.0}
    folders.mark(job, FAILED, account)
    folders = folders_at(tmp_path)
    (recovered,) = folders.recover()
    assert (recovered.job.job_id, recovered.account, folders.rescued) == (job.job_id, account, [])


def test_the_manifest_of_another_document_settles_nothing(tmp_path: Path) -> None:
    """A manifest of that name that names another job is not this one's account: the job goes by another name."""
    folders = folders_at(tmp_path)
    job, neighbour = claim(folders, "x.pdf"), claim(folders, "x.pdf")
    (folders.root.outbox / "x.pdf.manifest.json").write_text('{"job_id": "other"}', encoding="ascii")
    expected = {Recovered(replace(job, name="x~3.pdf"), None), Recovered(neighbour, None)}
    for _ in range(2):
        folders = folders_at(tmp_path)
        found = folders.recover()
        assert set(found) == expected
    for one in found:
        carry(folders, one.job)
    assert listing(folders.root.done) == ["x~2.pdf", "x~3.pdf"]


#: What somebody may have written into a mark or a manifest, instead of what belongs there.
NO_ACCOUNTS: dict[str, dict[str, Any]] = {
    "another job": {"job_id": "other"},
    "no status": {"status": None},
    "an unknown status": {"status": "open"},
    "a list as status": {"status": "failed "},
    "no time": {"finished_at": None},
    "a time without end": {"finished_at": float("inf")},
    "no number at all": {"finished_at": float("nan")},
    "a number for 64 bits": {"pages": 2**63},
    "words for a number": {"bad_pages": "many"},
    "a list for a number": {"seconds": [1]},
    "no reason": {"reason": None},
    "a list for a hash": {"sha256": [1]},
}


@pytest.mark.parametrize("spoilt", NO_ACCOUNTS.values(), ids=NO_ACCOUNTS)
@pytest.mark.parametrize("mark", [PUBLISHED, FAILED])
def test_a_mark_that_makes_no_sense_is_none(tmp_path: Path, spoilt: dict[str, Any], mark: str) -> None:
    """What the ledger could not hold is no account: the document is read again.  One number once ended the ledger."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    folders.mark(job, mark, account(job, "done"))
    assert folders.account_left(job) == account(job, "done")
    folders.mark(job, mark, account(job, "done") | spoilt)
    assert folders.account_left(job) is None


def test_staging_of_no_job_is_cleared(tmp_path: Path) -> None:
    """What a killed process staged for a job that is gone is removed; that of an open one is made anew anyway."""
    folders = folders_at(tmp_path)
    job, gone = claim(folders, "x.pdf"), claim(folders, "y.pdf")
    for one in (job, gone):
        stage(folders, one)
    shutil.rmtree(folders.job_folder(gone))
    folders_at(tmp_path).recover()
    assert [path.name for path in folders.root.staging.iterdir()] == [job.job_id]


BROKEN: dict[str, bytes | None] = {
    "missing": None,
    "torn": b'{"version": 1, "job_',
    "of another job": b'{"job_id": "other"}',
    "half": b'{"job_id": "ID"}',
    "leads out of the root": b'{"job_id": "ID", "path": "../../etc/passwd", "name": "x"}',
    "leads to the root of all": b'{"job_id": "ID", "path": "x", "name": "/etc/passwd"}',
    "a name that no disk holds": b"""{"job_id": "ID", "inbox": "default", "path": "a\\u0000b", "name": "x", "size": 1,
        "mtime_ns": 1, "inode": 1, "claimed_at": 1, "attempts": 0, "solo": false}""",
    "a size that no disk has": b"""{"job_id": "ID", "inbox": "default", "path": "x", "name": "x", "size": 1e99,
        "mtime_ns": 1, "inode": 1, "claimed_at": 1, "attempts": 0, "solo": false}""",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_document_without_a_readable_job_goes_back(tmp_path: Path, content: bytes | None) -> None:
    """Where job.json tells nothing, the document goes back to the inbox under a new name and is found there."""
    folders = folders_at(tmp_path)
    job = claim(folders, "x.pdf")
    stage(folders, job)
    path = folders.job_folder(job) / JOB_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content.replace(b"ID", job.job_id.encode()))
    assert folders_at(tmp_path).recover() == []
    assert listing(folders.root.path) == [".ocr-daemon.json", f"inbox/recovered-{job.job_id}.pdf"]


def test_recovery_removes_temporary_files_and_nothing_else(tmp_path: Path) -> None:
    """What a killed probe or an interrupted write left is gone, what people put there stays."""
    folders = folders_at(tmp_path)
    for folder in (folders.root.path, *folders.root.folders):
        (folder / f"{TEMPORARY_PREFIX}probe-1").write_bytes(b"")
    (folders.root.work / "note.txt").write_bytes(b"")
    assert folders.recover() == []
    assert listing(folders.root.path) == [".ocr-daemon.json", "work/note.txt"]


def test_recovery_touches_nothing_of_other_peoples(tmp_path: Path) -> None:
    """Folders and links that people put into work/ stay, and so does what they put into a job's folder."""
    folders = folders_at(tmp_path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.pdf").write_bytes(b"not ours")
    (folders.root.work / "link").symlink_to(victim)
    (folders.root.work / "20260101T000000-0123456789").symlink_to(victim)
    (folders.root.work / "mine").mkdir()
    (folders.root.work / "mine" / "thesis.pdf").write_bytes(b"not ours")
    (folders.root.inbox / f"{TEMPORARY_PREFIX}folder").mkdir()
    job = claim(folders, "x.pdf")
    (folders.job_folder(job) / JOB_FILE).write_bytes(b"torn")
    (folders.job_folder(job) / "notes.txt").write_bytes(b"not ours")
    again = folders_at(tmp_path)
    assert again.recover() == []
    assert again.rescued == [job.job_id]
    assert (victim / "thesis.pdf").exists()
    assert (folders.root.work / "mine" / "thesis.pdf").exists()
    assert (folders.job_folder(job) / "notes.txt").exists()
    assert (folders.root.inbox / f"recovered-{job.job_id}.pdf").exists()
    (folders.root.inbox / f"{TEMPORARY_PREFIX}folder").rmdir()


def test_a_renamed_inbox_takes_its_jobs_along(tmp_path: Path) -> None:
    """A job belongs to the inbox that has the root now."""
    claim(folders_at(tmp_path), "x.pdf")
    assert [one.job.inbox for one in folders_at(tmp_path, name="scans").recover()] == ["scans"]


# A stop at any step

#: Documents and what becomes of them; names that get in each other's way among them.
DOCUMENTS = {"x.pdf": b"good 1", "x.pdf.error.txt": b"good 2", "sub/x.pdf": b"bad 3", "sub/x.pdf.md/y": b"good 4"}


def live(path: Path) -> None:
    """All that a service does with its folders, from its start until nothing is left to do."""
    folders = folders_at(path)
    for recovered in folders.recover():
        carry(folders, recovered.job, recovered.account)
    for name in listing(folders.root.inbox):
        carry(folders, folders.claim(name, take_sample(folders.root.inbox / name), NOW))


def check(path: Path, contents: set[bytes]) -> None:
    """Whatever has happened: each source is in one place, and what says that it is complete is complete."""
    root = Root(Inbox(root=path / "root"))
    places: dict[bytes, list[str]] = {content: [] for content in contents}
    for base in ("inbox", "work", "done", "failed"):
        for name in listing(root.path / base):
            if base == "work" and not Path(name).name.startswith("source."):
                continue
            content = (root.path / base / name).read_bytes()
            if content in places:
                places[content].append(f"{base}/{name}")
    assert all(len(found) == 1 for found in places.values()), places
    for (place,) in places.values():
        base, _, name = place.partition("/")
        if base == "done":
            assert (root.outbox / f"{name}{MANIFEST_SUFFIX}").exists()
        if base == "failed":
            assert read_json(root.failed / f"{name}.error.json")
            assert (root.failed / f"{name}.error.txt").read_bytes()
    for manifest in root.outbox.rglob(f"*{MANIFEST_SUFFIX}"):
        if root.staging not in manifest.parents:
            for output in json.loads(manifest.read_bytes())["outputs"]:
                if output.endswith(".images"):
                    assert listing(manifest.parent / output) == ["p1b1.png"]
                else:
                    assert (manifest.parent / output).read_bytes() == f"{output} whole".encode()


def check_end(path: Path, documents: dict[str, bytes]) -> None:
    """Nothing is open, nothing temporary is left, and every document has come where it belongs."""
    check(path, set(documents.values()))
    root = Root(Inbox(root=path / "root"))
    assert listing(root.inbox) == listing(root.work) == listing(root.staging) == []
    assert len(listing(root.done)) == sum(content.startswith(b"good") for content in documents.values())
    assert len(listing(root.failed)) == 3 * sum(content.startswith(b"bad") for content in documents.values())
    assert not [name for name in listing(root.path) if TEMPORARY_PREFIX in name]


def begin(path: Path, documents: dict[str, bytes]) -> None:
    """A root with documents in its inbox."""
    folders = folders_at(path)
    for name, content in documents.items():
        drop(folders, name, content)
    folders.root.release()


@pytest.mark.parametrize("content", [b"good", b"bad"], ids=["done", "failed"])
def test_a_stop_before_every_single_step(content: bytes) -> None:
    """One document, killed at each of its changes of the disk in turn: nothing is lost, doubled or half done."""
    step = 0
    killed = True
    while killed:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            begin(path, {"a/x.pdf": content})
            killed = killed_at(step, lambda: live(path))  # noqa: B023 - it is over before the loop goes on
            check(path, {content})
            live(path)
            check_end(path, {"a/x.pdf": content})
        step += 1
    assert step > 40


@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.sets(st.sampled_from(sorted(DOCUMENTS)), min_size=1))
@settings(max_examples=25)
def test_stops_at_any_steps_one_after_the_other(steps: list[int], names: set[str]) -> None:
    """Several documents, killed again and again, also over the recovery: the same holds after every stop."""
    documents = {name: DOCUMENTS[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        begin(path, documents)
        for step in steps:
            killed_at(step, lambda: live(path))
            check(path, set(documents.values()))
        live(path)
        check_end(path, documents)


# Samples


def test_a_sample_tells_a_change(tmp_path: Path) -> None:
    """Size, time and inode: each of them tells."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    status = path.stat()
    assert take_sample(path) == Sample(3, status.st_mtime_ns, status.st_ino)


def test_only_regular_files_have_a_sample(tmp_path: Path) -> None:
    """A link, a folder and a pipe without a writer are refused, none of them by waiting."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic links"):
        take_sample(tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(IsADirectoryError):
            take_sample(path)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    """SHA-256, as other programs compute it."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
