"""`ocr-daemon check`: what it finds, what it leaves behind (nothing), and what that means for the start."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from daemon import status as status_file
from daemon.check import check, forget
from daemon.config import Settings, load
from daemon.roots import MARKER
from tests.permissions import closed
from tests.service import Service, can_drop_override, command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.check import Finding

INBOX = '[[inbox]]\nname = "default"\nroot = "root"\n'
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service that has run once, so that its folders and its ledger are there."""
    folder = tmp_path_factory.mktemp("served")
    with Service(folder, inboxes=INBOX) as service:
        service.start().ready()
        assert service.stop() == 0
    return folder


@pytest.fixture
def site(served: Path, tmp_path: Path) -> Iterator[Service]:
    """A copy of it, not running."""
    shutil.copytree(served, tmp_path / "site")
    with Service(tmp_path / "site", inboxes=INBOX) as service:
        yield service


def settings_for(folder: Path, **tables: object) -> Settings:
    """Settings of a root in a folder."""
    inbox = [{"name": "default", "root": str(folder / "root")}]
    return Settings.model_validate(
        {"service": {"state_dir": str(folder / "state")}, "inbox": inbox, "engine": {"backend": "textlayer"}} | tables
    )


def levels(findings: list[Finding], topic: str) -> list[str]:
    """The levels of all findings about a topic."""
    return [finding.level for finding in findings if finding.topic == topic]


def messages(findings: list[Finding], level: str) -> str:
    """All messages of a level."""
    return "\n".join(finding.message for finding in findings if finding.level == level)


def everything_in(folder: Path) -> dict[str, float]:
    """All names below a folder with the time of their last change."""
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*") if path.is_file()}


def test_a_sound_configuration(site: Service) -> None:
    """0, every topic is named, and the engine has really read a page."""
    before = everything_in(site.root.path)
    result = command("check", "--config", str(site.config))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(f"configuration {site.config}: ok\n")
    assert "ok: inbox default: " in result.stdout
    assert "ok: engine: textlayer" in result.stdout
    assert "error" not in result.stdout
    assert everything_in(site.root.path) == before
    as_json = command("check", "--config", str(site.config), "--json", "--no-engine")
    content = json.loads(as_json.stdout)
    assert content["ok"] is True
    assert "engine" not in {finding["topic"] for finding in content["findings"]}


def test_before_the_first_start(tmp_path: Path) -> None:
    """Folders that the first start will make are no trouble, and are not made now."""
    findings = check(settings_for(tmp_path), engine=False)
    assert not messages(findings, "error")
    assert "the first start makes it" in messages(findings, "ok")
    assert not list(tmp_path.iterdir())


def test_a_missing_share_is_a_warning(tmp_path: Path) -> None:
    """The start would wait for it."""
    findings = check(settings_for(tmp_path / "mnt"), engine=False)
    assert "is the share mounted?" in messages(findings, "warning")
    assert not messages(findings, "error")


def test_a_lost_marker_is_a_warning_until_it_is_forgotten(site: Service) -> None:
    """A root that was used before and has lost its marker looks unmounted; --forget-root accepts it as new."""
    site.start().ready()
    assert site.stop() == 0
    (site.root.path / MARKER).unlink()
    settings = load(site.config)
    assert f"has lost its {MARKER}" in messages(check(settings, engine=False), "warning")
    wrong = command("check", "--config", str(site.config), "--no-engine", "--forget-root", "nonsense")
    assert wrong.returncode == 2
    assert forget(settings, "default")
    assert not messages(check(settings, engine=False), "warning")
    site.start().ready()
    assert "PAUSED" not in site.manager.status


def test_a_damaged_marker_is_as_good_as_none(site: Service) -> None:
    """The service pauses for it, so it is told here, too."""
    site.start().ready()
    assert site.stop() == 0
    (site.root.path / MARKER).write_text('{"root_id": ', encoding="ascii")
    assert f"has lost its {MARKER}" in messages(check(load(site.config), engine=False), "warning")


