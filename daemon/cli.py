"""The `ocr-daemon` command: one function per subcommand, which parses, calls and prints.

Exit codes: 0 well; 1 something needs attention (audit differs, a document failed, the service does not run); 2 wrong
usage; 69 the engine cannot start; 78 what waiting cannot mend (configuration, folders, permissions): the unit does
not restart on it; 143 `ocr` was stopped.

Each subcommand imports what it needs when it runs: `status` must answer at once, and worker processes load this
module when they start.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepseek_ocr.prompt import AUTO, Mode, Options, Task, mode_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.config import Export, Settings

EX_ATTENTION, EX_UNAVAILABLE, EX_CONFIG = 1, 69, 78
EX_STOPPED = 143  # as a shell tells of SIGTERM
#: How long a thread may take to end after the last work was given up.
HANG_S = 2.0
CONFIG_VARIABLE = "OCR_DAEMON_CONFIG"

config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), metavar="FILE",
    help=f"Configuration; else ${CONFIG_VARIABLE}, /etc/ocr-daemon/config.toml, ./config.toml.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Exit(click.ClickException):
    """Ends the command with a message and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Drop a scan into a folder; its Markdown appears in the outbox, the original in done/ or failed/.

    OCR_DAEMON__<TABLE>__<KEY>=... in the environment overrides a key of the configuration. systemd gives its service
    /etc/ocr-daemon/env and STATE_DIRECTORY; to look at the same things, give a command the same.
    """


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except Exit as error:
        error.show()
        return error.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:  # `ocr-daemon audit | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


# -- the service


@cli.command()
@config_option
def run(config_path: Path | None) -> int:
    """Run the service in the foreground, as systemd does."""
    import asyncio
    from importlib.metadata import version

    import structlog

    from daemon import log
    from daemon.engines import Refused
    from daemon.supervisor import Supervisor
    from daemon.systemd import Notifier
    from daemon.threads import threads_hang
    from deepseek_ocr.errors import EngineStartError

    path = _config_path(config_path)
    settings = _load(path)
    log.set_up(settings.service.log_level)
    structlog.get_logger().info(
        "service.starting", version=version("ocr-daemon"), instance=settings.service.instance_name, config=str(path)
    )
    notifier = Notifier.from_environment()
    try:
        asyncio.run(Supervisor(settings, path, notifier).run())
        code = 0
    except* Refused as refused:
        code = _complain(notifier, refused, EX_CONFIG)
    except* EngineStartError as error:
        code = _complain(notifier, error, EX_UNAVAILABLE)
    except* Exception:  # noqa: BLE001 - the last line before the exit code
        # A fault of our own: systemd starts the service again, and the next start finds everything in its place.
        structlog.get_logger().exception("service.crashed")
        code = EX_ATTENTION
    notifier.close()
    if threads_hang(HANG_S):  # on a dead share: the interpreter would wait for them for ever
        sys.stderr.flush()
        os._exit(code)
    return code


def _complain(notifier: Any, group: BaseExceptionGroup[Exception], code: int) -> int:
    message = str(group.exceptions[0])
    notifier.status(message)
    click.echo(f"Error: {message}", err=True)
    return code


@cli.command()
@config_option
@json_option
@click.option("--no-engine", is_flag=True, help="Leave the engine out (it is started for real otherwise).")
@click.option("--forget-root", metavar="INBOX", help="The root of this inbox was set up anew on purpose: accept it.")
def check(config_path: Path | None, *, as_json: bool, no_engine: bool, forget_root: str | None) -> int:
    """Say whether the service can start: configuration, folders, engine."""
    from daemon import log
    from daemon.check import check as look
    from daemon.check import forget

    log.set_up("warning")  # on standard error, beside what is printed
    path = _config_path(config_path)
    settings = _load(path)
    with _ledger_or(f"the root of {forget_root!r} cannot be forgotten"):
        if forget_root is not None and not forget(settings, forget_root):
            raise click.UsageError(f"there is no inbox {forget_root!r}")
    findings = look(settings, engine=not no_engine)
    code = max((finding.exit_code for finding in findings), default=0)
    if as_json:
        _print_json(
            {
                "config": str(path),
                "ok": code == 0,
                "findings": [{"level": one.level, "topic": one.topic, "message": one.message} for one in findings],
            }
        )
        return code
    click.echo(f"configuration {path}: ok")
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for one in findings:
        click.echo(f"{click.style(one.level, fg=colours[one.level])}: {one.topic}: {one.message}")
    return code


@cli.command()
@config_option
@json_option
def status(config_path: Path | None, *, as_json: bool) -> int:
    """Say what the service is doing; exit code 1 if it does not run."""
    from daemon.status import read, report

    state_dir = _load(_config_path(config_path)).service.state_dir
    try:
        content, alive = read(state_dir, time.time())
    except OSError as error:
        raise Exit(f"{state_dir}: {error.strerror}; run it as the service's user", EX_ATTENTION) from error
    if as_json:
        _print_json({**(content or {}), "running_now": alive})
        return 0 if alive else EX_ATTENTION
    if content is None:
        raise Exit(f"not running: there is no status in {state_dir}", EX_ATTENTION)
    if not alive:
        click.echo(f"not running; its last word was at {content['written']}:")
    click.echo("\n".join(report(content)))
    return 0 if alive else EX_ATTENTION


# -- the account


@cli.command()
@config_option
@json_option
def audit(config_path: Path | None, *, as_json: bool) -> int:
    """Account for every document ever seen; exit code 1 on any difference."""
    from daemon.audit import audit as look

    with _ledger_or("the account cannot be made"):
        balances = look(_load(_config_path(config_path)))
    code = EX_ATTENTION if any(balance.differences for balance in balances) else 0
    if as_json:
        _print_json({"ok": code == 0, "inboxes": [balance.as_dict() for balance in balances]})
        return code
    for one in balances:
        click.echo(
            f"{one.inbox}: seen {one.seen} = {one.done} done + {one.partial} partial + {one.failed} failed "
            f"+ {one.ignored} ignored + {one.pending} pending; {one.collected} collected by users"
        )
        for difference in one.differences:
            click.echo(f"  {click.style('difference', fg='red')}: {difference}")
    return code


def _complete_failed(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names in failed/, for shell completion; a mistake in the configuration is no time for an error."""
    from daemon.retry import failed_names

    try:
        names = failed_names(_load(_config_path(ctx.params.get("config_path"))))
    except (click.ClickException, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete_failed)
