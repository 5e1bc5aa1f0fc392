"""Every rename, write and delete of a document in a share, and what a crash at any of them leaves to do.

The order is the promise.  Claim: job folder, job.json, both durable, then the rename.  Publish: outputs durable in
staging, renamed in, folder synced, the manifest last.  Then the mark in the job folder, then (by the caller) the
ledger, and the source moves last.  So wherever it stops, `recover` finds the source in exactly one place and knows
from the files beside it what is still to do.

Residual risk: a person who writes into work/ or outbox/.staging/ by hand can confuse it; both are ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from daemon.durable import (
    TEMPORARY_PREFIX,
    exists,
    make_folders,
    move,
    publish_file,
    publish_folder,
    read_json,
    refuse_links,
    remove_tree,
    sync_folder,
    to_json,
    write_atomic,
    write_file,
)
from daemon.job import Job, Sample
from daemon.names import IMAGES_SUFFIX, LONGEST_NAME_BYTES, MANIFEST_SUFFIX, REASON_SUFFIXES, Names

if TYPE_CHECKING:
    from daemon.roots import Root

JOB_FILE = "job.json"
#: As `claim` makes them.
JOB_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{10}")
#: The mark that all outputs are durable; its content is the account of the job.
PUBLISHED = "published.json"
#: The mark that the reason of a failure is durable beside where the source will lie.
FAILED = "failed.json"


@dataclass(frozen=True, slots=True)
class Recovered:
    """A job that an earlier process left behind."""

    job: Job
    #: The account that its mark holds, if it came that far; without one it has to run.
    account: dict[str, Any] | None


class Folders:
    """The documents of one root; one instance per root, calls may come from several threads."""

    def __init__(self, root: Root, instance: str) -> None:
        self.root = root
        self._instance = instance
        self._names = Names(root)
        #: Claims that failed so that nobody could tell whether the file was moved, by job id; see `find_lost`.
        self.lost: dict[str, Job] = {}
        #: Jobs whose job.json was unreadable; `recover` gave their files back to the inbox.
        self.rescued: list[str] = []

    # -- claim

    def claim(self, path: str, sample: Sample, now: float) -> Job:
        """Take a settled file out of the inbox; raises `OSError` and leaves it there if that cannot be done.

        Where it cannot be told either whether that was done, the job is `lost` until the share answers again.
        """
        job_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{secrets.token_hex(5)}"
        job = Job(job_id, self.root.name, path, self._names.choose(job_id, path), sample, now)
        folder = self.job_folder(job)
        try:
            folder.mkdir()
            write_file(folder / JOB_FILE, _dump(job, self._instance))
            sync_folder(folder)
            sync_folder(self.root.work)
            # A marker left behind would release the next file of this name before it is complete.
            marker = self.root.inbox / f"{path}.done"
            if len(os.fsencode(marker.name)) <= LONGEST_NAME_BYTES:
                with contextlib.suppress(IsADirectoryError, PermissionError):  # a folder of that name is no marker
                    marker.unlink(missing_ok=True)
            refuse_links(self.root.inbox, Path(path))
            move(self.root.inbox / path, self.source(job))
        except OSError:
            try:
                has_come = exists(self.source(job))
            except OSError:
                self.lost[job_id] = job
                raise
            if has_come:
                return job  # only the server's answer was lost
            self._give_up(job)
            raise
        return job

    def find_lost(self) -> list[Job]:
        """The `lost` jobs whose file was moved, to be carried on; raises `OSError` if that still cannot be told.

        Where the file is still in the inbox the job is given up.  One that is in neither place is looked for again.
        """
        jobs = list(self.lost.values())
        came = [job for job in jobs if exists(self.source(job))]
        stayed = [job for job in jobs if job not in came and exists(self.root.inbox / job.path)]
        for job in stayed:
            self._give_up(job)
        return [job for job in came if self.lost.pop(job.job_id, None)]

    def _give_up(self, job: Job) -> None:
        """Forget a job whose file was not moved."""
        with contextlib.suppress(OSError):
            remove_tree(self.job_folder(job))
        self._names.release(job.job_id)
        self.lost.pop(job.job_id, None)

    def job_folder(self, job: Job) -> Path:
        """`work/<job id>/`."""
        return self.root.work / job.job_id

    def source(self, job: Job) -> Path:
        """Where the source lies while the job is open; only a harmless extension is kept."""
        extension = PurePosixPath(job.path).suffix.lower()
        return self.job_folder(job) / (
            "source" + (extension if re.fullmatch(r"\.[a-z0-9]{1,8}", extension) else ".bin")
        )

    def save(self, job: Job) -> None:
        """Make the job's present attempts and sample durable."""
        write_atomic(self.job_folder(job) / JOB_FILE, _dump(job, self._instance))

    # -- publish

    def open_staging(self, job: Job) -> Path:
        """An empty folder for the outputs while they are made."""
        staging = self.root.staging / job.job_id
        remove_tree(staging)
        staging.mkdir()
        return staging

    def publish(self, job: Job, outputs: list[str]) -> None:
        """Rename staged outputs in, in the order given, then the manifest; all of them must be synced already.

        `outputs` are names in the staging folder, of files and of the folder of pictures, without the manifest.  Own
        outputs of an earlier, interrupted try are replaced; until the manifest is out they are nobody's.  Raises
        `FileExistsError` rather than replace the manifest of another document.
        """
        if self._is_taken(job):
            raise FileExistsError(17, "another document has this name", os.fspath(self._manifest(job)))
        staging = self.root.staging / job.job_id
        target = make_folders(self.root.outbox, Path(job.name).parent)
        for name in outputs:
            publish = publish_folder if name.endswith(IMAGES_SUFFIX) else publish_file
            publish(staging / name, target / name)
        sync_folder(target)
        # Before the manifest says that it is complete: after a power cut the source must not be in the inbox again.
        sync_folder(self.job_folder(job))
        manifest = self._manifest(job)
        publish_file(staging / manifest.name, manifest)
        sync_folder(target)

    def _manifest(self, job: Job) -> Path:
        return self.root.outbox / f"{job.name}{MANIFEST_SUFFIX}"

    def _is_taken(self, job: Job) -> bool:
        """Whether a manifest that is not this job's has its name."""
        manifest = self._manifest(job)
        return exists(manifest) and (read_json(manifest) or {}).get("job_id") != job.job_id

    def write_error(self, job: Job, error: dict[str, Any], sentence: str) -> None:
        """Put the reason of a failure where the source will lie, for programs and for people."""
        folder = make_folders(self.root.failed, Path(job.name).parent)
        name = Path(job.name).name
        write_file(folder / f"{name}.error.json", to_json(error))
        write_file(folder / f"{name}.error.txt", sentence.encode("utf-8", "backslashreplace"))
        sync_folder(folder)

    def mark(self, job: Job, mark: str, account: dict[str, Any]) -> None:
        """Leave the durable mark from which the rest follows, whoever does it."""
        # Where somebody has cleared work/, the job still has to end; without work/ itself it waits.
        with contextlib.suppress(FileExistsError):
            self.job_folder(job).mkdir()
            self.save(job)  # without it the next start would take the folder for a damaged one
            sync_folder(self.root.work)
        write_atomic(self.job_folder(job) / mark, to_json(account))

    def finish(self, job: Job, mark: str) -> None:
        """Move the source to its last place and clear the job's own folders; safe to repeat."""
        base = self.root.done if mark == PUBLISHED else self.root.failed
        source = self.source(job)
        if exists(source):
            folder = make_folders(base, Path(job.name).parent)
            try:
                move(source, folder / Path(job.name).name)
            except FileExistsError:  # somebody else put a file there since the name was chosen
                move(source, folder / f"{job.job_id}{source.suffix}")
            sync_folder(folder)
        if mark == PUBLISHED:
            self._withdraw_error(job)
        remove_tree(self.root.staging / job.job_id)
        remove_tree(self.job_folder(job))
        self._names.release(job.job_id)

    def _withdraw_error(self, job: Job) -> None:
        """Remove the reason that an earlier try left, which was stopped before it had failed."""
        texts = [self.root.failed / f"{job.name}{suffix}" for suffix in REASON_SUFFIXES]
        if (read_json(texts[0]) or {}).get("job_id") == job.job_id:
            for path in reversed(texts):  # the one that says whose they are goes last
                path.unlink(missing_ok=True)

    def expire_done(self, before: float) -> int:
        """Delete originals that came to done/ before a time (Unix, seconds); returns how many.

        The time is that of the last change of the file's status, which the rename into done/ is.
        """
        count = 0
        for folder, _, names in os.walk(self.root.done):
            for name in names:
                path = Path(folder) / name
                with contextlib.suppress(FileNotFoundError):  # users take originals away too
                    if os.lstat(path).st_ctime < before:
                        path.unlink()
                        count += 1
        return count

    # -- after a stop

    def recover(self) -> list[Recovered]:
        """What earlier processes left in work/, oldest first; clears what never became a job."""
        for folder in (self.root.path, *self.root.folders):
            for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
                if path.is_symlink() or path.is_file():
                    path.unlink(missing_ok=True)
        found: list[Recovered] = []
        for folder in sorted(self.root.work.iterdir()):
            if not JOB_ID.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
                continue  # somebody else's, and none of our business
            job = _load(folder)
            sources = [path for path in folder.iterdir() if path.name.startswith("source.")]
            if job is None:
                self._rescue(folder, sources)
                continue
            job = replace(job, inbox=self.root.name)  # the inbox may have got another name
            account = self.account_left(job)
            if account is None and not sources:
                remove_tree(folder)  # it stopped before the rename: the file is still in the inbox
                continue
            self._names.reserve(job.job_id, job.name)
            found.append(Recovered(job, account))
        open_jobs = {one.job.job_id for one in found}
        for path in self.root.staging.iterdir():
            if path.name not in open_jobs and path.is_dir():
                remove_tree(path)
        return [
            one if one.account or not self._is_taken(one.job) else Recovered(self.rename(one.job), None)
            for one in found
        ]

    def rename(self, job: Job) -> Job:
        """The job under another name, because somebody else has got its own meanwhile."""
        job = replace(job, name=self._names.choose(job.job_id, job.path))
        self.save(job)
        return job

    def account_left(self, job: Job) -> dict[str, Any] | None:
        """The account of a job whose outcome is durable already, from its mark or its manifest; else None.

        Once the manifest is out nothing of the document changes any more.
        """
        for mark in (PUBLISHED, FAILED):
            account = read_json(self.job_folder(job) / mark)
            if account is not None and _is_account(account, job):
                return account
        manifest = read_json(self._manifest(job))
        if manifest is None or not _is_account(manifest, job):
            return None
        self.mark(job, PUBLISHED, manifest)
        return manifest

    def _rescue(self, folder: Path, sources: list[Path]) -> None:
        """A folder without a readable job.json: what document it holds goes back to the inbox under a new name."""
        for source in sources:
            move(source, self.root.inbox / f"recovered-{folder.name}{source.suffix}")
        remove_tree(self.root.staging / folder.name)
        remove_tree(folder / "pages")
        for name in (JOB_FILE, PUBLISHED, FAILED):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what else lies there is a person's
            folder.rmdir()
        self.rescued.append(folder.name)


