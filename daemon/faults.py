"""Whose fault it is: the environment's, which costs no document anything, or that file's.

An error number can settle it (a full disk is never the document's fault).  Otherwise a probe does: if a file of our
own in the same folders can be written, synced and deleted, it was the document's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.durable import exists, probe
from daemon.roots import RootAway
from deepseek_ocr.errors import DocumentError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daemon.roots import Root

#: What only a machine, a disk or a server can be to blame for (errno(3)).
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
ENVIRONMENT = FULL | frozenset(
    {
        errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ETIMEDOUT, errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.EREMOTEIO,
        errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH,
    }
)  # fmt: skip


class NoPermission(DocumentError):
    """The service may not read the file."""

    slug = "no_permission"
    remedy = "Give the service's user read access to the file (or copy it as yourself), then drop it again."


class GaveUp(DocumentError):
    """Every attempt ended the process or failed for a reason nobody foresaw."""

    slug = "gave_up"
    remedy = "Export or scan the document again; if it still fails, send it to the operator with the service's log."


class SourceChanged(Exception):
    """The source was written to after its claim."""


def environment_fault(root: Root, error: OSError, suspects: Iterable[Path] = ()) -> str | None:
    """The reason in words if the environment is at fault, else None.  Blocks; touches the share.

    `suspects` are folders to probe beside the ones every document needs.
    """
    if error.errno in ENVIRONMENT:
        return describe(error)
    try:
        root.verify()
        needed = (root.work, root.outbox, root.staging, root.done, root.failed)
        for folder in (*needed, *filter(exists, suspects)):  # a subfolder that users took away harms nobody
            probe(folder)
    except RootAway as away:
        return str(away)
    except OSError as fault:
        return describe(fault)
    return None


def folders_of(root: Root, error: OSError) -> set[Path]:
    """The folders that an error is about, as far as documents end up in them."""
    named = {Path(os.fsdecode(name)).parent for name in (error.filename, error.filename2) if name}
    return {folder for folder in named if any(base in folder.parents for base in (root.outbox, root.done, root.failed))}


def describe(error: OSError) -> str:
    """An error in words for people."""
    return f"{error.strerror or error}" + (f" at {os.fsdecode(error.filename)}" if error.filename else "")


def free_mb(path: Path) -> float:
    """Free space for this user on the file system of a folder, in megabytes (10^6 bytes).  Blocks."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize / 1e6


def deciding(group: BaseExceptionGroup[Any]) -> BaseException:
    """The one failure of several pages that decides what happens to the job: the engine's before anything else."""
    for kind in (EngineError, DocumentError, OSError, Exception):
        error: BaseException | None = group.subgroup(kind)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            return error
    return group