@click.option("--all", "everything", is_flag=True, help="Every failed document.")
@click.option("--reason", metavar="SLUG", help="Every document that failed for this reason (encrypted, corrupt, ...).")
@config_option
@json_option
def retry(
    names: tuple[str, ...], config_path: Path | None, *, everything: bool, reason: str | None, as_json: bool
) -> int:
    """Give failed originals back to the inbox.

    NAME is a path in failed/, its last part, or a job's id.
    """
    from daemon.retry import retry as give_back

    if sum((bool(names), everything, reason is not None)) != 1:
        raise click.UsageError("give names, or --all, or --reason SLUG")
    with _ledger_or("not everything could be given back"):
        result = give_back(_load(_config_path(config_path)), names=names, everything=everything, reason=reason)
    missing = bool(result.unmatched) or (not result.given_back and not everything)
    if as_json:
        given_back = [{"name": name, "path": path} for name, path in result.given_back]
        _print_json({"given_back": given_back, "unmatched": result.unmatched, "skipped": result.skipped})
    else:
        for name, path in result.given_back:
            click.echo(f"{name} -> inbox/{path}")
        for name in result.unmatched:
            click.echo(f"nothing that failed matches {name}", err=True)
        for inbox, why in result.skipped.items():
            click.echo(f"inbox {inbox} was skipped: {why}", err=True)
        if not (result.given_back or result.unmatched or result.skipped):
            click.echo("nothing that failed matches" if missing else "nothing has failed", err=missing)
    return EX_ATTENTION if missing or result.skipped else 0


# -- without a daemon


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              metavar="DIR", help="Where FILE.md and FILE.json go; the current folder otherwise.")  # fmt: skip
@click.option("--engine", type=click.Choice(["auto", "vllm", "transformers", "openai", "cpu", "textlayer"]),
              help="Overrides the configuration.")  # fmt: skip
@click.option("--task", type=click.Choice([task.value for task in Task]), default="document", show_default=True,
              help="What to ask of every page; without a GPU only document, image and free.")  # fmt: skip
