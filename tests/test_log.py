"""Log events: the list of them, and the form they are written in."""

from __future__ import annotations

import ast
import functools
import json
import os
import pty
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import daemon.log

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
LEVELS = {"debug", "info", "warning", "error"}
EVENT = re.compile(r"[a-z]+\.[a-z_]+")


# The list of events


def listed() -> dict[str, str]:
    """Event -> level, as log.py's docstring has them."""
    rows = re.findall(rf"^({EVENT.pattern})\s+(\w+)\s+\S", daemon.log.__doc__ or "", re.MULTILINE)
    assert len(rows) == len(dict(rows)), "an event is listed twice"
    return dict(rows)


@functools.cache
def used() -> dict[str, set[str]]:
    """Event -> levels, as the code writes them: log.<level>("...") and aliases of log.<level>."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (*(ROOT / "daemon").rglob("*.py"), *(ROOT / "deepseek_ocr").rglob("*.py")):
        for event, level in events_in(ast.parse(path.read_text(encoding="utf-8"))):
            found[event].add(level)
    return found


def events_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every event with a level it may be written at."""
    aliases = {
        target.id: levels_in(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not isinstance(node.value, ast.Call)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            levels = aliases.get(node.func.id, set()) if isinstance(node.func, ast.Name) else levels_in(node.func)
            for constant in ast.walk(node.args[0]):
                if isinstance(constant, ast.Constant) and EVENT.fullmatch(str(constant.value)):
                    yield from ((str(constant.value), level) for level in levels)


def levels_in(expression: ast.expr) -> set[str]:
    """Levels of a logger that an expression names: log.info, structlog.get_logger().info, `a if x else b` of them."""
    names = {
        node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"log", "structlog.get_logger()"}
    }
    return {"error" if name == "exception" else name for name in names} & LEVELS


def test_every_event_is_listed_and_every_listed_event_is_used() -> None:
    """The docstring of log.py and the code agree, both ways."""
    assert set(listed()) == set(used())


@pytest.mark.parametrize(("event", "level"), listed().items())
def test_every_event_has_its_level(event: str, level: str) -> None:
    """The level in the list is one that the code writes it at."""
    assert level in used()[event]


# The form


_BEGIN = """
from daemon.log import set_up
import structlog
log = structlog.get_logger()
"""


def run(code: str) -> str:
    """What a process writes on standard error."""
    return subprocess.run(
        [sys.executable, "-c", _BEGIN + code], stderr=subprocess.PIPE, cwd=ROOT, check=True, text=True
    ).stderr


_BUSY = """
set_up("info")
log.debug("page.recognized")
log.info("job.claimed", file="caf\\udce9.pdf", pages=3)
with structlog.contextvars.bound_contextvars(job_id="job-1"):
    try:
        page_text = "SECRET words of the page"
        raise ValueError("the reason")
    except ValueError:
        log.exception("job.crashed", attempts=1)
import logging, warnings
logging.getLogger("some.library").warning("it says %s", "so")
logging.getLogger("some.library").info("chatter")
warnings.warn("old ways", DeprecationWarning, stacklevel=1)
"""


def test_every_line_is_json() -> None:
    """One object per line with event, level and time; libraries and warnings are events too."""
    lines = [json.loads(line) for line in run(_BUSY).splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("job.claimed", "info"), ("job.crashed", "error"), ("library.warned", "warning"),
        ("library.warned", "warning"),
    ]  # fmt: skip
    claimed, crashed, library, warning = lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", claimed["time"])
    assert (claimed["file"], claimed["pages"]) == ("caf\udce9.pdf", 3)
    assert (crashed["job_id"], crashed["attempts"]) == ("job-1", 1)
    assert (library["library"], library["message"]) == ("some.library", "it says so")
    assert "old ways" in warning["message"]


def test_a_traceback_tells_where_and_never_what_was_read() -> None:
    """A traceback has files, lines and the error, and no local variables, among which page text would be."""
    written = run(_BUSY)
    crashed = json.loads(written.splitlines()[1])
    assert crashed["exception"][0]["exc_type"] == "ValueError"
    assert crashed["exception"][0]["exc_value"] == "the reason"
    assert crashed["exception"][0]["frames"][0]["lineno"]
    assert "SECRET" not in written


def test_a_terminal_gets_lines_for_people() -> None:
    """On a terminal the same events are readable, with a traceback that has no local variables either."""
    main, side = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", _BEGIN + _BUSY], stderr=side, cwd=ROOT) as process:
        os.close(side)
        written = b""
        while True:
            try:
                written += os.read(main, 65_536)
            except OSError:  # the other side is closed
                break
        os.close(main)
        assert process.wait() == 0
    text = written.decode()
    assert "job.claimed" in text
    assert "ValueError" in text
    assert "{" not in text.splitlines()[0]
    assert "page_text = " not in text.replace('page_text = "SECRET words of the page"', "")


@pytest.mark.parametrize("as_json", [True, False])
def test_the_form_can_be_chosen(as_json: bool) -> None:
    """`json` decides where it is given, whatever standard error is."""
    written = run(f'set_up("info", json={as_json})\nlog.info("service.ready")')
    assert written.startswith("{") is as_json
    assert "service.ready" in written


def test_lower_levels_are_left_out() -> None:
    """The configured level is the lowest that is written."""
    written = run('set_up("error")\nlog.warning("root.paused")\nlog.error("engine.died")')
    assert [json.loads(line)["event"] for line in written.splitlines()] == ["engine.died"]
