"""`ocr-daemon ocr`: reads files at once, without a daemon, an inbox or a ledger."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.assembly import EXPORT_SUFFIXES, Assembler, Draft
from daemon.checkpoints import checkpointed_page, checkpointed_pages, write_checkpoint
from daemon.config import Wanted
from daemon.durable import remove_tree
from daemon.engines import build_engine, page_limits, refuse_second_pass
from daemon.names import IMAGES_SUFFIX
from daemon.outputs import Summary, display
from deepseek_ocr.document import DocumentHead
from deepseek_ocr.errors import DocumentError, EngineError, OcrError, PageError
from deepseek_ocr.figures import looks
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from daemon.config import Settings
    from deepseek_ocr.document import Page
    from deepseek_ocr.pages import DocumentInfo
    from deepseek_ocr.prompt import Options


#: Files that are open at once, at least; so many as the engine reads pages at once where that is more.
MIN_OPEN_FILES = 2
#: So many files keep their bars; of more, those that are done are counted in one.
MAX_BARS = 10


@dataclass(slots=True)
class Result:
    """What came of one file."""

    path: str
    status: Literal["done", "partial", "failed"]
    reason: str = ""
    detail: str = ""
    outputs: list[str] = field(default_factory=list)
    pages: int = 0
    #: Page number and problem of each page that was not read as it should.
    problems: list[tuple[int, str]] = field(default_factory=list)
    #: What was asked for beside the text and could not be made.
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of all files of one call."""

    folder: Path
    options: Options
    wanted: Wanted = field(default_factory=Wanted)
    second_pass: bool = False
    overwrite: bool = False


class Tools:
    """What all files of one call share."""

    def __init__(self, reader: Reader, assembler: Assembler) -> None:
        self.reader = reader
        self.assembler = assembler
        capacity = reader.engine.info.capacity
        #: Places of pages in flight, given in the order of the files, and of files that are open.
        self.pages = asyncio.Semaphore(capacity)
        self.files = asyncio.Semaphore(max(MIN_OPEN_FILES, capacity))


async def read_file(tools: Tools, path: Path, order: Order, on_page: Callable[[int, int], object]) -> Result:
    """Read one file and write `<name>.md`, `<name>.json` and what else is wanted into a folder.

    `on_page(done, total)` is called at the start and after each page.  Raises `EngineError`; all else that can go wrong
    with one file is its result.
    """
    shown = display(str(path))
    try:
        with _writing():  # a name that is too long
            taken = [target for target in _targets(path, order) if target.exists()]
        if taken and not order.overwrite:
            return Result(shown, "failed", "output_exists", f"{taken[0]} is there already; --overwrite replaces it")
        outputs, summary = await _read_and_write(tools, path, order, on_page)
    except DocumentError as error:
        return Result(shown, "failed", error.slug, f"{error}. {error.remedy}")
    except PageError as error:
        return Result(shown, "failed", "corrupt", f"it cannot be opened: {error}")
    except _CannotWrite as error:
        return Result(shown, "failed", "unwritable_output", f"the output cannot be written to {order.folder}: {error}")
    except OSError as error:
        return Result(shown, "failed", "unreadable_file", f"{error.strerror or error}")
    return Result(
        shown,
        "partial" if summary.problems or summary.missing else "done",
        # What people open first.
        outputs=[str(order.folder / output) for output in [outputs[-1], *outputs[:-1]]],
        pages=summary.pages,
        problems=summary.problems,
        missing=summary.missing,
    )


def _targets(path: Path, order: Order) -> list[Path]:
    suffixes = [".md", ".json", IMAGES_SUFFIX, *(EXPORT_SUFFIXES[export] for export in order.wanted.exports)]
    return [order.folder / f"{path.name}{suffix}" for suffix in suffixes]


async def _read_and_write(
    tools: Tools, path: Path, order: Order, on_page: Callable[[int, int], object]
) -> tuple[list[str], Summary]:
    reader = tools.reader
    info = await reader.inspect(path)
    with _writing():
        temporary = tempfile.TemporaryDirectory(prefix="ocr-daemon-", dir=order.folder)
    with temporary:
        folder = Path(temporary.name)
        await _read_pages(tools, path, info, order, folder, on_page)
        with _writing():
            draft = Draft(
                folder, path.name, path, _head(reader, path, info, order),
                partial(checkpointed_pages, folder, "", info.page_count), reader.limits, order.wanted,
            )  # fmt: skip
            outputs, summary = await tools.assembler.assemble(draft, asyncio.to_thread)
            remove_tree(order.folder / f"{path.name}{IMAGES_SUFFIX}")  # of an earlier call; --overwrite was given
            for output in outputs:
                (folder / output).replace(order.folder / output)
    return outputs, summary


