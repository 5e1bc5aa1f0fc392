"""The `ocr-daemon` command as people and scripts use it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.cli import cli
from tests.finished_site import (
    ETC,
    finished_fixture,  # noqa: F401 - a fixture, by the name `finished`
    run,
    run_json,
    site_fixture,  # noqa: F401 - a fixture, by the name `site`
)
from tests.service import REPOSITORY, Service, can_drop_override, command, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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
