"""The account of every document: what is committed stays, what is repeated changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.job import Job, Sample
from daemon.ledger import (
    FILE_NAME,
    Ledger,
    connect,
    entries,
    forget_root,
    known_root,
    mark_retried,
    totals,
)
from tests.conftest import eventually

ROOT = "root-1"


def job(number: int, path: str | None = None, *, attempts: int = 0) -> Job:
    """A claimed document."""
    path = path or f"{number}.pdf"
    return Job(f"job-{number:04}", "default", path, path, Sample(100 + number, 1, 2), 5.0 + number, attempts)


def account(status: str, **more: Any) -> dict[str, Any]:
    """What a mark says."""
    return {"status": status, "reason": "corrupt" if status == "failed" else "", "finished_at": 50.0, **more}


def rows(folder: Path, columns: str = "job_id, status") -> list[tuple[Any, ...]]:
    """The table, as another process sees it."""
    with closing(connect(folder / FILE_NAME, create=False)) as connection:
        return connection.execute(f"SELECT {columns} FROM jobs ORDER BY job_id").fetchall()  # noqa: S608


async def test_a_document_from_claim_to_end(tmp_path: Path) -> None:
    """A row is open after the claim and holds the whole account after the end."""
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(1), ROOT)
        assert rows(tmp_path) == [("job-0001", "open")]
        await ledger.closed(
            job(1, attempts=2), ROOT, account("partial", pages=7, bad_pages=1, seconds=1.5, sha256="abc", reason="one")
        )
    columns = (
        "root_id, path, size, claimed_at, status, reason, pages, bad_pages, attempts, seconds, sha256, finished_at"
    )
    assert rows(tmp_path, columns) == [
        (ROOT, b"1.pdf", 101, 6.0, "partial", "one", 7, 1, 2, 1.5, "abc", 50.0),
    ]


async def test_repeated_writes_change_nothing(tmp_path: Path) -> None:
    """Recovery may repeat any write: an open row stays open, a closed one closed, a retried one retried."""
    async with Ledger(tmp_path) as ledger:
        for _ in range(2):
            await ledger.opened(job(1), ROOT)
            await ledger.opened(job(2), ROOT)
        for _ in range(2):
            await ledger.closed(job(1), ROOT, account("failed"))
        with closing(connect(ledger.path)) as connection:
            mark_retried(connection, "job-0001", 60.0)
        before = rows(tmp_path, "*")
        await ledger.opened(job(1), ROOT)
        await ledger.closed(job(1), ROOT, account("failed"))
        assert rows(tmp_path, "*") == before
        assert [(row[0], row[7], row[-1]) for row in before] == [
            ("job-0001", "failed", 60.0),
            ("job-0002", "open", None),
        ]


async def test_a_name_that_was_chosen_anew_is_the_one_in_the_account(tmp_path: Path) -> None:
    """A crash before the publish can cost a document its name; the audit would miss it under the old one."""
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(1, "x.pdf"), ROOT)
        await ledger.opened(replace(job(1, "x.pdf"), name="x~2.pdf"), ROOT)
        assert rows(tmp_path, "path, name") == [(b"x.pdf", b"x~2.pdf")]
        await ledger.closed(replace(job(1, "x.pdf"), name="x~3.pdf"), ROOT, account("done"))
        assert rows(tmp_path, "path, name") == [(b"x.pdf", b"x~3.pdf")]


async def test_a_job_may_be_closed_without_having_been_opened(tmp_path: Path) -> None:
    """A job whose ledger was lost with the machine's disk gets its row at its end."""
    async with Ledger(tmp_path) as ledger:
        await ledger.closed(job(1), ROOT, account("done"))
    assert rows(tmp_path) == [("job-0001", "done")]


async def test_totals_count_a_retried_document_once(tmp_path: Path) -> None:
    """Counts are by root and status; one that was given back counts as its new job only."""
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(1), ROOT)
        await ledger.closed(job(2), ROOT, account("done"))
        await ledger.closed(job(3), ROOT, account("failed"))
        await ledger.closed(job(4), ROOT, account("failed"))
        await ledger.closed(job(5), "root-2", account("done"))
        with closing(connect(ledger.path)) as connection:
            mark_retried(connection, "job-0003", 60.0)
        assert await ledger.totals() == {ROOT: {"open": 1, "done": 1, "failed": 1}, "root-2": {"done": 1}}


async def test_only_an_open_job_is_given_back(tmp_path: Path) -> None:
    """What has ended stays accounted for, though the folder of its job looks abandoned."""
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(1), ROOT)
        await ledger.closed(job(2), ROOT, account("done"))
        for number in (1, 2):
            await ledger.given_back(f"job-{number:04}", 60.0)
        assert rows(tmp_path, "job_id, retried_at") == [("job-0001", 60.0), ("job-0002", None)]
        assert await ledger.totals() == {ROOT: {"done": 1}}