async def _read_pages(
    tools: Tools, path: Path, info: DocumentInfo, order: Order, folder: Path, on_page: Callable[[int, int], object]
) -> None:
    """Both passes, each with the pages side by side; what they give is kept in a folder."""
    reader, done = tools.reader, 0
    on_page(done, info.page_count)

    async def keep(reading: Callable[[], Awaitable[Page]]) -> None:
        async with tools.pages:
            page = await reading()
        with _writing():
            write_checkpoint(folder, "", page)

    async def first(index: int) -> None:
        nonlocal done
        await keep(lambda: reader.read_page(path, index, order.options))
        done += 1
        on_page(done, info.page_count)

    async def second(page: Page) -> None:
        await keep(lambda: reader.look_closer(path, page, order.options))

    try:
        async with asyncio.TaskGroup() as pages:
            for index in range(info.page_count):
                pages.create_task(first(index))
        if order.second_pass:
            async with asyncio.TaskGroup() as pages:
                for number in range(1, info.page_count + 1):
                    page = checkpointed_page(folder, "", number)
                    if looks(page):
                        pages.create_task(second(page))
    except ExceptionGroup as group:
        raise _deciding(group) from group


class _CannotWrite(Exception):
    """The file system of the output is at fault, not the document."""


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _CannotWrite(error.strerror or str(error)) from error


def _deciding(group: ExceptionGroup[Exception]) -> Exception:
    """Of the faults of several pages the one that decides: what nobody foresaw, the engine, then the first."""

    def weight(error: Exception) -> int:
        if isinstance(error, EngineError):
            return 1
        return 2 if isinstance(error, OcrError | OSError | _CannotWrite) else 0

    return min(group.exceptions, key=weight)


def _head(reader: Reader, path: Path, info: DocumentInfo, order: Order) -> DocumentHead:
    engine = reader.engine.info
    return DocumentHead(
        source_name=display(path.name), source_type=info.kind, engine=engine.name, model=engine.model,
        mode=engine.mode and (order.options.mode or engine.mode), task=order.options.task, page_count=info.page_count,
    )  # fmt: skip


def report(result: Result) -> list[str]:
    """For people."""
    colour = {"done": "green", "partial": "yellow", "failed": "red"}[result.status]
    why = f" ({result.reason}): {result.detail}" if result.reason else ""
    lines = [f"{result.path}: {click.style(result.status, fg=colour)}{why}"]
    lines += [f"  {output}" for output in result.outputs]
    lines += [f"  page {number}: {problem}" for number, problem in result.problems]
    return lines + [f"  {sentence}" for sentence in result.missing]


def as_dict(result: Result) -> dict[str, Any]:
    """For --json."""
    return {
        "path": result.path, "status": result.status, "reason": result.reason, "detail": result.detail,
        "outputs": result.outputs, "pages": result.pages,
        "problems": [{"page": number, "problem": problem} for number, problem in result.problems],
        "missing": result.missing,
    }  # fmt: skip


async def read_files(settings: Settings, files: tuple[Path, ...], order: Order, *, quiet: bool) -> list[Result]:
    """Read files side by side, as many pages at once as the engine takes, with a progress bar on standard error.

    Raises `EngineError`: without an engine no other file is read either; `Refused` where it is asked for too much;
    `CancelledError` on SIGTERM and SIGHUP, which leave nothing half-made as SIGINT does.
    """
    loop, command = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)  # a second one ends it at once, as where a share hangs
        command.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(number, stop, number)
    _, engine = await asyncio.to_thread(build_engine, settings, [order.options.task])
    if order.second_pass:
        refuse_second_pass(engine, "leave --second-pass out")
    order.folder.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with contextlib.ExitStack() as stack, Progress(*columns, console=Console(stderr=True, quiet=quiet)) as progress:
        starting = progress.add_task(f"{engine.info.name} engine starts", total=None, unit="")
        async with Reader(engine, limits=page_limits(settings)) as reader:
            stack.callback((assembler := Assembler(reader.picture)).close)
            progress.remove_task(starting)
            return await read_all(Tools(reader, assembler), files, order, progress)


async def read_all(tools: Tools, files: tuple[Path, ...], order: Order, progress: Progress) -> list[Result]:
    """The results in the order of the files."""
    counted = progress.add_task("all", total=len(files), unit="files") if len(files) > MAX_BARS else None
    #: Output names are made of a file's last part only, so two files of one call can have the same.
    names: dict[str, Path] = {}

    async def one(path: Path) -> Result:
        async with tools.files:
            bar = progress.add_task(display(path.name), total=None, unit="pages")
            result = await read_file(
                tools, path, order, lambda done, total: progress.update(bar, completed=done, total=total)
            )
            if counted is not None:
                progress.remove_task(bar)
                progress.advance(counted)
            return result

    async def refused(path: Path, first: Path) -> Result:
        detail = f"its output would have the name of that of {display(str(first))}; read it into another folder"
        return Result(display(str(path)), "failed", "output_exists", detail)

    try:
        async with asyncio.TaskGroup() as group:
            reading = []
            for path in files:
                first = names.setdefault(path.name, path)
                reading.append(group.create_task(one(path) if first is path else refused(path, first)))
    except ExceptionGroup as faults:
        raise _deciding(faults) from faults
    return [task.result() for task in reading]