@click.option("--prompt", default="", help="For --task custom: the prompt.")
@click.option("--text", default="", help="For --task locate: the text to look for.")
@click.option("--mode", type=click.Choice([*(mode.value for mode in Mode), AUTO]), help="Overrides the configuration.")
@click.option("--second-pass", is_flag=True, help="Describe figures and read charts; needs an engine with a model.")
@click.option("--export", "exports", multiple=True, type=click.Choice(["docling", "content_list", "layout"]),
              help="Another output; may be repeated.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace outputs that are there already.")
@config_option
@json_option
def ocr(
    files: tuple[Path, ...], folder: Path, engine: str | None, task: str, prompt: str, text: str, mode: str | None,
    exports: tuple[Export, ...], config_path: Path | None, *, second_pass: bool, overwrite: bool, as_json: bool,
) -> int:  # fmt: skip
    """Read files now, side by side, without a daemon; needs no configuration."""
    import asyncio

    from daemon import log
    from daemon.config import Wanted
    from daemon.engines import Refused
    from daemon.oneshot import Order, as_dict, read_files, report
    from deepseek_ocr.errors import EngineError

    log.set_up("error")  # on standard error; what is less is in the results
    try:
        options = Options(Task(task), prompt, text, mode_choice(mode) if mode else None)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    settings = _load(_find_config(config_path))
    if engine:
        settings = settings.model_copy(update={"engine": settings.engine.model_copy(update={"backend": engine})})
    try:
        order = Order(folder, options, Wanted(exports=exports), second_pass=second_pass, overwrite=overwrite)
        results = asyncio.run(read_files(settings, files, order, quiet=as_json))
    except asyncio.CancelledError as stopped:
        raise Exit("stopped; the files that were finished are written", EX_STOPPED) from stopped
    except EngineError as error:
        raise Exit(str(error), EX_UNAVAILABLE) from error
    except (Refused, OSError) as error:
        raise Exit(str(error), EX_CONFIG) from error
    if as_json:
        _print_json([as_dict(result) for result in results])
    else:
        for result in results:
            click.echo("\n".join(report(result)))
    return EX_ATTENTION if any(result.status == "failed" for result in results) else 0


@cli.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("var/demo"), show_default=True)
def demo(folder: Path) -> int:
    """Show the whole journey on generated documents; takes about a minute."""
    from rich.console import Console

    from daemon.demo import DemoError, run_demo

    try:
        # A pipe has no width; a guess of 80 would cut the paths people are to look at.
        right = run_demo(folder.resolve(), Console(width=None if sys.stdout.isatty() else 120))
    except DemoError as error:
        raise Exit(str(error), EX_ATTENTION) from error
    return 0 if right else EX_ATTENTION


@cli.command()
@json_option
def version(*, as_json: bool) -> None:
    """Print the versions of the service and of what reads for it."""
    from daemon.engines import package_versions

    versions = package_versions() | {"python": sys.version.split()[0]}
    if as_json:
        _print_json(versions)
    else:
        click.echo("\n".join(f"{name} {number}" for name, number in versions.items()))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(ocr-daemon completion bash)"."""
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(complete(cli, {}, "ocr-daemon", "_OCR_DAEMON_COMPLETE").source())


# -- configuration


def _find_config(given: Path | None) -> Path | None:
    """The file to use; a file that is named must exist, the usual places are tried in turn."""
    named = given or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named:
        return named
    usual = (Path("/etc/ocr-daemon/config.toml"), Path("config.toml"))
    return next((path for path in usual if path.exists()), None)


def _config_path(given: Path | None) -> Path:
    found = _find_config(given)
    if found is None:
        raise Exit(
            f"no configuration: give --config, set {CONFIG_VARIABLE}, or write /etc/ocr-daemon/config.toml", EX_CONFIG
        )
    return found


def _load(path: Path | None) -> Settings:
    from daemon.config import ConfigError, defaults, load

    try:
        return load(path) if path else defaults()
    except ConfigError as error:
        raise Exit(str(error), EX_CONFIG) from error


@contextlib.contextmanager
def _ledger_or(complaint: str) -> Iterator[None]:
    """What needs the ledger; without one, or where a folder does not answer, the command ends with this complaint."""
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise Exit(f"{complaint}: {error}", EX_ATTENTION) from error


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=2))
