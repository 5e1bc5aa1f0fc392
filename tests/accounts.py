"""A root and its ledger with documents that have come to any end, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.config import Inbox, Service, Settings
from daemon.folders import FAILED, PUBLISHED, Folders, take_sample
from daemon.outputs import append_lines, write_manifest
from daemon.roots import Root, this_owner

if TYPE_CHECKING:
    from daemon.job import Job
    from daemon.ledger import Ledger


class Office:
    """One inbox; `ledger` is entered by the test."""

    def __init__(self, folder: Path, ledger: Ledger, **inbox: Any) -> None:
        self.settings = Settings(
            service=Service(instance="north", state_dir=folder), inbox=(Inbox(root=folder / "root", **inbox),)
        )
        self.root = Root(self.settings.inbox[0])
        self.root.adopt(this_owner("north"), known_id=None, now=1.0)
        self.folders = Folders(self.root, "north")
        self.lines = self.root.outbox / "manifest-north.jsonl"
        self._ledger = ledger
        self._now = 100.0

    async def claim(self, name: str, content: bytes = b"content") -> Job:
        """An open document."""
        path = self.root.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        job = self.folders.claim(name, take_sample(path), self._now)
        await self._ledger.opened(job, self.root.root_id)
        return job

    async def done(self, name: str, *, status: str = "done") -> Job:
        """A document that was read."""
        job = await self.claim(name)
        staging = self.folders.open_staging(job)
        output = f"{Path(job.name).name}.md"
        (staging / output).write_bytes(b"text")
        account = self._account(job, status)
        write_manifest(staging, Path(job.name).name, account)
        self.folders.publish(job, [output])
        self.folders.mark(job, PUBLISHED, account)
        await self._close(job, account, PUBLISHED)
        return job

    async def failed(self, name: str, *, reason: str = "corrupt") -> Job:
        """A document that could not be read."""
        job = await self.claim(name)
        account = self._account(job, "failed", reason)
        self.folders.write_error(job, account, "What to do: nothing.\n")
        self.folders.mark(job, FAILED, account)
        await self._close(job, account, FAILED)
        return job

    def _account(self, job: Job, status: str, reason: str = "") -> dict[str, Any]:
        self._now += 1
        return {"job_id": job.job_id, "status": status, "reason": reason, "finished_at": self._now}

    async def _close(self, job: Job, account: dict[str, Any], mark: str) -> None:
        append_lines(self.lines, [account])
        await self._ledger.closed(job, self.root.root_id, account)
        self.folders.finish(job, mark)