def test_nothing_is_forgotten_without_a_ledger(site: Service, tmp_path: Path) -> None:
    """A sentence, as where the state folder is another one than the service's, and none is made."""
    elsewhere = tmp_path / "elsewhere"
    arguments = ("check", "--config", str(site.config), "--no-engine", "--forget-root", "default")
    wrong = command(*arguments, STATE_DIRECTORY=str(elsewhere))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "the root of 'default' cannot be forgotten: " in wrong.stderr
    assert "there is no ledger yet" in wrong.stderr
    assert not elsewhere.exists()


def _link(site: Service) -> None:
    (site.root.done).rmdir()
    (site.root.path / "elsewhere").mkdir()
    site.root.done.symlink_to(site.root.path / "elsewhere")


def _file(site: Service) -> None:
    site.root.done.rmdir()
    site.root.done.touch()


WRONG: list[tuple[str, Callable[[Service], object], str]] = [
    ("a link", _link, "must be a real folder"),
    ("a file", _file, "must be a real folder"),
]


@pytest.mark.parametrize(("spoil", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_folders_that_are_none(site: Service, spoil: Callable[[Service], object], words: str) -> None:
    """78, like the start that it speaks for."""
    spoil(site)
    result = command("check", "--config", str(site.config), "--no-engine")
    assert result.returncode == 78
    assert words in result.stdout
    start = command("run", "--config", str(site.config))
    assert start.returncode == 78
    assert words in start.stderr


def test_a_root_that_is_in_use(site: Service, tmp_path: Path) -> None:
    """By the service of this configuration: well.  By another one: 78, as the start would be."""
    site.start().ready()
    own = check(load(site.config), engine=False)
    assert f"{site.root.path} is in use by the running service" in messages(own, "ok")
    assert not messages(own, "error")
    inbox = [{"name": "default", "root": str(site.root.path)}]
    other = settings_for(tmp_path / "other", inbox=inbox)
    (tmp_path / "other").mkdir()
    findings = check(other, engine=False)
    assert {finding.exit_code for finding in findings if finding.level == "error"} == {78}
    assert "which is alive; stop it first" in messages(findings, "error")
    assert site.stop() == 0
    assert not messages(check(other, engine=False), "error")


@pytest.mark.parametrize("name", ["root", "root/inbox", "root/done", "root/outbox"])
def test_a_folder_that_may_not_be_used(site: Service, name: str) -> None:
    """78 and the folder's name."""
    with closed(site.folder / name):
        findings = check(load(site.config), engine=False)
    errors = [finding for finding in findings if finding.level == "error"]
    assert {finding.exit_code for finding in errors} == {78}
    assert name in errors[0].message


def test_a_folder_that_could_not_be_made(tmp_path: Path) -> None:
    """78: what it would lie in is a file."""
    place = tmp_path / "place"
    place.write_bytes(b"")
    findings = check(settings_for(place), engine=False)
    assert [levels(findings, topic) for topic in ("state", "inbox default")] == [["error"], ["error"]]
    assert messages(findings, "error") == f"{place} is not a folder\n{place} is not a folder"


@pytest.mark.skipif(not can_drop_override(), reason="root may do everything, and there is no setpriv")
@pytest.mark.parametrize("mode", [0, 0o500], ids=["nothing", "only reading"])
@pytest.mark.parametrize(("name", "topic"), [("state", "state"), ("share", "inbox default")])
def test_a_folder_above_that_is_closed(tmp_path: Path, name: str, topic: str, mode: int) -> None:
    """78 too, for the state folder and for a root."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[service]\nstate_dir = "state/deep"\n[[inbox]]\nroot = "share/root"\n[engine]\nbackend = "textlayer"\n',
        encoding="utf-8",
    )
    (tmp_path / name).mkdir()
    (tmp_path / name).chmod(mode)
    result = command("check", "--json", "--no-engine", "--config", str(path), override=False)
    (tmp_path / name).chmod(0o755)
    assert result.returncode == 78, result.stderr
    errors = [finding for finding in json.loads(result.stdout)["findings"] if finding["level"] == "error"]
    assert {finding["topic"] for finding in errors} == {topic}
    assert str(tmp_path / name) in errors[0]["message"]


def test_two_paths_to_one_folder(tmp_path: Path) -> None:
    """Two inboxes that lead to the same folder through a link are found, which their text does not tell."""
    (tmp_path / "root").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "inbox").mkdir()
    roots = [{"name": name, "root": str(tmp_path / folder)} for name, folder in (("a", "root"), ("b", "other"))]
    findings = check(settings_for(tmp_path, inbox=roots), engine=False)
    assert "are the same folder" in messages(findings, "error")


def test_done_on_another_file_system(site: Service) -> None:
    """A document is claimed by a rename, so 78; shown with a mount where one can be made."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", site.root.done], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        findings = check(load(site.config), engine=False)
        assert "cannot be renamed" in messages(findings, "error")
        assert not list(site.root.inbox.iterdir())
    finally:
        subprocess.run(["umount", site.root.done], check=True)


def test_an_engine_that_cannot_start(site: Service) -> None:
    """69, and what to do."""
    site.write_config(backend="openai")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        result = command("check", "--config", str(site.config), OCR_DAEMON__ENGINE__OPENAI__BASE_URLS=f'["{url}"]')
    assert result.returncode == 69
    assert f"no server answers ({url}: " in " ".join(result.stdout.split())
    assert "start it, or correct engine.openai.base_urls" in " ".join(result.stdout.split())


@pytest.mark.parametrize(("ok", "level"), [(True, "ok"), (False, "warning")], ids=["well", "brought back"])
def test_an_engine_that_the_running_service_has(tmp_path: Path, ok: bool, level: str) -> None:
    """A second one would find no room on the card: what the service says of its own counts.

    Without a service it is started for real, which fails here.
    """
    settings = settings_for(tmp_path, engine={"backend": "vllm"})
    engine = {"name": "vllm", "model": "a model", "ok": ok, "detail": "3 pages in flight"}
    status = {"engine": engine, "state": "ready", "written_at": time.time()}
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / status_file.FILE_NAME).write_text(json.dumps(status), encoding="utf-8")
    findings = check(settings)
    assert levels(findings, "engine") == [level]
    assert "vllm (a model) is in use by the running service" in messages(findings, level)
    status["state"] = "stopped"
    (tmp_path / "state" / status_file.FILE_NAME).write_text(json.dumps(status), encoding="utf-8")
    assert levels(check(settings), "engine") == ["error"]


def test_a_task_beyond_the_engine(tmp_path: Path) -> None:
    """78 and which tasks it can do."""
    inbox = [{"name": "default", "root": str(tmp_path / "root"), "task": "figure"}]
    findings = check(settings_for(tmp_path, inbox=inbox))
    assert [finding.exit_code for finding in findings if finding.level == "error"] == [78]
    assert "it can: document, free, image" in messages(findings, "error")


def test_little_space_and_http_are_warnings(tmp_path: Path) -> None:
    """It works, but."""
    (tmp_path / "root").mkdir()
    findings = check(settings_for(tmp_path, limits={"min_free_mb": 10**12}, http={"enabled": True}), engine=False)
    warnings = messages(findings, "warning")
    assert "nothing is taken below limits.min_free_mb" in warnings
    assert "does not serve HTTP yet" in warnings
    assert not messages(findings, "error")


def test_a_wrong_configuration(tmp_path: Path) -> None:
    """78, and nothing else is looked at."""
    path = tmp_path / "config.toml"
    path.write_text("[limits]\nmax_pages = 0\n", encoding="utf-8")
    result = command("check", "--config", str(path))
    assert result.returncode == 78
    assert "limits.max_pages" in result.stderr
    assert result.stdout == ""
