"""The folders of a root that is ours, and the way of a document through them, without a service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.config import Inbox
from daemon.folders import FAILED, PUBLISHED, Folders, take_sample
from daemon.outputs import write_manifest
from daemon.roots import Root, this_owner

if TYPE_CHECKING:
    from daemon.job import Job, Sample

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
