"""The account of every document: what balances, what is explained, and what is a difference."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from daemon.audit import Balance, audit
from daemon.config import Inbox, Service, Settings
from daemon.folders import PUBLISHED
from daemon.ledger import FILE_NAME, Ledger, connect
from daemon.retry import retry
from daemon.roots import MARKER
from tests.accounts import Office
from tests.permissions import closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """An inbox that a service has worked on."""
    async with Ledger(tmp_path) as ledger:
        yield Office(tmp_path, ledger)


def balance_of(office: Office) -> Balance:
    """The account of the one inbox."""
    (balance,) = audit(office.settings, look_again_s=0)
    return balance


def counts(balance: Balance) -> dict[str, int]:
    """The counts that are not zero."""
    return {key: value for key, value in balance.as_dict().items() if isinstance(value, int) and value}


async def test_an_account_that_balances(office: Office) -> None:
    """Seen is done, partial, failed, ignored and pending, in subfolders too, and nothing is left over."""
    for name in ("x.pdf", "x.pdf", "a/x.pdf", os.fsdecode(b"\xff.pdf")):
        await office.done(name)
    await office.done("y.pdf", status="partial")
    await office.failed("a/z.pdf")
    await office.claim("open.pdf")
    for name in ("new.pdf", "later.pdf.part", ".hidden"):
        (office.root.inbox / name).write_bytes(b"content")
    balance = balance_of(office)
    assert balance.differences == []
    assert counts(balance) == {"done": 4, "partial": 1, "failed": 1, "ignored": 2, "pending": 2, "seen": 10}


async def test_an_empty_inbox_balances(office: Office) -> None:
    """Nothing seen, nothing to explain."""
    balance = balance_of(office)
    assert (counts(balance), balance.differences) == ({}, [])
    assert (balance.inbox, balance.root) == ("default", str(office.root.path))


# What is no difference


async def collect_all(office: Office) -> None:
    """Users take the outputs and the original away."""
    await office.done("x.pdf")
    for path in (office.root.done / "x.pdf", *office.root.outbox.glob("x.pdf*")):
        path.unlink()


async def collect_markdown(office: Office) -> None:
    """Users take only the text."""
    await office.done("x.pdf")
    (office.root.outbox / "x.pdf.md").unlink()


async def collect_failure(office: Office) -> None:
    """Users take a failed original and its reason."""
    await office.failed("x.pdf")
    shutil.rmtree(office.root.failed)
    office.root.failed.mkdir()


EXPLAINED: dict[str, tuple[Callable[[Office], Awaitable[None]], dict[str, int]]] = {
    "outputs and original were taken": (collect_all, {"done": 1, "collected": 1, "seen": 1}),
    "the text was taken": (collect_markdown, {"done": 1, "collected": 1, "seen": 1}),
    "a failed original was taken": (collect_failure, {"failed": 1, "collected": 1, "seen": 1}),
}


@pytest.mark.parametrize(("act", "expected"), EXPLAINED.values(), ids=EXPLAINED)
async def test_what_users_take_away_is_collected(
    office: Office, act: Callable[[Office], Awaitable[None]], expected: dict[str, int]
) -> None:
    """Documents that were taken after their end are counted as collected and are no difference."""
    await act(office)
    balance = balance_of(office)
    assert (counts(balance), balance.differences) == (expected, [])


async def test_a_name_may_come_again_with_another_end(office: Office) -> None:
    """A name is free once its document was taken away; the next one may fail where the first was read, or the reverse.

    The audit once saw the first document's original in the wrong folder.
    """
    await collect_all(office)
    await office.failed("x.pdf")
    await collect_failure_of(office, "y.pdf")
    await office.done("y.pdf")
    balance = balance_of(office)
    assert balance.differences == []
    assert counts(balance) == {"done": 2, "failed": 2, "collected": 2, "seen": 4}


async def collect_failure_of(office: Office, name: str) -> None:
    """A document fails and is taken away."""
    await office.failed(name)
    for path in office.root.failed.glob(f"{name}*"):
        path.unlink()


async def test_an_original_under_its_jobs_id_is_explained(office: Office) -> None:
    """Where somebody's file had the name, the original has the job's id; only the stranger's file is a difference."""
    job = await office.claim("x.pdf")
    (office.root.done / "x.pdf").write_bytes(b"theirs")
    office.folders.finish(job, PUBLISHED)
    assert [one for one in balance_of(office).differences if "done/" in one] == []


