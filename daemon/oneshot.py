"""`ocr-daemon ocr`: reads files at once, without a daemon, an inbox or a ledger."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from daemon.engines import build_engine, page_limits
from daemon.outputs import Summary, checkpointed_pages, display, write_checkpoint, write_document
from deepseek_ocr.document import DocumentHead
from deepseek_ocr.errors import DocumentError, EngineError, OcrError, PageError
from deepseek_ocr.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.config import Settings
    from deepseek_ocr.prompt import Options


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


async def read_file(
    reader: Reader,
    path: Path,
    folder: Path,
    options: Options,
    *,
    overwrite: bool,
    on_page: Callable[[int, int], object],
) -> Result:
    """Read one file and write `<name>.md` and `<name>.json` into a folder.

    `on_page(done, total)` is called at the start and after each page.  Raises `EngineError`; all else that can go wrong
    with one file is its result.
    """
    shown = display(str(path))
    targets = _targets(path, folder)
    taken = [target for target in targets if target.exists()]
    if taken and not overwrite:
        return Result(shown, "failed", "output_exists", f"{taken[0]} is there already; --overwrite replaces it")
    try:
        summary = await _read_and_write(reader, path, folder, options, on_page)
    except DocumentError as error:
        return Result(shown, "failed", error.slug, f"{error}. {error.remedy}")
    except PageError as error:
        return Result(shown, "failed", "corrupt", f"it cannot be opened: {error}")
    except _CannotWrite as error:
        return Result(shown, "failed", "unwritable_output", f"the output cannot be written to {folder}: {error}")
    except OSError as error:
        return Result(shown, "failed", "unreadable_file", f"{error.strerror or error}")
    return Result(
        shown,
        "partial" if summary.problems else "done",
        outputs=[str(target) for target in targets],
        pages=summary.pages,
        problems=summary.problems,
    )


def _targets(path: Path, folder: Path) -> list[Path]:
    return [folder / f"{path.name}.md", folder / f"{path.name}.json"]


async def _read_and_write(
    reader: Reader, path: Path, folder: Path, options: Options, on_page: Callable[[int, int], object]
) -> Summary:
    info = await reader.inspect(path)
    done = 0
    on_page(done, info.page_count)
    places = asyncio.Semaphore(reader.engine.info.capacity)
    with _writing():
        temporary = tempfile.TemporaryDirectory(prefix="ocr-daemon-", dir=folder)
    with temporary:
        pages_folder = Path(temporary.name)

        async def one_page(index: int) -> None:
            nonlocal done
            async with places:
                page = await reader.read_page(path, index, options)
            with _writing():
                write_checkpoint(pages_folder, "", page)
            done += 1
            on_page(done, info.page_count)

        try:
            async with asyncio.TaskGroup() as pages:
                for index in range(info.page_count):
                    pages.create_task(one_page(index))
        except ExceptionGroup as group:
            raise _deciding(group) from group
        with _writing():
            summary = _write(reader, pages_folder, path, info.kind, info.page_count, options)
            for target in _targets(path, folder):
                (pages_folder / target.name).replace(target)
    return summary


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


def _write(reader: Reader, folder: Path, path: Path, kind: str, page_count: int, options: Options) -> Summary:
    info = reader.engine.info
    head = DocumentHead(
        source_name=display(path.name), source_type=kind, engine=info.name, model=info.model,
        mode=info.mode and (options.mode or info.mode), task=options.task, page_count=page_count,
    )  # fmt: skip
    return write_document(folder, path.name, head, lambda: checkpointed_pages(folder, "", page_count))


def report(result: Result) -> list[str]:
    """For people."""
    colour = {"done": "green", "partial": "yellow", "failed": "red"}[result.status]
    why = f" ({result.reason}): {result.detail}" if result.reason else ""
    lines = [f"{result.path}: {click.style(result.status, fg=colour)}{why}"]
    lines += [f"  {output}" for output in result.outputs]
    return lines + [f"  page {number}: {problem}" for number, problem in result.problems]


def as_dict(result: Result) -> dict[str, Any]:
    """For --json."""
    return {
        "path": result.path, "status": result.status, "reason": result.reason, "detail": result.detail,
        "outputs": result.outputs, "pages": result.pages,
        "problems": [{"page": number, "problem": problem} for number, problem in result.problems],
    }  # fmt: skip


async def read_files(
    settings: Settings, files: tuple[Path, ...], folder: Path, options: Options, *, overwrite: bool, quiet: bool
) -> list[Result]:
    """Read files one after the other, the pages of each side by side, with a progress bar on standard error.

    Raises `EngineError`: without an engine no other file is read either.
    """
    _, engine = build_engine(settings, tasks=[options.task])
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pages"),
        TimeElapsedColumn(),
    )
    results = []
    #: Output names are made of a file's last part only, so two files of one call can have the same.
    names: dict[str, Path] = {}
    with Progress(*columns, console=console) as progress:
        starting = progress.add_task(f"{engine.info.name} engine starts", total=None)
        async with Reader(engine, limits=page_limits(settings)) as reader:
            progress.remove_task(starting)
            for path in files:
                first = names.setdefault(path.name, path)
                if first is not path:
                    detail = (
                        f"its output would have the name of that of {display(str(first))}; read it into another folder"
                    )
                    results.append(Result(display(str(path)), "failed", "output_exists", detail))
                    continue
                bar = progress.add_task(display(path.name), total=None)

                def on_page(done: int, total: int, bar: TaskID = bar) -> None:
                    progress.update(bar, completed=done, total=total)

                results.append(await read_file(reader, path, folder, options, overwrite=overwrite, on_page=on_page))
    return results