async def test_names_are_bytes(tmp_path: Path) -> None:
    """Any name a Unix disk can hold comes back as it was."""
    name = os.fsdecode(b"caf\xe9/\xff.pdf")
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(1, name), ROOT)
        await ledger.remember_root(Path(name), ROOT, 1.0)
        assert await ledger.root_id(Path(name)) == ROOT
        with closing(connect(ledger.path)) as connection:
            (entry,) = entries(connection, ROOT)
    assert (entry.path, entry.name, entry.status, entry.finished_at, entry.retried_at) == (
        name, name, "open", None, None,
    )  # fmt: skip


async def test_entries_are_those_of_one_root_and_status(tmp_path: Path) -> None:
    """The oldest come first."""
    async with Ledger(tmp_path) as ledger:
        await ledger.closed(job(2), ROOT, account("failed"))
        await ledger.closed(job(1), ROOT, account("done"))
        await ledger.closed(job(3), "root-2", account("failed"))
        with closing(connect(ledger.path)) as connection:
            assert [entry.job_id for entry in entries(connection, ROOT)] == ["job-0001", "job-0002"]
            assert [entry.job_id for entry in entries(connection, ROOT, "failed")] == ["job-0002"]
            assert totals(connection) == await ledger.totals()


async def test_a_root_is_remembered_by_its_path(tmp_path: Path) -> None:
    """The last id seen at a path counts, until it is forgotten."""
    path = tmp_path / "root"
    async with Ledger(tmp_path) as ledger:
        assert await ledger.root_id(path) is None
        await ledger.remember_root(path, "id-1", 1.0)
        await ledger.remember_root(path, "id-2", 2.0)
        assert await ledger.root_id(path) == "id-2"
        with closing(connect(ledger.path)) as connection:
            assert known_root(connection, path) == "id-2"
            forget_root(connection, path)
            assert known_root(connection, path) is None
        assert await ledger.root_id(path) is None


# Commits


def commits(wal: Path) -> int:
    """How many transactions are in a WAL file: frames whose header says that they end one (SQLite, "WAL format")."""
    content = wal.read_bytes()
    page_size = struct.unpack(">I", content[8:12])[0]
    ends = [content[at + 4 : at + 8] for at in range(32, len(content), 24 + page_size)]
    return sum(end != bytes(4) for end in ends)


async def test_writes_that_come_together_share_a_commit(tmp_path: Path) -> None:
    """While a commit waits for the disk, all writes that come are gathered for the next one."""
    async with Ledger(tmp_path) as ledger:
        await ledger.opened(job(0), ROOT)
        wal = tmp_path / f"{FILE_NAME}-wal"
        before = commits(wal)
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes = [asyncio.create_task(ledger.opened(job(number), ROOT)) for number in range(1, 101)]
            await asyncio.wait(writes, timeout=0.1)
            assert not any(write.done() for write in writes)
            other.execute("COMMIT")
        await asyncio.gather(*writes)
        assert 1 <= commits(wal) - before <= 2
    assert len(rows(tmp_path)) == 101


async def test_a_write_whose_caller_has_left_is_done_all_the_same(tmp_path: Path) -> None:
    """Cancelling the caller neither undoes the write nor stops the ledger."""
    async with Ledger(tmp_path) as ledger:
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            write = asyncio.create_task(ledger.opened(job(1), ROOT))
            await asyncio.wait([write], timeout=0.05)
            write.cancel()
            await asyncio.wait([write])
            other.execute("COMMIT")
        await ledger.opened(job(2), ROOT)
    assert [row[0] for row in rows(tmp_path)] == ["job-0001", "job-0002"]


async def test_a_fault_reaches_the_caller_and_the_ledger_goes_on(tmp_path: Path) -> None:
    """A write that fails raises where it was asked for; once the cause is gone the next one succeeds."""
    async with Ledger(tmp_path) as ledger:
        with closing(connect(ledger.path)) as other:
            other.execute("ALTER TABLE jobs RENAME TO away")
        with pytest.raises(sqlite3.OperationalError, match="no such table: jobs"):
            await ledger.opened(job(1), ROOT)
        with closing(connect(ledger.path)) as other:
            other.execute("ALTER TABLE away RENAME TO jobs")
        await ledger.opened(job(1), ROOT)
    assert rows(tmp_path) == [("job-0001", "open")]


async def test_a_poisoned_write_fails_alone(tmp_path: Path) -> None:
    """Values that SQLite cannot hold are their caller's trouble: others of the same commit are written.

    The ledger's thread once ended on them, and every later call hung.
    """
    poison: list[dict[str, Any]] = [{"pages": 2**63}, {"bad_pages": [1]}, {"finished_at": {}}]
    async with Ledger(tmp_path) as ledger:
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # until all of them wait
            writes = [ledger.closed(job(number), ROOT, account("done") | one) for number, one in enumerate(poison)]
            tasks = [asyncio.create_task(write) for write in (*writes, ledger.opened(job(7), ROOT))]
            await asyncio.wait(tasks, timeout=0.1)
            other.execute("COMMIT")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, Exception) for one in results] == [True, True, True, False]
        await ledger.opened(job(8), ROOT)
    assert rows(tmp_path) == [("job-0007", "open"), ("job-0008", "open")]


