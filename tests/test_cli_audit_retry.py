"""`ocr-daemon audit` and `ocr-daemon retry`: every document is accounted for, and what failed is given back."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.documents import text_pdf
from tests.finished_site import (
    finished_fixture,  # noqa: F401 - a fixture, by the name `finished`
    run,
    run_json,
    site_fixture,  # noqa: F401 - a fixture, by the name `site`
)
from tests.service import LIMIT_S, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drop_root import DropRoot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


# audit


def test_audit_explains_everything(site: Service) -> None:
    """All that was seen is done, partial or failed, in words and in JSON."""
    result = run(site, "audit")
    assert result.returncode == 0
    assert "default: seen 6 = 2 done + 1 partial + 3 failed + 0 ignored + 0 pending; 0 collected" in result.stdout
    account = run_json(site, "audit")
    assert account["ok"] is True
    assert account["inboxes"][0]["seen"] == 6
    assert account["inboxes"][0]["differences"] == []


def test_audit_counts_what_is_waiting_and_what_was_taken_away(site: Service) -> None:
    """A new file is pending, a temporary name is ignored, a collected original or output is not missing."""
    site.root.drop("new.pdf", text_pdf(1))
    (site.root.inbox / "copying.pdf.part").touch()
    (site.root.done / "letter.pdf").unlink()
    (site.root.outbox / "scan.pdf.md").unlink()
    (site.root.failed / "locked.pdf").unlink()
    account = run_json(site, "audit")["inboxes"][0]
    assert [account[key] for key in ("seen", "pending", "ignored", "collected")] == [8, 1, 1, 3]


def _alien_in_done(root: DropRoot) -> str:
    (root.done / "alien.pdf").write_bytes(b"x")
    return "done/alien.pdf: no document of the ledger"


def _alien_in_failed(root: DropRoot) -> str:
    (root.failed / "alien.pdf").write_bytes(b"x")
    return "failed/alien.pdf: no document of the ledger"


def _moved_by_hand(root: DropRoot) -> str:
    (root.failed / "locked.pdf").rename(root.done / "locked.pdf")
    return "locked.pdf: failed in the ledger, but the original lies in done/"


def _manifest_of_nobody(root: DropRoot) -> str:
    shutil.copy(root.outbox / "letter.pdf.manifest.json", root.outbox / "forged.pdf.manifest.json")
    return "outbox/forged.pdf.manifest.json: a manifest of no document"


def _line_lost(root: DropRoot) -> str:
    path = root.outbox / "manifest-test.jsonl"
    lines = path.read_text(encoding="ascii").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="ascii")
    return "no line in manifest-test.jsonl"


def _staging_left(root: DropRoot) -> str:
    (root.outbox / ".staging" / "20200101T000000-0000000000").mkdir()
    return "staging holds 20200101T000000-0000000000"


@pytest.mark.parametrize(
    "tamper", [_alien_in_done, _alien_in_failed, _moved_by_hand, _manifest_of_nobody, _line_lost, _staging_left]
)
def test_audit_finds_what_it_cannot_explain(site: Service, tamper: Callable[[DropRoot], str]) -> None:
    """Every difference is named, and the exit code is 1."""
    words = tamper(site.root)
    account = run_json(site, "audit", code=1)
    assert account["ok"] is False
    assert words in " ".join(account["inboxes"][0]["differences"])


def test_audit_without_a_ledger(site: Service) -> None:
    """Without a ledger there is no account: 1, and why."""
    shutil.rmtree(site.state_dir)
    result = run(site, "audit")
    assert result.returncode == 1
    assert "there is no ledger yet" in result.stderr


# retry


WHAT = [
    ("path", ["mail/broken.pdf"], {"mail/broken.pdf"}),
    ("last part", ["locked.pdf"], {"locked.pdf"}),
    ("last part of two", ["broken.pdf"], {"broken.pdf", "mail/broken.pdf"}),
    ("reason", ["--reason", "corrupt"], {"broken.pdf", "mail/broken.pdf"}),
    ("all", ["--all"], {"broken.pdf", "mail/broken.pdf", "locked.pdf"}),
]


@pytest.mark.parametrize(("arguments", "expected"), [row[1:] for row in WHAT], ids=[row[0] for row in WHAT])
def test_retry_gives_originals_back(site: Service, arguments: list[str], expected: set[str]) -> None:
    """They lie in the inbox under their names, the reasons are gone, and the account still balances."""
    given_back = run_json(site, "retry", *arguments)["given_back"]
    assert {one["name"] for one in given_back} == {one["path"] for one in given_back} == expected
    for name in expected:
        assert (site.root.inbox / name).read_bytes()[:5] == b"%PDF-"
        assert not list(site.root.failed.glob(f"{name}*"))
    account = run_json(site, "audit")["inboxes"][0]
    assert (account["failed"], account["pending"], account["seen"]) == (3 - len(expected), len(expected), 6)


def test_retry_by_job_id(site: Service) -> None:
    """The id that logs and manifests name will do."""
    job_id = json.loads((site.root.failed / "locked.pdf.error.json").read_bytes())["job_id"]
    result = run(site, "retry", job_id)
    assert result.returncode == 0
    assert result.stdout == "locked.pdf -> inbox/locked.pdf\n"


def test_retry_of_nothing(site: Service) -> None:
    """A name that matches nothing is 1; --all with nothing left is not."""
    wrong = run(site, "retry", "letter.pdf")
    assert (wrong.returncode, wrong.stderr) == (1, "nothing that failed matches letter.pdf\n")
    assert run(site, "retry", "--reason", "too_many_pages").returncode == 1
    some = run(site, "retry", "locked.pdf", "letter.pdf")
    assert (some.returncode, some.stdout) == (1, "locked.pdf -> inbox/locked.pdf\n")
    assert some.stderr == "nothing that failed matches letter.pdf\n"
    assert run(site, "retry", "--all").returncode == 0
    again = run(site, "retry", "--all")
    assert (again.returncode, again.stdout) == (0, "nothing has failed\n")


def test_retry_while_a_share_is_away(site: Service) -> None:
    """Nothing is known of what failed there, which is not "nothing has failed"."""
    site.root.path.rename(site.root.path.with_name("away"))
    result = run(site, "retry", "--all")
    assert (result.returncode, result.stdout) == (1, "")
    assert "was skipped: " in result.stderr
    assert "it is not mounted, or was never used" in result.stderr


def test_retry_beside_a_file_of_that_name(site: Service) -> None:
    """A new file in the inbox is not overwritten."""
    site.root.drop("locked.pdf", text_pdf(1))
    assert run_json(site, "retry", "locked.pdf")["given_back"] == [{"name": "locked.pdf", "path": "locked~2.pdf"}]
    assert (site.root.inbox / "locked.pdf").read_bytes() == text_pdf(1)


def test_what_is_given_back_is_read_again(site: Service) -> None:
    """Beside a running service: it fails for the same reason again and counts once."""
    site.start().ready()
    before = len(site.events("job.failed"))
    assert run(site, "retry", "--reason", "encrypted").returncode == 0
    wait_until(lambda: len(site.events("job.failed")) == before + 1, LIMIT_S, site.tail)
    event = site.events("job.failed")[-1]
    assert (event["file"], event["reason"]) == ("locked.pdf", "encrypted")
    # Under another name where the reasons of the first time still lay there as it was claimed.
    assert (site.root.failed / event["name"]).exists()
    account = site.audit()
    assert (account["seen"], account["failed"], account["pending"]) == (6, 3, 0)
    assert site.stop() == 0
