"""The root of an inbox: its folders, whose it is, and whether the share behind it is really there.

`<root>/.ocr-daemon.json` holds the root's id, its owner and the owner's heartbeat.  It answers three questions.  Is
this the share or the empty folder it would be mounted on?  (A root that the ledger knows but whose file is missing
is not mounted: nothing is created there.)  Does another daemon work here?  (Its heartbeat is fresh: refused.)  Did
the last owner stop cleanly?  (It took its name off.)  An outbox outside the root may be a share of its own, so it has
a file of that name too, with the root's id.

Residual risks: owners on other hosts are judged by comparing their clock with ours, so a clock that is a minute off
can hide a living owner; whose name was overwritten that way notices at its next `verify` and stops working here.  A
share that is mounted for the first time after the first start cannot be told from a local folder, which is why
`check` names the file system of every folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import threading
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.durable import TEMPORARY_PREFIX, exists, read_json, to_json, write_atomic, write_file

if TYPE_CHECKING:
    from daemon.config import Inbox

MARKER = ".ocr-daemon.json"
#: How often the owner renews its heartbeat, and when others may take it for dead: four missed ones, because a share
#: can stall for the time a server takes to restart.
HEARTBEAT_S = 15.0
OWNER_STALE_S = 60.0

#: File systems on which another machine's writes raise no inotify event here (proc(5), mountinfo, field "type");
#: autofs is what stands in for one until it is first used.
NETWORK_FILESYSTEMS = re.compile(
    r"^(nfs4?|cifs|smb3?|smbfs|ncpfs|afs|ceph|lustre|9p|virtiofs|glusterfs|beegfs|gpfs|gfs2?|ocfs2|orangefs|coda|autofs"
    r"|fuse($|\..*))$"
)


class RootAway(Exception):
    """The share is not there (or not well); waiting may mend it."""


class RootRefused(Exception):
    """The daemon must not work on the root, and waiting does not mend it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A daemon process, precise enough to tell whether it still lives."""

    instance: str
    host: str
    #: machine-id(5): tells hosts of one name apart; empty where there is none.
    machine: str
    #: Changes with every start of the machine.
    boot: str
    #: A process id means nothing outside its namespace (containers).
    pid_namespace: str
    pid: int
    #: Start of the process in clock ticks since boot: tells a reused process id.
    started: str


@dataclass(frozen=True, slots=True)
class Adoption:
    """What taking over a root found."""

    root_id: str
    #: The last owner did not take its name off: it was killed, or the machine went down.
    unclean: bool


class Root:
    """The paths of one inbox."""

    def __init__(self, settings: Inbox) -> None:
        self.name = settings.name
        self.path = settings.root
        self.inbox = self.path / "inbox"
        self.work = self.path / "work"
        self.done = self.path / "done"
        self.failed = self.path / "failed"
        self.outbox = settings.outbox_path
        #: Outputs while they are made, on the outbox's own file system.
        self.staging = self.outbox / ".staging"
        self.marker = self.path / MARKER
        #: None where the outbox lies in the root, which has its own.
        self.outbox_marker = None if self.path in self.outbox.parents else self.outbox / MARKER
        #: From the adoption on, as is the owner.
        self.root_id = ""
        self.owner: Owner | None = None
        #: A heartbeat whose caller gave it up may still be written while our name is taken off.
        self._marker_lock = threading.Lock()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that must exist."""
        return self.inbox, self.work, self.done, self.failed, self.outbox, self.staging

    def adopt(self, owner: Owner, *, known_id: str | None, now: float) -> Adoption:
        """Become the owner; raises `RootAway` or `RootRefused`.  `known_id` is what the ledger knows of this path."""
        try:
            return self._adopt(owner, known_id, now)
        except PermissionError as error:
            raise RootRefused(
                f"no permission at {error.filename2 or error.filename}: give the service's user read and write access"
            ) from error
        except OSError as error:
            raise RootAway(f"{self.path}: {error.strerror or error}") from error

    def _adopt(self, owner: Owner, known_id: str | None, now: float) -> Adoption:
        marker = read_json(self.marker)
        if marker is None and known_id:
            raise RootAway(
                f"{self.path} has no {MARKER} although it was used before: the share is probably not mounted "
                f"(if it was set up anew on purpose: ocr-daemon check --forget-root {self.name})"
            )
        if not exists(self.path):
            self.path.mkdir()  # not its parents: the share may be missing above it
        previous = owner_in(marker)
        if previous is not None and previous != owner and lives(previous, marker or {}, owner, now):
            wait = "" if _same_kernel(previous, owner) else f", or wait {OWNER_STALE_S:.0f} s after it was killed"
            raise RootRefused(
                f"{self.path} belongs to the daemon {described(previous)}, which is alive; stop it first{wait}, "
                f"or give each its own root"
            )
        self.root_id = str((marker or {}).get("root_id") or uuid.uuid4().hex)
        self._refuse_links()
        if self.outbox_marker is not None and (marker or {}).get("outbox") == os.fspath(self.outbox):
            self._verify_outbox()
        self._make_folders()
        self._refuse_borders()
        self._mark_outbox()
        self._write_marker(owner, now)
        self.owner = owner
        return Adoption(self.root_id, unclean=previous is not None)

    def _make_folders(self) -> None:
        for folder in self.folders:
            if not exists(folder):
                folder.mkdir(exist_ok=True)

    def _mark_outbox(self) -> None:
        """Say in an outbox elsewhere whose it is; before the root's marker says that this was done."""
        if self.outbox_marker is None:
            return
        content = {"root_id": self.root_id, "root": os.fspath(self.path)}
        there = read_json(self.outbox_marker)
        if there is not None and there.get("root_id") != self.root_id and there.get("root") != content["root"]:
            raise RootRefused(
                f"{self.outbox} is the outbox of {there.get('root')}; give each root its own outbox "
                f"(if that one is gone for good: delete {self.outbox_marker})"
            )
        if there != content:
            write_atomic(self.outbox_marker, to_json(content))

    def _verify_outbox(self) -> None:
        """Raise `RootAway` unless the outbox elsewhere is the one we marked, with its staging folder."""
        if self.outbox_marker is None:
            return
        # In a mount point without its share nothing is made, or outputs would go under the share.
        for path in (self.outbox, self.outbox_marker, self.staging):
            if not exists(path):
                raise RootAway(f"{path} is missing although it was used before: is the share mounted?")
        if (read_json(self.outbox_marker) or {}).get("root_id") != self.root_id:
            raise RootAway(f"{self.outbox} is another outbox than before: is the right share mounted?")

    def _refuse_links(self) -> None:
        for folder in self.folders:
            if exists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise RootRefused(f"{folder} must be a real folder, not a link or a file")

    def _refuse_borders(self) -> None:
        # A rename, not a comparison of st_dev: two bind mounts of one file system look alike and still refuse it.
        name = f"{TEMPORARY_PREFIX}rename-{os.getpid()}"
        here = self.inbox / name
        write_file(here, b"probe\n", sync=False)
        try:
            for folder in (self.work, self.done, self.failed):
                there = folder / name
                try:
                    here.rename(there)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    raise RootRefused(
                        f"{folder} is on another file system than {self.inbox}; a document is claimed by a rename, "
                        f"so put both on one (in a container: mount the root as one volume)"
                    ) from error
                here = there
        finally:
            here.unlink(missing_ok=True)
        inside = self.staging / name
        write_file(inside, b"probe\n", sync=False)
        inside.unlink()

    def beat(self, owner: Owner, now: float) -> None:
        """Renew the heartbeat; raises `RootAway` rather than put our name over another's."""
        with self._marker_lock:
            self._verify_owner()
            self._write_marker(owner, now)

    def release(self) -> None:
        """Take our name off: the next start knows that nothing was interrupted by force."""
        with self._marker_lock:
            try:
                self._verify_owner()
            except RootAway:
                return  # not there, or not ours any more: nothing is created, nobody else's name is touched
            self._write_marker(None, None)

    def verify(self) -> None:
        """Raise `RootAway` unless the share is there and is the one we adopted; make folders that users deleted."""
        try:
            self._verify_owner()
            self._verify_outbox()
            self._make_folders()
            for folder in self.folders:
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    raise RootAway(f"{folder} must be a real folder, not a link or a file")
        except OSError as error:
            raise RootAway(f"{error.filename or self.path}: {error.strerror or error}") from error

    def _verify_owner(self) -> None:
        marker = read_json(self.marker)
        if marker is None or marker.get("root_id") != self.root_id:
            raise RootAway(f"{self.path} has lost its {MARKER}: the share is probably not mounted")
        owner = owner_in(marker)
        if owner != self.owner:
            # Also when it has left again: it may have gone on with what we had open.
            who = f"the daemon {described(owner)}" if owner else "a daemon that has stopped since"
            raise RootAway(f"{self.path} was taken over by {who}; restart this one when it is to work here again")

    def _write_marker(self, owner: Owner | None, heartbeat: float | None) -> None:
        content = {"root_id": self.root_id, "owner": asdict(owner) if owner else None, "heartbeat": heartbeat}
        if self.outbox_marker is not None:
            content["outbox"] = os.fspath(self.outbox)
        write_atomic(self.marker, to_json(content))


