"""Writes and renames that mean what they say, on a local disk and on NFS.

Rules and their sources: fsync(2) must be checked and its first error is final, since a second call may succeed
although data is gone (seen on NFS with a full disk); a file's name is durable only after an fsync of its folder;
rename(2) on NFS may report an error although it has happened, when the server's answer was lost and the repeated
request found nothing (rename(2), BUGS; Postfix treats "old gone, new there" as success).

Everything here blocks; callers run it in threads.  A hard NFS mount may block for ever, so no thread that must
answer (the event loop, the watchdog) may call it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pydantic_core

if TYPE_CHECKING:
    from pathlib import Path

#: Names that start so are ours and temporary; a crash may leave one, recovery removes it.
TEMPORARY_PREFIX = ".ocr-daemon-tmp-"


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Create or replace the content of a file; with `sync` it is on the disk when this returns (its name is not)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        # NFS reports a full disk at close(2) at the latest; an error here is as final as one of fsync.
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace a file in one step: a reader, or a crash, finds the old content or the new."""
    temporary = path.with_name(TEMPORARY_PREFIX + path.name[-100:])
    write_file(temporary, data, sync=sync)
    move_over(temporary, path)
    if sync:
        sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where the file is missing, torn, or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def to_json(content: Any) -> bytes:
    """JSON in ASCII, so that names that are no UTF-8 (kept as surrogates) survive the way through a file."""
    # Python's own way to indent leaves 33 objects in cycles at each call: at 28 documents a second they made the
    # garbage collector stop the event loop for 40 ms every four seconds, and at times for 0.2 s (bench/LOG.md).
    try:
        data = pydantic_core.to_json(content, indent=1, ensure_ascii=True)
    except pydantic_core.PydanticSerializationError:  # it takes no surrogates
        data = json.dumps(content, indent=1).encode("ascii")
    return data + b"\n"


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename to a name that is free; an error that comes although the rename has happened is none.

    Raises `FileExistsError` rather than replace another file.  The check before the rename is enough as long as one
    daemon owns the folder; RENAME_NOREPLACE would be better, but NFS does not have it (rename(2)).
    """
    before = os.lstat(source)
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)
        raise FileExistsError(17, "the name is taken", os.fspath(target))
    try:
        source.rename(target)
    except OSError:
        if exists(source) or not exists(target) or os.lstat(target).st_ino != before.st_ino:
            raise


def move_over(source: Path, target: Path) -> None:
    """Rename over our own earlier try, with the same care."""
    before = os.lstat(source)
    try:
        source.replace(target)
    except OSError:
        if exists(source) or not exists(target) or os.lstat(target).st_ino != before.st_ino:
            raise


def publish_file(staged: Path, target: Path) -> None:
    """Rename over our own earlier try; raises `OSError` where it is not whole then.

    A rename on a full NFS server was seen to lose the file although it reported success.
    """
    size = os.lstat(staged).st_size
    move_over(staged, target)
    if os.lstat(target).st_size != size:
        raise OSError(errno.EIO, "the file is not what was written", os.fspath(target))


def publish_folder(staged: Path, target: Path) -> None:
    """The same for a folder of files, which takes the place of an earlier one."""
    names = {path.name for path in staged.iterdir()}
    remove_tree(target)  # a folder is not renamed over one with files in it
    move(staged, target)
    if {path.name for path in target.iterdir()} != names:
        raise OSError(errno.EIO, "the folder is not what was written", os.fspath(target))


def exists(path: Path) -> bool:
    """Whether there is such a name (a dangling symlink counts); raises `OSError` if that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_folders(base: Path, relative: Path) -> Path:
    """`base / relative` with its missing folders; never `base` itself, which is missing if a share is not mounted."""
    folder = base
    for part in relative.parts:
        folder /= part
        try:
            folder.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise
        else:
            sync_folder(folder.parent)
    return folder


def remove_tree(folder: Path) -> None:
    """Delete a folder of ours with all it holds; what is gone already is no error, and no link is followed."""
    try:
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            folder.unlink()
            return
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def refuse_links(base: Path, relative: Path) -> None:
    """Raise `NotADirectoryError` where a folder between `base` and the last part of `relative` is a link.

    Residual risk: one that is put there between this look and the next call; the share's users can write there.
    """
    folder = base
    for part in relative.parts[:-1]:
        folder /= part
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "a link is no folder of the inbox", os.fspath(folder))


def probe(folder: Path) -> None:
    """Write, sync and delete a file in a folder; raises `OSError` if the folder is not fit to work in."""
    path = folder / f"{TEMPORARY_PREFIX}probe-{os.getpid()}"
    try:
        write_file(path, b"probe\n")
    finally:
        path.unlink(missing_ok=True)