def take_sample(path: Path) -> Sample:
    """Size, time and inode, by open and fstat.

    A plain stat may be answered from the NFS attribute cache: seen 17 s stale, so that a growing file looks settled.
    O_NOFOLLOW and the type check keep links, pipes and devices out; O_NONBLOCK keeps a pipe from blocking.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(21, "not a regular file", os.fspath(path))
    return Sample(status.st_size, status.st_mtime_ns, status.st_ino)


def has_content(path: Path) -> bool:
    """Whether a file that was empty, or closed to us, has something to read by now."""
    try:
        return take_sample(path).size > 0
    except PermissionError:
        return False


def hash_file(path: Path) -> str:
    """SHA-256 of the content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(job: Job, instance: str) -> bytes:
    return to_json(
        {
            "version": 1,
            "job_id": job.job_id,
            "inbox": job.inbox,
            "path": job.path,
            "name": job.name,
            "size": job.sample.size,
            "mtime_ns": job.sample.mtime_ns,
            "inode": job.sample.inode,
            "claimed_at": job.claimed_at,
            "attempts": job.attempts,
            "solo": job.solo,
            "instance": instance,
            "host": os.uname().nodename,
        }
    )


def _load(folder: Path) -> Job | None:
    content = read_json(folder / JOB_FILE)
    if content is None or content.get("job_id") != folder.name:
        return None
    try:
        job = Job(
            job_id=content["job_id"],
            inbox=content["inbox"],
            path=content["path"],
            name=content["name"],
            sample=Sample(content["size"], content["mtime_ns"], content["inode"]),
            claimed_at=content["claimed_at"],
            attempts=content["attempts"],
            solo=content["solo"],
        )
    except KeyError:
        return None
    numbers = (job.sample.size, job.sample.mtime_ns, job.claimed_at, job.attempts, job.solo)
    return job if all(map(_inside, (job.path, job.name))) and all(map(_is_number, numbers)) else None


def _is_account(content: dict[str, Any], job: Job) -> bool:
    """Whether a mark or a manifest is this job's, with values that the ledger can hold; the share is open to others."""
    return (
        content.get("job_id") == job.job_id
        and content.get("status") in {"done", "partial", "failed"}
        and all(isinstance(content.get(key), str) for key in ("reason", "name"))
        and _is_number(content.get("finished_at"))
        and all(_is_number(content.get(key) or 0) for key in ("pages", "bad_pages", "seconds"))
        and isinstance(content.get("sha256") or "", str)
    )


def _is_number(value: object) -> bool:
    """A number that fits into 63 bits (no infinity, and nothing that is none)."""
    return isinstance(value, int | float) and abs(value) < 2**63


def _inside(path: object) -> bool:
    """Whether a path from a file in the share stays below the folder it is joined to."""
    try:
        raw = os.fsencode(path) if isinstance(path, str) else b""
    except UnicodeEncodeError:
        return False
    return b"\0" not in raw and not {b"", b".", b".."} & set(raw.split(b"/"))
