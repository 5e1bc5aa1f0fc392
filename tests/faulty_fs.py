"""A file system that passes everything through to a folder, and fails when it is told to: FUSE without a library.

Run as `python faulty_fs.py BACKING MOUNT RULES` (root, /dev/fuse).  RULES is a file outside of both, read before every
operation, one rule per line: OPERATION PART-OF-THE-PATH ACTION.  An operation is a name in `_OPERATIONS` or `*`; an
action is an errno name, `lie:` and an errno name (it is done, and then reported as failed), or `hang:` and seconds.

Nothing is cached by the kernel, and one operation is served at a time, so while one hangs all of them do.
The layout of the messages is that of linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = 1
_HEADER = struct.Struct("<IIQQIIIHH")
_FH_VALID, _SIZE_VALID, _MODE_VALID = 64, 8, 1
_MAX_WRITE = 131_072


class FaultyFs:
    """Serves one mount until it is gone."""

    def __init__(self, backing: str, rules: str) -> None:
        self._rules = rules
        self._paths = {_ROOT: os.fsencode(backing)}
        self._ids = {os.fsencode(backing): _ROOT}
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}
        self._next = _ROOT

    def serve(self, device: int) -> None:
        """Answer until the mount is gone."""
        while True:
            try:
                message = os.read(device, _MAX_WRITE + 4096)
            except InterruptedError:
                continue
            except OSError:  # ENODEV: unmounted
                return
            _, opcode, unique, node, *_ = _HEADER.unpack_from(message)
            if opcode not in _OPERATIONS:
                self._answer(device, unique, errno.ENOSYS, b"")
                continue
            name, operation = _OPERATIONS[opcode]
            if name in {"forget", "interrupt", "batch_forget"}:
                continue
            try:
                code, answer = 0, self._run(name, operation, node, message[_HEADER.size :])
            except OSError as error:
                code, answer = error.errno or errno.EIO, b""
            self._answer(device, unique, code, answer)

    @staticmethod
    def _answer(device: int, unique: int, code: int, answer: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # ENOENT: who asked has been killed
            os.write(device, struct.pack("<IiQ", 16 + len(answer), -code, unique) + answer)

    def _run(
        self, name: str, operation: Callable[[FaultyFs, int, bytes], bytes], node: int, body: bytes
    ) -> bytes:  # fmt: skip
        action = self._action(name, node, body)
        kind, _, value = action.partition(":")
        if kind == "hang":
            time.sleep(float(value))
        elif action and kind != "lie":
            raise OSError(getattr(errno, action), "injected")
        answer = operation(self, node, body)
        if kind == "lie":
            raise OSError(getattr(errno, value), "injected")
        return answer

    def _action(self, name: str, node: int, body: bytes) -> str:
        try:
            rules = Path(self._rules).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return ""
        path = os.fsdecode(self._paths.get(node, b"") + b"/" + body)
        for rule in rules:
            operation, part, action = rule.split()
            if operation in {name, "*"} and part in path and name != "init":
                return action
        return ""

    # -- nodes

    def _path(self, node: int, name: bytes | None = None) -> bytes:
        if node not in self._paths:
            raise OSError(errno.ESTALE, "the node is gone")
        return self._paths[node] + (b"/" + name if name is not None else b"")

    def _node(self, path: bytes) -> int:
        if path not in self._ids:
            self._next += 1
            self._ids[path], self._paths[self._next] = self._next, path
        return self._ids[path]

    def _moved(self, old: bytes, new: bytes) -> None:
        self._gone(new)
        for path in [path for path in self._ids if path == old or path.startswith(old + b"/")]:
            node = self._ids.pop(path)
            self._paths[node] = new + path[len(old) :]
            self._ids[self._paths[node]] = node

    def _gone(self, path: bytes) -> None:
        node = self._ids.pop(path, None)
        if node is not None:
            del self._paths[node]

    def _entry(self, path: bytes) -> bytes:
        attributes = _attributes(os.lstat(path))
        return struct.pack("<QQQQII", self._node(path), 0, 0, 0, 0, 0) + attributes

    # -- operations

    def init(self, _: int, body: bytes) -> bytes:
        """Agree on the protocol."""
        major, _minor, readahead, _flags = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHH8I", major, 31, readahead, 0, 12, 9, _MAX_WRITE, 1, 0, 0, *[0] * 8)

    def lookup(self, node: int, body: bytes) -> bytes:
        """A name in a folder."""
        return self._entry(self._path(node, body[:-1]))

    def getattr(self, node: int, body: bytes) -> bytes:
        """Stat and fstat."""
        flags, _, handle = struct.unpack_from("<IIQ", body)
        status = os.fstat(handle) if flags & 1 else os.lstat(self._path(node))
        return struct.pack("<QII", 0, 0, 0) + _attributes(status)

    def setattr(self, node: int, body: bytes) -> bytes:
        """Size and mode; times and owners stay."""
        valid, _, handle, size = struct.unpack_from("<IIQQ", body)
        (mode,) = struct.unpack_from("<I", body, 68)
        if valid & _SIZE_VALID:
            os.truncate(handle if valid & _FH_VALID else self._path(node), size)
        if valid & _MODE_VALID:
            os.chmod(self._path(node), mode & 0o7777)  # noqa: PTH101 - bytes
        status = os.fstat(handle) if valid & _FH_VALID else os.lstat(self._path(node))
        return struct.pack("<QII", 0, 0, 0) + _attributes(status)

    def mkdir(self, node: int, body: bytes) -> bytes:
        """A new folder."""
        mode, umask = struct.unpack_from("<II", body)
        path = self._path(node, body[8:-1])
        os.mkdir(path, mode & ~umask)  # noqa: PTH102 - bytes
        return self._entry(path)

    def unlink(self, node: int, body: bytes) -> bytes:
        """Delete a file."""
        path = self._path(node, body[:-1])
        os.unlink(path)  # noqa: PTH108 - bytes
        self._gone(path)
        return b""

    def rmdir(self, node: int, body: bytes) -> bytes:
        """Delete a folder."""
        path = self._path(node, body[:-1])
        os.rmdir(path)  # noqa: PTH106 - bytes
        self._gone(path)
        return b""

    def rename(self, node: int, body: bytes) -> bytes:
        """Rename."""
        return self._rename(node, struct.unpack_from("<Q", body)[0], body[8:])

    def rename2(self, node: int, body: bytes) -> bytes:
        """Rename, with flags that nobody here sets."""
        return self._rename(node, struct.unpack_from("<Q", body)[0], body[16:])

    def _rename(self, node: int, to: int, names: bytes) -> bytes:
        old, new, _ = names.split(b"\0")
        source, target = self._path(node, old), self._path(to, new)
        os.rename(source, target)  # noqa: PTH104 - bytes
        self._moved(source, target)
        return b""

    def open(self, node: int, body: bytes) -> bytes:
        """Open a file."""
        (flags,) = struct.unpack_from("<I", body)
        return struct.pack("<QII", os.open(self._path(node), flags & ~os.O_APPEND & ~os.O_NOFOLLOW), 0, 0)

    def create(self, node: int, body: bytes) -> bytes:
        """Make and open a file."""
        flags, mode, umask, _ = struct.unpack_from("<IIII", body)
        path = self._path(node, body[16:-1])
        handle = os.open(path, flags & ~os.O_APPEND | os.O_CREAT, mode & 0o7777 & ~umask)
        return self._entry(path) + struct.pack("<QII", handle, 0, 0)

    def read(self, _: int, body: bytes) -> bytes:
        """Bytes of an open file."""
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def write(self, _: int, body: bytes) -> bytes:
        """Bytes into an open file."""
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def fsync(self, _: int, body: bytes) -> bytes:
        """Make an open file durable."""
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def release(self, _: int, body: bytes) -> bytes:
        """Close a file."""
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def nothing(self, _node: int, _body: bytes) -> bytes:
        """What needs no answer but that all is well."""
        return b""

    def statfs(self, _node: int, _body: bytes) -> bytes:
        """Free space."""
        of = os.statvfs(self._paths[_ROOT])
        numbers = (of.f_blocks, of.f_bfree, of.f_bavail, of.f_files, of.f_ffree, of.f_bsize, of.f_namemax, of.f_frsize)
        return struct.pack("<QQQQQIIII6I", *numbers, 0, *[0] * 6)

    def opendir(self, node: int, _body: bytes) -> bytes:
        """Begin a listing."""
        with os.scandir(self._path(node)) as entries:
            listing = [
                (entry.name, entry.inode(), 4 if entry.is_dir(follow_symlinks=False) else 8) for entry in entries
            ]
        handle = max(self._listings, default=0) + 1
        self._listings[handle] = [(b".", 1, 4), (b"..", 1, 4), *listing]
        return struct.pack("<QII", handle, 0, 0)

    def readdir(self, _: int, body: bytes) -> bytes:
        """A piece of a listing."""
        handle, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        for number, (name, inode, kind) in enumerate(self._listings[handle][offset:], offset + 1):
            entry = struct.pack("<QQII", inode, number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def releasedir(self, _: int, body: bytes) -> bytes:
        """End a listing."""
        del self._listings[struct.unpack_from("<Q", body)[0]]
        return b""


def _attributes(status: os.stat_result) -> bytes:
    times = [divmod(ns, 10**9) for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    return struct.pack(
        "<QQQQQQIIIIIIIIII", status.st_ino, status.st_size, status.st_blocks, *(second for second, _ in times),
        *(ns for _, ns in times), status.st_mode, status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0,
    )  # fmt: skip


_OPERATIONS: dict[int, tuple[str, Callable[[FaultyFs, int, bytes], bytes]]] = {
    1: ("lookup", FaultyFs.lookup),
    2: ("forget", FaultyFs.nothing),
    3: ("getattr", FaultyFs.getattr),
    4: ("setattr", FaultyFs.setattr),
    9: ("mkdir", FaultyFs.mkdir),
    10: ("unlink", FaultyFs.unlink),
    11: ("rmdir", FaultyFs.rmdir),
    12: ("rename", FaultyFs.rename),
    14: ("open", FaultyFs.open),
    15: ("read", FaultyFs.read),
    16: ("write", FaultyFs.write),
    17: ("statfs", FaultyFs.statfs),
    18: ("release", FaultyFs.release),
    20: ("fsync", FaultyFs.fsync),
    25: ("flush", FaultyFs.nothing),
    26: ("init", FaultyFs.init),
    27: ("opendir", FaultyFs.opendir),
    28: ("readdir", FaultyFs.readdir),
    29: ("releasedir", FaultyFs.releasedir),
    30: ("fsyncdir", FaultyFs.nothing),
    35: ("create", FaultyFs.create),
    36: ("interrupt", FaultyFs.nothing),
    38: ("destroy", FaultyFs.nothing),
    42: ("batch_forget", FaultyFs.nothing),
    45: ("rename", FaultyFs.rename2),
}


def main() -> int:
    """Mount and serve."""
    backing, point, rules = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"faults", os.fsencode(point), b"fuse.faults", 0, options):
        sys.stderr.write(f"mount: {os.strerror(ctypes.get_errno())}\n")
        return 1
    FaultyFs(backing, rules).serve(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