async def test_a_retried_document_counts_once(office: Office) -> None:
    """After `retry` it counts as its new job only, also if `retry` was killed before it removed the reason."""
    await office.failed("x.pdf")
    reason = office.root.failed / "x.pdf.error.txt"
    content = reason.read_bytes()
    retry(office.settings, names=(), everything=True, reason=None)
    reason.write_bytes(content)
    balance = balance_of(office)
    assert (counts(balance), balance.differences) == ({"pending": 1, "seen": 1}, [])


async def test_a_job_that_the_ledger_does_not_know_yet_is_pending(office: Office) -> None:
    """Between the claim and its row a document is neither lost nor a difference."""
    job = await office.claim("x.pdf")
    with closing(connect(office.settings.service.state_dir / FILE_NAME)) as connection:
        connection.execute("DELETE FROM jobs WHERE job_id = ?", (job.job_id,))
    balance = balance_of(office)
    assert (counts(balance), balance.differences) == ({"pending": 1, "seen": 1}, [])


async def test_lines_may_be_taken_away(office: Office) -> None:
    """Users may empty or remove the line file; only documents after its first line must stand in it."""
    await office.done("x.pdf")
    office.lines.unlink()
    assert balance_of(office).differences == []
    await office.done("y.pdf")
    assert balance_of(office).differences == []


# Differences


def forget_work(office: Office, job_id: str) -> None:
    """A job folder is deleted."""
    shutil.rmtree(office.root.work / job_id)


def put(folder: str, name: str) -> Callable[[Office, str], None]:
    """Somebody puts a file into one of our folders."""

    def spoil(office: Office, _: str) -> None:
        path = office.root.path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")

    return spoil


def swap(one: str, other: str) -> Callable[[Office, str], None]:
    """An original is moved by hand."""

    def spoil(office: Office, _: str) -> None:
        (office.root.path / one).rename(office.root.path / other)

    return spoil


def change_line(office: Office, _: str) -> None:
    """The line file says something else than the ledger."""
    office.lines.write_bytes(office.lines.read_bytes().replace(b'"done"', b'"partial"'))


def drop_line(office: Office, _: str) -> None:
    """A line in the midst is lost: the first one stays."""
    lines = office.lines.read_bytes().splitlines(keepends=True)
    office.lines.write_bytes(lines[0])


def unknown_status(office: Office, job_id: str) -> None:
    """A row of a version that nobody knows."""
    with closing(connect(office.settings.service.state_dir / FILE_NAME)) as connection:
        connection.execute("UPDATE jobs SET status = 'odd' WHERE job_id = ?", (job_id,))


#: Name -> what goes wrong after one document is done, one has failed and one is open, and the words for it.
DIFFERENCES: dict[str, tuple[Callable[[Office, str], None], list[str]]] = {
    "an open job is gone": (forget_work, ["seen 3, explained 2", "open.pdf: open in the ledger, but .* is gone"]),
    "a done original in failed/": (
        swap("done/x.pdf", "failed/x.pdf"), ["x.pdf: done in the ledger, but the original lies in failed/"],
    ),
    "a failed original in done/": (
        swap("failed/y.pdf", "done/y.pdf"), ["y.pdf: failed in the ledger, but the original lies in done/"],
    ),
    "a stranger in done/": (put("done", "a/s.pdf"), ["done/a/s.pdf: no document of the ledger"]),
    "a stranger in failed/": (put("failed", "s.pdf"), ["failed/s.pdf: no document of the ledger"]),
    "a reason of nothing": (put("failed", "s.pdf.error.txt"), ["failed/s.pdf.error.txt: no document of the ledger"]),
    "a manifest of nothing": (
        put("outbox", "s.pdf.manifest.json"), ["outbox/s.pdf.manifest.json: a manifest of no document in the ledger"],
    ),
    "something in staging": (put("outbox/.staging", "s"), ["staging holds s, which is no open job"]),
    "another status in the lines": (
        change_line, ["x.pdf: done in the ledger, partial in manifest-north.jsonl"],
    ),
    "a lost line": (drop_line, ["y.pdf: failed in the ledger, no line in manifest-north.jsonl"]),
    "an unknown status": (unknown_status, ["seen 3, explained 2", "open.pdf: unknown status 'odd' in the ledger"]),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "expected"), DIFFERENCES.values(), ids=DIFFERENCES)
