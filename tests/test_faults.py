"""Whose fault an error is."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.config import Inbox
from daemon.faults import ENVIRONMENT, GaveUp, NoPermission, environment_fault, free_mb
from daemon.roots import Root, this_owner
from deepseek_ocr import errors
from tests.permissions import closed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def adopted(tmp_path: Path) -> Root:
    """A root that is well."""
    root = Root(Inbox(root=tmp_path / "root"))
    root.adopt(this_owner("north"), known_id=None, now=1.0)
    return root


#: Name -> the number, and whether it settles that the environment is at fault.
NUMBERS = {
    "disk full": (errno.ENOSPC, True),
    "quota": (errno.EDQUOT, True),
    "mounted read-only": (errno.EROFS, True),
    "stale handle": (errno.ESTALE, True),
    "server down": (errno.EHOSTDOWN, True),
    "no answer": (errno.ETIMEDOUT, True),
    "not connected": (errno.ENOTCONN, True),
    "out of memory": (errno.ENOMEM, True),
    "out of files": (errno.EMFILE, True),
    "input or output": (errno.EIO, False),
    "not there": (errno.ENOENT, False),
    "not permitted": (errno.EACCES, False),
    "busy": (errno.EBUSY, False),
    "name too long": (errno.ENAMETOOLONG, False),
    "a folder": (errno.EISDIR, False),
}


@pytest.mark.parametrize(("number", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers(adopted: Root, number: int, expected: bool) -> None:
    """On a root that is well the number decides; an error that the environment has is told in words."""
    assert (number in ENVIRONMENT) is expected
    fault = environment_fault(adopted, OSError(number, "the words", "/x/y"))
    assert fault == ("the words at /x/y" if expected else None)


def test_an_error_without_a_number_is_told_by_the_probe(adopted: Root) -> None:
    """What has no number at all is the file's own fault on a root that is well."""
    assert environment_fault(adopted, OSError("odd")) is None


def remove_marker(root: Root) -> None:
    """As if the share were not mounted."""
    root.marker.unlink()


def file_for_folder(root: Root) -> None:
    """Somebody replaced a folder by a file."""
    shutil.rmtree(root.failed)
    root.failed.write_bytes(b"")


UNWELL: dict[str, tuple[Callable[[Root], None], str]] = {
    "the share is gone": (remove_marker, "probably not mounted"),
    "a folder is none": (file_for_folder, "must be a real folder"),
}


@pytest.mark.parametrize(("spoil", "words"), UNWELL.values(), ids=UNWELL)
def test_a_root_that_is_not_well_is_to_blame(adopted: Root, spoil: Callable[[Root], None], words: str) -> None:
    """An error that a probe file has too is the environment's, whatever its number."""
    spoil(adopted)
    assert words in (environment_fault(adopted, OSError(errno.EIO, "odd")) or "")


@pytest.mark.parametrize("name", ["work", "done", "failed", ".staging"])
def test_every_folder_that_is_written_is_probed(adopted: Root, name: str) -> None:
    """A folder that may not be written makes the environment be to blame, and nothing is left of the probe."""
    folder = next(folder for folder in adopted.folders if folder.name == name)
    with closed(folder):
        assert "Permission denied" in (environment_fault(adopted, OSError(errno.EIO, "odd")) or "")
    assert not [path for path in adopted.path.rglob("*") if path.is_file() and path != adopted.marker]


def test_a_probe_makes_folders_that_users_deleted(adopted: Root) -> None:
    """A deleted folder was the cause and is back: the environment is well."""
    adopted.done.rmdir()
    assert environment_fault(adopted, OSError(errno.ENOENT, "gone")) is None
    assert adopted.done.is_dir()


def test_free_space(tmp_path: Path) -> None:
    """Free space is in megabytes of 10^6 bytes, as users see it."""
    assert 0 < free_mb(tmp_path) * 1e6 <= shutil.disk_usage(tmp_path).free + 1e9
    with pytest.raises(FileNotFoundError):
        free_mb(tmp_path / "gone")


def test_document_faults_of_the_service_have_a_slug_and_a_remedy() -> None:
    """They read like the other document errors, and no slug is used twice."""
    kinds: list[type[errors.DocumentError]] = [NoPermission, GaveUp, *errors.DocumentError.__subclasses__()]
    slugs = {kind.slug for kind in kinds}
    assert len(slugs) == len(set(kinds))
    assert all(kind.remedy.endswith(".") and kind.remedy[0].isupper() for kind in kinds)
