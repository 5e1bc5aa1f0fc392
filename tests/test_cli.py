"""The `ocr-daemon` command as people and scripts use it: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.progress import Progress

from daemon import samples
from daemon.assembly import Assembler
from daemon.cli import cli
from daemon.oneshot import Order, Tools, read_all, read_file
from deepseek_ocr.errors import EngineDeadError
from deepseek_ocr.prompt import Options
from deepseek_ocr.reader import Reader
from tests.conftest import eventually, wait_until
from tests.documents import bars, jpeg, scanned_pdf, text_pdf
from tests.fakes import FakeEngine, run_here
from tests.service import LIMIT_S, REPOSITORY, Service, can_drop_override, command, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fakes import DropRoot

ETC = Path("/etc/ocr-daemon/config.toml")
CONTENTS = {
    "letter.pdf": text_pdf(2, words="letter"),
    "mail/letter.pdf": text_pdf(1, words="another letter"),
    "scan.pdf": scanned_pdf(1, pixels=(300, 400)),
    "broken.pdf": samples.corrupt_pdf(),
    "mail/broken.pdf": samples.corrupt_pdf() + b"\n",
    "locked.pdf": samples.encrypted_pdf(),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service that has done its work: two done, one partial, three failed."""
    folder = tmp_path_factory.mktemp("finished")
    with Service(folder, inboxes='[[inbox]]\nname = "default"\nroot = "root"\n') as service:
        for name, content in CONTENTS.items():
            service.root.drop(name, content)
        service.start().ready()
        wait_until(lambda: service.root.ended() == (3, 3), LIMIT_S, service.tail)
        assert service.stop() == 0
    return folder


@pytest.fixture
def site(finished: Path, tmp_path: Path) -> Iterator[Service]:
    """A copy of it, not running."""
    shutil.copytree(finished, tmp_path / "site")
    with Service(tmp_path / "site", inboxes='[[inbox]]\nname = "default"\nroot = "root"\n') as service:
        yield service