async def test_a_fault_that_undoes_the_commit_is_told_to_all(tmp_path: Path) -> None:
    """What could not be made durable, as on a full disk, is neither reported as written nor counted."""
    async with Ledger(tmp_path) as ledger:
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON jobs WHEN NEW.job_id = 'job-0002' "
                "BEGIN SELECT RAISE(ROLLBACK, 'disk full'); END"
            )
            other.execute("BEGIN IMMEDIATE")
            # The ledger waits with this one, so that it takes the others together.
            before = asyncio.create_task(ledger.remember_root(tmp_path, ROOT, 1.0))
            await asyncio.sleep(0)
            await eventually(ledger._requests.empty)  # noqa: SLF001 - nothing else tells that it was taken
            writes = [ledger.opened(job(1), ROOT), ledger.totals(), ledger.opened(job(2), ROOT)]
            tasks = [asyncio.create_task(write) for write in writes]
            await asyncio.wait(tasks, timeout=0.1)
            other.execute("COMMIT")
        await before
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(one) for one in results] == ["disk full"] * 3
        assert await ledger.totals() == {}
        await ledger.opened(job(3), ROOT)
    assert rows(tmp_path) == [("job-0003", "open")]


async def test_totals_follow_every_change(tmp_path: Path) -> None:
    """They are counted once and again after each change, our own or another process's."""
    async with Ledger(tmp_path) as ledger:
        for number in range(3):
            await ledger.closed(job(number), ROOT, account("failed"))
            assert await ledger.totals() == {ROOT: {"failed": number + 1}}
        assert await ledger.totals() is await ledger.totals()
        with closing(connect(ledger.path)) as connection:
            mark_retried(connection, "job-0001", 60.0)
        assert await ledger.totals() == {ROOT: {"failed": 2}}


def test_totals_read_an_index_only(tmp_path: Path) -> None:
    """Counting 300,000 documents reads no table: it took 0.12 s of every two."""
    statements: list[str] = []
    with closing(connect(tmp_path / FILE_NAME)) as connection:
        connection.set_trace_callback(statements.append)
        totals(connection)
        connection.set_trace_callback(None)
        (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
    assert "USING COVERING INDEX jobs_by_status" in plan[3]


async def test_leaving_finishes_what_was_asked(tmp_path: Path) -> None:
    """Writes that are on their way when the ledger is closed are committed."""
    async with Ledger(tmp_path) as ledger:
        writes = [asyncio.create_task(ledger.opened(job(number), ROOT)) for number in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    assert len(rows(tmp_path)) == 20


# Files

_WRITE_FOR_EVER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from daemon.job import Job, Sample
from daemon.ledger import Ledger

async def main():
    async with Ledger(Path(sys.argv[1])) as ledger:
        for number in count():
            job = Job(f"job-{number:06}", "default", "x", "x", Sample(1, 1, 1), 0.0)
            await ledger.opened(job, "root-1")
            print(job.job_id, flush=True)

asyncio.run(main())
"""


def test_what_was_committed_outlives_a_kill(tmp_path: Path) -> None:
    """After SIGKILL in the midst of writing, every write that had returned is there, and the ledger opens."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        for _ in range(50):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = 50 + len(writer.stdout.readlines())
    with closing(connect(tmp_path / FILE_NAME, create=False)) as connection:
        found = totals(connection)[ROOT]["open"]
    assert said <= found <= said + 1


async def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A file that a newer version wrote is not touched by an older one."""
    with closing(connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(sqlite3.DatabaseError, match="written by a newer version of ocr-daemon"):
        await Ledger(tmp_path).__aenter__()


async def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Anything else under that name raises and stays as it is."""
    (tmp_path / FILE_NAME).write_bytes(b"notes\n" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        await Ledger(tmp_path).__aenter__()
    assert (tmp_path / FILE_NAME).read_bytes() == b"notes\n" * 1000


def test_a_missing_ledger_is_made_only_if_wanted(tmp_path: Path) -> None:
    """`audit` and `retry` leave no empty ledger behind."""
    with pytest.raises(FileNotFoundError, match="there is no ledger yet"):
        connect(tmp_path / FILE_NAME, create=False)
    assert not list(tmp_path.iterdir())


def test_a_commit_is_durable(tmp_path: Path) -> None:
    """The file is in WAL mode and every commit is synced (FULL = 2)."""
    with closing(connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_others_may_write_beside_it(tmp_path: Path) -> None:
    """A write waits for `retry` in another process rather than fail."""
    async with Ledger(tmp_path) as ledger:
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            write = asyncio.create_task(ledger.opened(job(1), ROOT))
            await asyncio.wait([write], timeout=0.2)
            other.execute("ROLLBACK")
        await eventually(write.done)
        await write
