"""Failed originals go back to the inbox: which ones, where to, and what is left of them."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from daemon.folders import FAILED
from daemon.ledger import FILE_NAME, Ledger, connect, entries
from daemon.retry import Retried, failed_names, retry
from tests.accounts import Office

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NO_UTF8 = os.fsdecode(b"caf\xe9.pdf")


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """An inbox with four failures and one document that was read."""
    async with Ledger(tmp_path) as ledger:
        office = Office(tmp_path, ledger)
        await office.failed("a/x.pdf")
        await office.failed("x.pdf", reason="encrypted")
        await office.failed("x.pdf")  # as x~2.pdf
        await office.failed(NO_UTF8)
        await office.done("z.pdf")
        yield office


def inbox(office: Office) -> list[str]:
    """What lies in the inbox."""
    root = os.fspath(office.root.inbox)
    return sorted(os.path.relpath(f"{at}/{name}", root) for at, _, names in os.walk(root) for name in names)


ALL = ["a/x.pdf", NO_UTF8, "x.pdf", "x~2.pdf"]

#: Name -> what is asked for, and what is in the inbox then.
CHOICES: dict[str, tuple[tuple[str, ...], bool, str | None, list[str]]] = {
    "all": ((), True, None, ALL),
    "by reason": ((), False, "encrypted", ["x.pdf"]),
    "by another reason": ((), False, "corrupt", ["a/x.pdf", NO_UTF8, "x.pdf"]),
    "by a reason that nothing has": ((), False, "no_pages", []),
    "by the name it has in failed/": (("x~2.pdf",), False, None, ["x.pdf"]),
    "by its path": (("a/x.pdf",), False, None, ["a/x.pdf"]),
    "by the last part of it": (("x.pdf",), False, None, ["a/x.pdf", "x.pdf", "x~2.pdf"]),
    "by the name it is shown with": (("caf\\xe9.pdf",), False, None, [NO_UTF8]),
    "several": (("a/x.pdf", NO_UTF8), False, None, ["a/x.pdf", NO_UTF8]),
    "one that was read": (("z.pdf",), False, None, []),
    "one that nobody knows": (("w.pdf",), False, None, []),
}


@pytest.mark.parametrize(("names", "everything", "reason", "expected"), CHOICES.values(), ids=CHOICES)
async def test_choices(
    office: Office, names: tuple[str, ...], everything: bool, reason: str | None, expected: list[str]
) -> None:
    """What was asked for lies in the inbox where it was dropped, or beside it; all else stays where it is."""
    result = retry(office.settings, names=names, everything=everything, reason=reason)
    assert inbox(office) == sorted(expected)
    assert len(result.given_back) == len(expected)
    assert (result.unmatched, result.skipped) == ([] if expected else list(names), {})
    left = [path for path in office.root.failed.rglob("*") if path.is_file()]
    assert len(left) == 3 * (4 - len(expected))


async def test_it_tells_what_went_where(office: Office) -> None:
    """The answer names each document as it was in failed/ and as it is in the inbox, as text."""
    result = retry(office.settings, names=("x~2.pdf", "w.pdf", NO_UTF8, "v.pdf"), everything=False, reason=None)
    assert sorted(result.given_back) == [("caf\\xe9.pdf", "caf\\xe9.pdf"), ("x~2.pdf", "x.pdf")]
    assert result.unmatched == ["w.pdf", "v.pdf"]


async def test_a_new_file_of_that_name_stays(office: Office) -> None:
    """Where a new file was dropped under the name meanwhile, the old original goes beside it."""
    (office.root.inbox / "x.pdf").write_bytes(b"new")
    retry(office.settings, names=("x~2.pdf",), everything=False, reason=None)
    assert inbox(office) == ["x.pdf", "x~2.pdf"]
    assert (office.root.inbox / "x.pdf").read_bytes() == b"new"


async def test_a_subfolder_that_is_gone_is_made_again(office: Office) -> None:
    """The original goes back to where it was dropped, though users have tidied up there."""
    (office.root.inbox / "a").rmdir()
    retry(office.settings, names=("a/x.pdf",), everything=False, reason=None)
    assert inbox(office) == ["a/x.pdf"]


async def test_the_ledger_knows_of_it(office: Office) -> None:
    """A document that was given back is marked, and a second retry finds nothing."""
    assert len(retry(office.settings, names=(), everything=True, reason=None).given_back) == 4
    with closing(connect(office.settings.service.state_dir / FILE_NAME)) as connection:
        rows = entries(connection, office.root.root_id)
    assert [row.retried_at is not None for row in rows] == [row.status == "failed" for row in rows]
    assert retry(office.settings, names=(), everything=True, reason=None).given_back == []


async def test_an_original_that_users_took_is_passed_over(office: Office) -> None:
    """What is not in failed/ any more cannot be given back and is not marked."""
    (office.root.failed / "x.pdf").unlink()
    assert retry(office.settings, names=(), everything=False, reason="encrypted").given_back == []


async def test_a_name_that_failed_twice_is_the_newer_document(office: Office) -> None:
    """Where the first original was taken away and the name failed again, the newer document is the one given back."""
    for path in office.root.failed.glob("x.pdf*"):
        path.unlink()
    newer = await office.failed("x.pdf")
    retry(office.settings, names=("x.pdf",), everything=False, reason=None)
    with closing(connect(office.settings.service.state_dir / FILE_NAME)) as connection:
        rows = {row.job_id: row for row in entries(connection, office.root.root_id, "failed")}
    assert rows[newer.job_id].retried_at is not None
    assert [row.retried_at for row in rows.values() if row.reason == "encrypted"] == [None]


async def test_a_reason_gives_back_no_newer_document_of_another(office: Office) -> None:
    """The first original was taken away, and the name failed again: asking for the first reason finds nothing."""
    for path in office.root.failed.glob("x.pdf*"):
        path.unlink()
    await office.failed("x.pdf", reason="corrupt")
    given_back = retry(office.settings, names=(), everything=False, reason="encrypted").given_back
    assert "x.pdf" not in [name for name, _ in given_back]
    assert (office.root.failed / "x.pdf").exists()


async def test_an_original_under_its_jobs_id_is_found(office: Office) -> None:
    """Where a stranger's file has the name in failed/, the original goes back and the stranger's file stays."""
    job = await office.claim("y.PDF")
    (office.root.failed / "y.PDF").write_bytes(b"theirs")
    office.folders.finish(job, FAILED)
    with closing(connect(office.settings.service.state_dir / FILE_NAME)) as connection:
        connection.execute("UPDATE jobs SET status = 'failed' WHERE job_id = ?", (job.job_id,))
    retry(office.settings, names=("y.PDF",), everything=False, reason=None)
    assert (office.root.inbox / "y.PDF").read_bytes() == b"content"
    assert (office.root.failed / "y.PDF").read_bytes() == b"theirs"


async def test_a_root_that_is_away_is_passed_over(office: Office) -> None:
    """It is named, which is not "nothing has failed"; nothing is made in its place."""
    office.root.path.rename(office.root.path.with_name("away"))
    assert retry(office.settings, names=(), everything=True, reason=None) == Retried(
        [], [], {"default": f"{office.root.path} has no .ocr-daemon.json: it is not mounted, or was never used"}
    )
    assert not office.root.path.exists()


async def test_names_for_completion(office: Office) -> None:
    """A shell can complete every name that retry takes."""
    assert sorted(failed_names(office.settings)) == sorted(ALL)


def test_retry_needs_a_ledger(tmp_path: Path, office: Office) -> None:
    """Without a ledger nothing is known to have failed."""
    settings = office.settings.model_copy(
        update={"service": office.settings.service.model_copy(update={"state_dir": tmp_path / "none"})}
    )
    with pytest.raises(FileNotFoundError, match="there is no ledger yet"):
        retry(settings, names=(), everything=True, reason=None)
