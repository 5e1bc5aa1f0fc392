"""The account of every document ever claimed: SQLite on a local disk, off the event loop.

The disk is the truth, this is the account of it: `recover` repeats what a crash kept from being written here, and
every write may be repeated.  WAL with synchronous=FULL, so that a committed row survives a power cut; writes that
come while a commit is under way share the next one, because a commit costs an fsync.  One that fails by itself fails
for its caller only.

One thread owns the connection.  Other processes (`retry`, `audit`) open the same file beside it; WAL allows that on
a local disk, never on a network file system.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.job import Job

T = TypeVar("T")

FILE_NAME = "ledger.sqlite3"
_SCHEMA_VERSION = 1
#: Paths are bytes: a name on a Unix disk need not be text.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS roots (
    path BLOB PRIMARY KEY, root_id TEXT NOT NULL, first_seen REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY,
    root_id TEXT NOT NULL,
    inbox TEXT NOT NULL,
    path BLOB NOT NULL,
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    claimed_at REAL NOT NULL,
    status TEXT NOT NULL DEFAULT 'open',
    reason TEXT NOT NULL DEFAULT '',
    pages INTEGER NOT NULL DEFAULT 0,
    bad_pages INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    sha256 TEXT NOT NULL DEFAULT '',
    finished_at REAL,
    retried_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (root_id, status, retried_at);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the account."""

    job_id: str
    root_id: str
    inbox: str
    path: str
    name: str
    size: int
    #: open | done | partial | failed
    status: str
    reason: str
    pages: int
    #: Unix time, seconds; None while open.
    finished_at: float | None
    #: When `retry` gave the original back to the inbox; the document then counts as its new job.
    retried_at: float | None


#: What to do with the connection, and where to put what came of it.
_Request = tuple["Callable[[sqlite3.Connection], Any]", "asyncio.Future[Any]"]
_Answer = tuple["asyncio.Future[Any]", Any, "Exception | None"]


class Ledger:
    """Asynchronous face of the ledger; every method returns after its commit."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: The last totals, and after which changes, others' and our own, they were counted.
        self._counted: tuple[tuple[int, int], dict[str, dict[str, int]]] | None = None

    async def __aenter__(self) -> Self:
        """Open the file, or make it; raises `sqlite3.Error` or `OSError`."""
        self._loop = asyncio.get_running_loop()
        connection = connect(self.path)
        self._file = self.path.stat()
        self._thread = threading.Thread(target=self._serve, args=(connection,), name="ledger", daemon=True)
        self._thread.start()
        return self

    def is_there(self) -> bool:
        """Whether the open file is still the one of its name: SQLite goes on in one that was deleted.  Blocks."""
        try:
            return os.path.samestat(self.path.stat(), self._file)
        except FileNotFoundError:
            return False

    async def __aexit__(self, *_: object) -> None:
        """Finish what was asked and close the file."""
        self._requests.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _serve(self, connection: sqlite3.Connection) -> None:
        more = True
        while more:
            batch = [self._requests.get()]
            while not self._requests.empty():
                batch.append(self._requests.get())
            more = None not in batch
            answers = self._carry_out(connection, [request for request in batch if request is not None])
            if answers:
                self._loop.call_soon_threadsafe(_resolve, answers)
        connection.close()

    def _carry_out(self, connection: sqlite3.Connection, batch: list[_Request]) -> list[_Answer]:
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                return [(future, *_try(connection, request)) for request, future in batch]
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers wait for an answer
            self._counted = None
            return [(future, None, error) for _, future in batch]

    async def _ask(self, request: Callable[[sqlite3.Connection], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._requests.put((request, future))
        return await future

    async def root_id(self, path: Path) -> str | None:
        """The id of the root that was last seen at a path; None if none ever was."""

        def request(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT root_id FROM roots WHERE path = ?", (os.fsencode(path),)).fetchone()
            return row[0] if row else None

        return await self._ask(request)

    async def remember_root(self, path: Path, root_id: str, now: float) -> None:
        """From now on this path without its marker is an unmounted share."""
        await self._ask(
            lambda connection: connection.execute(
                "INSERT INTO roots VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE SET root_id = excluded.root_id",
                (os.fsencode(path), root_id, now),
            )
        )

    async def opened(self, job: Job, root_id: str) -> None:
        """A job was claimed; repeating it changes nothing but the name, which may have been taken meanwhile."""
        values = (
            job.job_id, root_id, job.inbox, os.fsencode(job.path), os.fsencode(job.name), job.sample.size,
            job.claimed_at,
        )  # fmt: skip
        await self._ask(
            lambda connection: connection.execute(
                "INSERT INTO jobs (job_id, root_id, inbox, path, name, size, claimed_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET name = excluded.name",
                values,
            )
        )

    async def closed(self, job: Job, root_id: str, account: dict[str, Any]) -> None:
        """A job ended with the given account (the content of its mark); repeating it changes nothing."""
        values = (
            job.job_id, root_id, job.inbox, os.fsencode(job.path), os.fsencode(job.name), job.sample.size,
            job.claimed_at,
            account["status"], account.get("reason") or "", account.get("pages") or 0,
            account.get("bad_pages") or 0, job.attempts, account.get("seconds") or 0, account.get("sha256") or "",
            account["finished_at"],
        )  # fmt: skip
        await self._ask(
            lambda connection: connection.execute(
                # `retried_at` stays: `retry` may have come between a close and its repetition after a crash.
                "INSERT INTO jobs (job_id, root_id, inbox, path, name, size, claimed_at, status, reason, pages, "
                "bad_pages, attempts, seconds, sha256, finished_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (job_id) DO UPDATE SET name = excluded.name, "
                "status = excluded.status, reason = excluded.reason, "
                "pages = excluded.pages, bad_pages = excluded.bad_pages, attempts = excluded.attempts, "
                "seconds = excluded.seconds, sha256 = excluded.sha256, finished_at = excluded.finished_at",
                values,
            )
        )

    async def given_back(self, job_id: str, now: float) -> None:
        """The file of an open job went back to the inbox: the document counts as its new job.

        One that has ended stays what it is: the service may have been killed while it removed the job's folder.
        """
        await self._ask(
            lambda connection: connection.execute(
                "UPDATE jobs SET retried_at = ? WHERE job_id = ? AND status = 'open'", (now, job_id)
            )
        )

    async def totals(self) -> dict[str, dict[str, int]]:
        """Documents by root and status, over all time; counted anew only after a change."""

        def request(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
            others = connection.execute("PRAGMA data_version").fetchone()[0]
            changes = (others, connection.total_changes)
            if self._counted is None or self._counted[0] != changes:
                self._counted = (changes, totals(connection))
            return self._counted[1]

        return await self._ask(request)


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """Open a ledger file; raises `sqlite3.Error`, or `FileNotFoundError` if it is missing and not to be made."""
    if not create and not path.exists():
        raise FileNotFoundError(2, "there is no ledger yet", os.fspath(path))
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"{path} was written by a newer version of ocr-daemon")
    if version < _SCHEMA_VERSION:
        connection.executescript(_SCHEMA + f"PRAGMA user_version = {_SCHEMA_VERSION};")


def totals(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Documents by root and status; one that was given back for another try counts as its new job only."""
    by_root: dict[str, dict[str, int]] = {}
    for root_id, status, count in connection.execute(
        "SELECT root_id, status, count(*) FROM jobs WHERE retried_at IS NULL GROUP BY root_id, status"
    ):
        by_root.setdefault(root_id, {})[status] = count
    return by_root