async def test_differences(office: Office, spoil: Callable[[Office, str], None], expected: list[str]) -> None:
    """Whatever cannot be explained is told in a sentence that says where to look."""
    await office.done("x.pdf")
    await office.failed("y.pdf")
    job = await office.claim("open.pdf")
    assert balance_of(office).differences == []
    spoil(office, job.job_id)
    found = sorted(balance_of(office).differences)
    assert len(found) == len(expected), found
    for difference, pattern in zip(found, sorted(expected), strict=True):
        assert pattern == difference or (".*" in pattern and difference.startswith(pattern.split(".*")[0]))


async def test_a_document_that_is_called_like_a_reason(office: Office) -> None:
    """`x.pdf.error.txt` was read, and then `x.pdf` failed: its reason in failed/ is not that document."""
    await office.done("x.pdf.error.txt")
    await office.failed("x.pdf")
    assert balance_of(office).differences == []


async def test_users_files_in_the_outbox_are_theirs(office: Office) -> None:
    """Only manifests are accounted for: what else people keep in the outbox is no difference, nor is its marker."""
    for name in ("notes.md", MARKER):
        (office.root.outbox / name).write_bytes(b"")
    assert balance_of(office).differences == []


@pytest.mark.parametrize("folder", ["done", "failed", "outbox", "outbox/.staging", "done/a"])
async def test_what_systems_leave_behind_is_no_difference(office: Office, folder: str) -> None:
    """A file browser's own files in any of our folders are nobody's document."""
    for name in (".DS_Store", "Thumbs.db", "._x.pdf", "desktop.ini"):
        put(folder, name)(office, "")
    balance = balance_of(office)
    assert (counts(balance), balance.differences) == ({}, [])


def unused(folder: Path) -> Settings:
    """Settings of a root that does not exist."""
    return Settings(service=Service(state_dir=folder), inbox=(Inbox(root=folder / "root"),))


def test_a_root_that_nobody_has_worked_on(tmp_path: Path) -> None:
    """A folder without a marker that the ledger does not know is a difference, not an empty account."""
    connect(tmp_path / FILE_NAME).close()
    (balance,) = audit(unused(tmp_path), look_again_s=0)
    assert "no service has worked here, or it is not mounted" in balance.differences[0]


async def test_a_share_that_is_not_mounted_has_no_account(office: Office, tmp_path: Path) -> None:
    """A root that the ledger knows and that is empty has none: its documents are not gone."""
    async with Ledger(tmp_path) as ledger:
        await ledger.remember_root(office.root.path, office.root.root_id, 1.0)
    office.root.path.rename(tmp_path / "away")
    check_no_account(balance_of(office), f"No such file or directory: {office.root.inbox}")


def check_no_account(balance: Balance, error: str) -> None:
    """Its only difference is why it was not made."""
    assert balance.error == error
    assert balance.differences == [f"there is no account: {error}"]
    assert counts(balance) == {}


async def test_one_share_away_does_not_hide_the_others(office: Office, tmp_path: Path) -> None:
    """Each inbox has its own account, whatever became of the shares of the others."""
    await office.done("x.pdf")
    (tmp_path / "no folder").write_bytes(b"")
    inboxes = (Inbox(name="away", root=tmp_path / "no folder"), *office.settings.inbox)
    away, here = audit(office.settings.model_copy(update={"inbox": inboxes}), look_again_s=0)
    assert away.differences
    assert (counts(here), here.differences, here.error) == ({"done": 1, "seen": 1}, [], "")


async def test_an_outbox_that_is_not_mounted_has_no_account(tmp_path: Path) -> None:
    """What lies in a share of its own that is away was not taken away by users."""
    async with Ledger(tmp_path) as ledger:
        office = Office(tmp_path, ledger, outbox=tmp_path / "out")
        await office.done("x.pdf")
        assert counts(balance_of(office)) == {"done": 1, "seen": 1}
        office.root.outbox.rename(tmp_path / "aside")
        office.root.outbox.mkdir()
        check_no_account(balance_of(office), f"No such file or directory: {office.root.outbox / MARKER}")


async def test_a_folder_that_may_not_be_listed_has_no_account(office: Office) -> None:
    """What cannot be seen is neither there nor taken away: there is no account rather than a wrong one."""
    await office.done("a/x.pdf")
    with closed(office.root.done / "a"):
        check_no_account(balance_of(office), f"Permission denied: {office.root.done / 'a'}")


def test_without_a_ledger_there_is_no_account(tmp_path: Path) -> None:
    """A missing ledger is told, and none is made."""
    with pytest.raises(FileNotFoundError, match="there is no ledger yet"):
        audit(unused(tmp_path))
    assert not list(tmp_path.iterdir())
