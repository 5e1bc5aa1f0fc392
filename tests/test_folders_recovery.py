"""What the next start finds: open jobs, what was left of others, and a stop at any step."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import Inbox
from daemon.durable import TEMPORARY_PREFIX, read_json, remove_tree
from daemon.folders import FAILED, JOB_FILE, PUBLISHED, Recovered, take_sample
from daemon.names import MANIFEST_SUFFIX
from daemon.roots import Root
from tests.folders import NOW, account, carry, claim, drop, folders_at, listing, stage
from tests.killed import killed_at

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