def run(site: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command on the site's configuration."""
    return command(*arguments, "--config", str(site.config))


def run_json(site: Service, *arguments: str, code: int = 0) -> Any:
    """The same with --json."""
    result = run(site, *arguments, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    return json.loads(result.stdout)


# The command itself


COMMANDS = ("run", "check", "status", "audit", "retry", "ocr", "demo", "version", "completion")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """--help says what it does, and the list of commands names it."""
    runner = CliRunner()
    listing = runner.invoke(cli, ["--help"])
    assert f"  {name} " in listing.output
    result = runner.invoke(cli, [name, "-h"])
    assert result.exit_code == 0
    summary = result.output.split("\n\n")[1].strip()
    assert len(summary) > 20
    for option in ("--config", "--json", "--engine"):
        if option in result.output:
            words = result.output.split(option)[1].split("\n")
            assert len(" ".join(words[0].split())) + len(words[1].strip()) > 10, f"{option} is not explained"


@pytest.mark.parametrize(
    "arguments",
    ["frobnicate", "audit --frobnicate", "ocr", "retry", "retry x.pdf --all", "completion tcsh"],
)
def test_wrong_usage_is_2(site: Service, arguments: str) -> None:
    """A mistake on the command line is told apart from trouble."""
    result = command(*arguments.split(), OCR_DAEMON_CONFIG=str(site.config))
    assert result.returncode == 2
    assert "Error:" in result.stderr
    assert result.stdout == ""


def test_version_names_what_reads() -> None:
    """Versions of the service and its libraries, for people and for programs."""
    plain, as_json = command("version"), command("version", "--json")
    assert plain.returncode == as_json.returncode == 0
    versions = json.loads(as_json.stdout)
    assert versions.keys() >= {"ocr-daemon", "pymupdf", "rapidocr", "onnxruntime", "httpx2", "python"}
    assert ("torch" in versions) == (find_spec("torch") is not None), "extras are named where they are installed"
    assert plain.stdout.splitlines() == [f"{name} {number}" for name, number in versions.items()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """Each shell gets its script."""
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert f"_OCR_DAEMON_COMPLETE={shell}_complete" in result.output


def test_completion_of_failed_names(site: Service) -> None:
    """After `retry` the shell offers what has failed."""
    words = f"ocr-daemon retry --config {site.config} "
    result = subprocess.run(
        [Path(sys.executable).parent / "ocr-daemon"], capture_output=True, text=True, check=False,
        env=environment(
            PYTHONPATH=str(REPOSITORY), _OCR_DAEMON_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="4"
        ),
    )  # fmt: skip
    assert sorted(result.stdout.split()) == ["plain,broken.pdf", "plain,locked.pdf", "plain,mail/broken.pdf"]


# Which configuration


def test_configuration_comes_from_the_option_the_variable_or_the_folder(site: Service, tmp_path: Path) -> None:
    """--config beats the variable, the variable beats the usual places, and nothing at all is 78."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("wrong = 1\n", encoding="utf-8")
    option = command("audit", "--config", str(site.config), OCR_DAEMON_CONFIG=str(wrong))
    assert option.returncode == 0, option.stderr
    variable = command("audit", OCR_DAEMON_CONFIG=str(wrong), cwd=site.folder)
    assert variable.returncode == 78
    assert "unknown key: wrong" in variable.stderr
    named = command("audit", OCR_DAEMON_CONFIG=str(tmp_path / "none.toml"), cwd=site.folder)
    assert named.returncode == 78
    if ETC.exists():
        pytest.skip(f"there is a {ETC} on this machine, which comes before the folder")
    folder = command("audit", cwd=site.folder)
    assert folder.returncode == 0, folder.stderr
    nothing = command("audit", cwd=tmp_path)
    assert nothing.returncode == 78
    assert "no configuration" in nothing.stderr


def test_the_environment_beats_the_file(site: Service) -> None:
    """A variable overrides its key, and a misspelt one is refused."""
    beaten = command("run", "--config", str(site.config), OCR_DAEMON__ENGINE__BACKEND="vllm")
    assert beaten.returncode == 69
    misspelt = command("audit", "--config", str(site.config), OCR_DAEMON__ENGIN__BACKEND="cpu")
    assert misspelt.returncode == 78
    assert "OCR_DAEMON__ENGIN__BACKEND" in misspelt.stderr


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


# status


def test_status_of_a_service_that_does_not_run(site: Service) -> None:
    """1, with its last word if there was one."""
    result = run(site, "status")
    assert result.returncode == 1
    assert result.stdout.startswith("not running; its last word was at 20")
    assert run_json(site, "status", code=1)["running_now"] is False
    (site.state_dir / "status.json").unlink()
    nothing = run(site, "status")
    assert nothing.returncode == 1
    assert "not running: there is no status" in nothing.stderr


def test_status_of_a_service_that_was_killed(site: Service) -> None:
    """A status file that is not rewritten any more is no sign of life."""
    path = site.state_dir / "status.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | {"state": "ready", "written_at": time.time() - 60}), encoding="utf-8")
    assert run(site, "status").returncode == 1
    path.write_text(json.dumps(content | {"state": "ready", "written_at": time.time() + 5}), encoding="utf-8")
    assert run(site, "status").returncode == 0


@pytest.mark.skipif(not can_drop_override(), reason="root may do everything, and there is no setpriv")
def test_status_for_a_user_who_may_not_ask(site: Service) -> None:
    """A sentence that says who may, not a traceback; the folder is open to the service's group only."""
    site.state_dir.chmod(0)
    result = command("status", "--config", str(site.config), override=False)
    site.state_dir.chmod(0o755)
    assert result.returncode == 1
    assert result.stderr == f"Error: {site.state_dir}: Permission denied; run it as the service's user\n"


def test_status_of_a_running_service(site: Service) -> None:
    """0, one line in short, the engine, and each inbox with its numbers."""
    site.start().ready()
    result = run(site, "status")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ready; 0 running, 0 waiting, ")
    assert lines[0].endswith("2 done, 1 partial, 3 failed")
    assert lines[1].startswith("engine textlayer (pymupdf-")
    assert lines[2].startswith(f"inbox default ({site.root.path}, ")
    content = run_json(site, "status")
    assert content["running_now"] is True
    assert content["inboxes"][0]["totals"] == {"done": 2, "partial": 1, "failed": 3}
    assert site.stop() == 0


# ocr


def ocr(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ocr-daemon ocr` in a folder that has no configuration."""
    if ETC.exists():
        pytest.skip(f"there is a {ETC} on this machine")
    return command("ocr", "--engine", "textlayer", *arguments, cwd=folder)


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with documents and no configuration."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for name, content in CONTENTS.items():
        if "/" not in name:
            (folder / name).write_bytes(content)
    return folder


def test_ocr_reads_files_now(papers: Path) -> None:
    """Markdown and JSON beside each other in the current folder, nothing else; a partial document is no failure."""
    before = set(papers.iterdir())
    result = ocr(papers, "letter.pdf", "scan.pdf")
    assert result.returncode == 0, result.stderr
    made = {path.name for path in set(papers.iterdir()) - before}
    assert made == {"letter.pdf.md", "letter.pdf.json", "scan.pdf.md", "scan.pdf.json"}
    assert "letter 2.1" in (papers / "letter.pdf.md").read_text(encoding="utf-8")
    assert json.loads((papers / "letter.pdf.json").read_bytes())["page_count"] == 2
    assert "letter.pdf: done" in result.stdout
    assert "scan.pdf: partial" in result.stdout
    assert "page 1: there is ink on the page but no text in the file" in result.stdout


def test_ocr_says_what_failed(papers: Path, tmp_path: Path) -> None:
    """One bad file does not stop the others; the exit code is 1, the JSON has slug and advice."""
    out = tmp_path / "made" / "for it"
    result = ocr(papers, "--json", "-o", str(out), "broken.pdf", "locked.pdf", "none.pdf", "letter.pdf")
    assert result.returncode == 1
    account = {one["path"]: one for one in json.loads(result.stdout)}
    assert [one["reason"] for one in account.values()] == ["corrupt", "encrypted", "unreadable_file", ""]
    assert "Remove the password" in account["locked.pdf"]["detail"]
    assert account["letter.pdf"]["outputs"] == [str(out / "letter.pdf.md"), str(out / "letter.pdf.json")]
    assert sorted(path.name for path in out.iterdir()) == ["letter.pdf.json", "letter.pdf.md"]


def test_ocr_reads_on_after_a_page_that_condemns_its_document(papers: Path) -> None:
    """A picture that was cut off once ended the command with a traceback, and the files after it were not read."""
    (papers / "cut.jpg").write_bytes(jpeg(bars((620, 877)))[:300])
    result = ocr(papers, "--json", "cut.jpg", "letter.pdf")
    assert (result.returncode, result.stderr) == (1, "")
    cut, letter = json.loads(result.stdout)
    assert (cut["status"], cut["reason"]) == ("failed", "corrupt")
    assert letter["status"] == "done"
    assert not list(papers.glob("ocr-daemon-*"))


def tools(reader: Reader) -> Tools:
    """With an assembler that starts no process."""
    return Tools(reader, Assembler(reader.picture, run_here))


async def test_an_engine_that_dies_ends_the_command(papers: Path) -> None:
    """It is no file's fault: it comes out by itself, not in a group, for exit code 69."""
    engine = FakeEngine()
    engine.answers[1] = [EngineDeadError("it died")]
    async with Reader(engine, workers=1) as reader:
        with pytest.raises(EngineDeadError):
            await read_file(tools(reader), papers / "letter.pdf", Order(papers, Options()), lambda *_: None)
    assert not list(papers.glob("*.md"))  # noqa: ASYNC240 - nothing else runs any more


async def test_an_output_that_cannot_be_written_is_the_result(papers: Path) -> None:
    """The file system of the output is named as what is at fault, and other files are read."""
    nowhere = papers / "nowhere"
    async with Reader(FakeEngine(), workers=1) as reader:
        order = Order(nowhere, Options())
        result = await read_file(tools(reader), papers / "letter.pdf", order, lambda *_: None)
    assert (result.status, result.reason) == ("failed", "unwritable_output")
    assert f"{nowhere}: No such file or directory" in result.detail


async def test_files_are_read_side_by_side(papers: Path) -> None:
    """One-page files fill the engine together, no more pages than it takes, and come back in the order of the call."""
    engine = FakeEngine(capacity=6)
    engine.gate.clear()
    files = tuple(papers / f"{number}.pdf" for number in range(30))
    for number, path in enumerate(files):
        path.write_bytes(text_pdf(1, words=f"number {number}"))
    async with Reader(engine, workers=1) as reader:
        with Progress(disable=True) as progress:
            reading = asyncio.create_task(read_all(tools(reader), files, Order(papers, Options()), progress))
            await eventually(lambda: len(engine.calls) == 6)
            engine.gate.set()
            results = await reading
    assert [result.path for result in results] == [str(path) for path in files]
    assert all(result.pages == 1 and result.outputs for result in results)


def test_a_name_too_long_for_its_outputs_is_that_files_result(papers: Path) -> None:
    """The others come out, and all have their account."""
    name = f"{'n' * 246}.pdf"
    (papers / name).write_bytes(text_pdf(1, words="long"))
    result = ocr(papers, "--json", name, "letter.pdf")
    assert result.returncode == 1, result.stderr
    long, letter = json.loads(result.stdout)
    assert (long["status"], long["reason"]) == ("failed", "unwritable_output")
    assert "File name too long" in long["detail"]
    assert letter["status"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_sigterm_leaves_nothing_half_made(papers: Path) -> None:
    """Temporary folders go, as with Ctrl-C; what was finished stays."""
    (papers / "long.pdf").write_bytes(text_pdf(3000, lines=30))
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", "ocr", "--engine", "textlayer", "letter.pdf", "long.pdf"],
        cwd=papers, env=environment(PYTHONPATH=str(REPOSITORY)), stderr=subprocess.PIPE, text=True,
    ) as reading:  # fmt: skip
        wait_until((papers / "letter.pdf.md").exists, LIMIT_S)
        wait_until(lambda: glob(f"{papers}/ocr-daemon-*/pages/*"), LIMIT_S)  # noqa: PTH207 - Path's raises where one goes
        reading.terminate()
        _, said = reading.communicate(timeout=LIMIT_S)
    assert reading.returncode == 143, said
    assert "stopped; the files that were finished are written" in said
    assert not list(papers.glob("ocr-daemon-*"))
    assert not (papers / "long.pdf.md").exists()


def test_ocr_of_two_files_of_one_name(papers: Path) -> None:
    """The second would take the outputs of the first, with --overwrite in silence: it fails and says so."""
    (papers / "mail").mkdir()
    (papers / "mail" / "letter.pdf").write_bytes(CONTENTS["mail/letter.pdf"])
    result = ocr(papers, "--json", "--overwrite", "letter.pdf", "mail/letter.pdf")
    assert result.returncode == 1
    first, second = json.loads(result.stdout)
    assert (first["status"], second["status"], second["reason"]) == ("done", "failed", "output_exists")
    assert "another folder" in second["detail"]
    assert "letter 2.1" in (papers / "letter.pdf.md").read_text(encoding="utf-8")


def test_ocr_overwrites_only_if_told(papers: Path) -> None:
    """What is there stays, unless --overwrite says otherwise."""
    target = papers / "letter.pdf.md"
    target.write_text("mine", encoding="utf-8")
    refused = ocr(papers, "--json", "letter.pdf")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)[0]["reason"] == "output_exists"
    assert target.read_text(encoding="utf-8") == "mine"
    assert not (papers / "letter.pdf.json").exists()
    assert ocr(papers, "--overwrite", "letter.pdf").returncode == 0
    assert "letter 1.1" in target.read_text(encoding="utf-8")


def test_ocr_with_exports(papers: Path) -> None:
    """They lie beside the text; an engine that reads text cannot look at figures again, and is told so."""
    name = os.fsdecode(b"caf\xe9.pdf")
    (papers / "letter.pdf").rename(papers / name)
    result = ocr(papers, "--json", "--export", "layout", "--export", "docling", name)
    (account,) = json.loads(result.stdout)
    assert (account["status"], account["missing"]) == ("done", [])
    assert account["outputs"] == [f"{name}{end}" for end in (".md", ".json", ".docling.json", ".layout.pdf")]
    refused = ocr(papers, "--second-pass", "scan.pdf")
    assert refused.returncode == 78
    assert "cannot describe a figure: leave --second-pass out" in refused.stderr


@pytest.mark.parametrize("arguments", [["ocr", "--json", "none.pdf"], ["check", "--json", "--no-engine"]])
def test_what_is_logged_does_not_mix_with_what_is_printed(site: Service, arguments: list[str]) -> None:
    """A warning in the middle of it once made the JSON of both commands unreadable."""
    script = (
        "import structlog, daemon.check, daemon.oneshot\n"
        "from daemon.cli import cli\n"
        f"cli.main({[*arguments, '--config', str(site.config)]!r}, standalone_mode=False)\n"
        "structlog.get_logger().error('engine.died')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert json.loads(result.stdout)
    assert "engine.died" in result.stderr


def test_ocr_with_a_wrong_variable(papers: Path) -> None:
    """Without a configuration too it is 78 and a sentence; once it was a traceback."""
    if ETC.exists():
        pytest.skip(f"there is a {ETC} on this machine")
    result = command("ocr", "letter.pdf", cwd=papers, OCR_DAEMON__LIMITS__MAX_PAGES="many")
    assert result.returncode == 78
    assert result.stderr.startswith("Error: OCR_DAEMON__LIMITS__MAX_PAGES in the environment: limits.max_pages: ")


def test_ocr_without_its_engine(papers: Path) -> None:
    """An engine that is not installed is 69."""
    result = ocr(papers, "--engine", "vllm", "letter.pdf")
    assert result.returncode == 69
    assert "vLLM is not installed; install it with `pip install" in result.stderr


def test_ocr_obeys_the_limits_of_a_configuration(papers: Path) -> None:
    """A configuration in the folder holds here too."""
    (papers / "config.toml").write_text("[limits]\nmax_pages = 1\n", encoding="utf-8")
    result = ocr(papers, "--json", "letter.pdf")
    assert result.returncode == 1
    assert json.loads(result.stdout)[0]["reason"] == "too_many_pages"
