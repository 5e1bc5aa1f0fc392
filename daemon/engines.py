"""From settings to an engine that has proved itself: the choice, its limits, its warm-up page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.warmup import WARMUP_TEXT, warmup_pdf
from deepseek_ocr.engine import Choice, build, choose
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.pages import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.config import Settings
    from deepseek_ocr.completion import Engine
    from deepseek_ocr.prompt import Task
    from deepseek_ocr.reader import Reader


class Refused(Exception):
    """The service must not start, and waiting does not mend it (exit code 78)."""


def build_engine(settings: Settings, tasks: Sequence[Task] | None = None) -> tuple[Choice, Engine]:
    """The configured engine, not started; raises `EngineStartError`, or `Refused` where a task is beyond it.

    The tasks are those of the inboxes unless given.
    """
    choice = choose(settings.engine.backend)
    cpu = settings.engine.cpu
    engine = build(choice, cpu_workers=cpu.workers, rec_model=cpu.rec_model or None)
    refuse_tasks(engine, [inbox.task for inbox in settings.inbox] if tasks is None else tasks)
    return choice, engine


def refuse_tasks(engine: Engine, tasks: Sequence[Task]) -> None:
    """Raise `Refused` for a task that is beyond the engine."""
    for task in tasks:
        if task not in engine.info.tasks:
            able = ", ".join(sorted(engine.info.tasks))
            raise Refused(f'the {engine.info.name} engine cannot do the task "{task}"; it can: {able}')


def page_limits(settings: Settings) -> Limits:
    """The limits of a document, as its reader wants them."""
    limits = settings.limits
    return Limits(max_file_mb=limits.max_file_mb, max_pages=limits.max_pages, max_page_px=limits.max_page_px)


def engine_account(choice: Choice, engine: Engine) -> dict[str, Any]:
    """What manifests say about the engine."""
    info = engine.info
    return {
        "name": info.name,
        "model": info.model,
        "mode": info.mode,
        "reason": choice.reason,
        "scripts": list(info.scripts),
    }


async def warm_up(reader: Reader) -> None:
    """The engine reads a page before anything is promised; raises `EngineError`."""
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-") as temporary:
        path = Path(temporary) / "warmup.pdf"
        path.write_bytes(warmup_pdf())
        page = await reader.read_page(path, 0)
    text = " ".join(block.text for block in page.blocks)
    if page.problem or WARMUP_TEXT.lower() not in text.lower():
        raise EngineStartError(
            f"the {reader.engine.info.name} engine does not read its warm-up page: {page.problem or repr(text)}"
        )
