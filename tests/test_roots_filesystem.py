"""What kind of file system a path lies on, and whether another machine may write there."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.roots import filesystem_type, is_network

MOUNTS = r"""
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
30 22 0:26 / /srv/ocr rw shared:2 - nfs4 server:/export/ocr rw,vers=4.2
31 22 0:27 / /srv/with\040space rw shared:3 - cifs //server/share rw
32 22 0:28 / /srv/ocr/local rw shared:4 master:7 - xfs /dev/vdb rw
33 22 0:29 / /home rw - autofs systemd-1 rw
34 22 0:30 / /home rw - nfs server:/home rw
35 22 0:31 / /srv/later rw - autofs systemd-1 rw
""".strip()

TYPES = {
    "the root file system": ("/var/lib", "ext4"),
    "a mount point": ("/srv/ocr", "nfs4"),
    "below a mount point": ("/srv/ocr/inbox/a", "nfs4"),
    "a name that begins the same": ("/srv/ocr2", "ext4"),
    "a mount in a mount": ("/srv/ocr/local/x", "xfs"),
    "a space in the name": ("/srv/with space/x", "cifs"),
    "the later of two on one place": ("/home/a", "nfs"),
    "an automount that nobody has touched": ("/srv/later/x", "autofs"),
    "a detour": ("/srv/ocr/../../home", "nfs"),
    "nothing mounted": ("", "unknown"),
}


@pytest.mark.parametrize(("path", "expected"), TYPES.values(), ids=TYPES)
def test_filesystem_type(path: str, expected: str) -> None:
    """The longest mount point above a path tells its type, the later of equal ones."""
    assert filesystem_type(Path(path or "/x"), MOUNTS if path else "") == expected


def test_filesystem_type_of_this_machine(tmp_path: Path) -> None:
    """The kernel's own table is understood; in a chroot it does not tell of the root."""
    mounted = any(line.split()[4] == "/" for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines())
    assert filesystem_type(tmp_path) != "unknown" or not mounted
    assert filesystem_type(Path("/proc/self")) == "proc"


KINDS = {
    True: "nfs nfs4 cifs smb3 ceph lustre 9p virtiofs glusterfs fuse fuse.sshfs fuse.s3fs afs gfs2 autofs",
    False: "ext4 xfs btrfs zfs tmpfs overlay fuseblk f2fs vfat ntfs3 nfsd unknown",
}


@pytest.mark.parametrize(
    ("kind", "expected"), [(kind, expected) for expected, kinds in KINDS.items() for kind in kinds.split()]
)
def test_is_network(kind: str, expected: bool) -> None:
    """Where another machine may write, or where it cannot be told yet, events are not relied on."""
    assert is_network(kind) is expected
