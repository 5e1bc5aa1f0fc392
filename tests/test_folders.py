"""Claim, publish, finish and fail: what lies where, and in which order it comes there."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from daemon.durable import read_json
from daemon.folders import FAILED, JOB_FILE, PUBLISHED, Folders, Recovered, hash_file, take_sample
from daemon.job import Sample
from daemon.roots import MARKER
from tests.folders import NOW, account, carry, claim, drop, folders_at, listing, stage
from tests.killed import changes
from tests.permissions import closed, without_override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType


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