def entries(connection: sqlite3.Connection, root_id: str, status: str | None = None) -> list[Entry]:
    """The rows of one root, oldest first."""
    rows = connection.execute(
        "SELECT job_id, root_id, inbox, path, name, size, status, reason, pages, finished_at, retried_at FROM jobs "
        "WHERE root_id = ? AND (? IS NULL OR status = ?) ORDER BY job_id",
        (root_id, status, status),
    )
    return [Entry(row[0], row[1], row[2], os.fsdecode(row[3]), os.fsdecode(row[4]), *row[5:]) for row in rows]


def mark_retried(connection: sqlite3.Connection, job_id: str, now: float) -> None:
    """The original of a failed job went back to the inbox."""
    connection.execute("UPDATE jobs SET retried_at = ? WHERE job_id = ?", (now, job_id))


def known_root(connection: sqlite3.Connection, path: Path) -> str | None:
    """The id of the root that was last seen at a path."""
    row = connection.execute("SELECT root_id FROM roots WHERE path = ?", (os.fsencode(path),)).fetchone()
    return row[0] if row else None


def forget_root(connection: sqlite3.Connection, path: Path) -> None:
    """The next start may set the folder up anew."""
    connection.execute("DELETE FROM roots WHERE path = ?", (os.fsencode(path),))


def _try(connection: sqlite3.Connection, request: Callable[[sqlite3.Connection], Any]) -> tuple[Any, Exception | None]:
    """The result of one request, or its error with all it did undone; raises what undoes the whole batch."""
    connection.execute("SAVEPOINT request")
    try:
        result = request(connection)
    except Exception as error:
        if not connection.in_transaction:  # a full or failing disk: SQLite has rolled back everything
            raise
        connection.execute("ROLLBACK TO request")
        connection.execute("RELEASE request")
        return None, error
    connection.execute("RELEASE request")
    return result, None


def _resolve(answers: list[_Answer]) -> None:
    for future, result, error in answers:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