def this_owner(instance: str) -> Owner:
    """The owner that this process is."""
    pid = os.getpid()
    return Owner(
        instance=instance,
        host=socket.gethostname(),
        machine=_read("/etc/machine-id"),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_link("/proc/self/ns/pid"),
        pid=pid,
        started=_started(pid),
    )


def owner_in(marker: dict[str, Any] | None) -> Owner | None:
    """Whom a marker names; None if nobody."""
    with contextlib.suppress(TypeError):
        return Owner(**(marker or {})["owner"]) if (marker or {}).get("owner") else None
    return None


def described(owner: Owner) -> str:
    """An owner in words for people."""
    return f"{owner.instance!r} on {owner.host} (process {owner.pid})"


def _same_kernel(other: Owner, own: Owner) -> bool:
    """Whether our kernel can tell if it lives: the same host, and process ids mean the same."""
    return (other.machine, other.host, other.pid_namespace) == (own.machine, own.host, own.pid_namespace)


def lives(other: Owner, marker: dict[str, Any], own: Owner, now: float) -> bool:
    """Whether the owner that a marker names is alive: by its process where that can be seen, else by its heartbeat."""
    if (other.machine, other.host) == (own.machine, own.host) and other.boot != own.boot:
        return False
    if _same_kernel(other, own):
        return _started(other.pid) == other.started
    heartbeat = marker.get("heartbeat")
    return isinstance(heartbeat, int | float) and abs(now - heartbeat) < OWNER_STALE_S


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return Path(path).readlink().name
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of proc(5) stat; the command's name before it may hold spaces and brackets.  Empty = no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def filesystem_type(path: Path, mountinfo: str | None = None) -> str:
    """The type of the file system that holds `path` (proc(5), /proc/self/mountinfo); does not touch the path."""
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    best, kind = "", "unknown"
    wanted = os.path.abspath(path)  # noqa: PTH100 - resolve() would touch a share that may hang
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether events cannot be relied on for a file system of this type."""
    return NETWORK_FILESYSTEMS.match(kind) is not None
