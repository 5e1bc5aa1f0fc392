"""A document's outputs, but for its manifest: text and JSON, and what else its inbox asks for.

What can crash or eat memory (libraries that draw or export) runs in processes of its own.  The text is what people
wait for: what cannot be made beside it is named in the manifest and makes the document partial, never failed.

Left to others: reading the pages (`worker.py`), where outputs go (`folders.py`).
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from daemon.durable import sync_folder, write_file
from daemon.faults import deciding
from daemon.names import IMAGES_SUFFIX
from daemon.outputs import display, finish_document, write_document
from deepseek_ocr.content_list import export_content_list
from deepseek_ocr.docling import export_docling
from deepseek_ocr.document import DocumentTail
from deepseek_ocr.errors import DocumentError, PageError, WorkerDied
from deepseek_ocr.figures import pictures, with_pictures
from deepseek_ocr.layout_pdf import draw_layout
from deepseek_ocr.pages import initialize_worker
from deepseek_ocr.processes import ProcessPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from daemon.config import Export, Wanted
    from daemon.outputs import Summary
    from deepseek_ocr.document import DocumentHead, Page
    from deepseek_ocr.pages import Limits
    from deepseek_ocr.view import View

log = structlog.get_logger()

T = TypeVar("T")

#: Export -> what is behind the document's name, in the order in which they are published.
EXPORT_SUFFIXES: Final[dict[Export, str]] = {
    "docling": ".docling.json",
    "content_list": ".content_list.json",
    "layout": ".layout.pdf",
}
#: Processes for exports, and calls after which one is replaced.  Two, so that a long document does not hold up all
#: others; each keeps what keywords and exports have loaded.
PROCESSES: Final = 2
MAX_CALLS: Final = 500
#: One export of a document of the most pages; those of 300 pages take seconds.
TIMEOUT_S: Final = 900.0
#: Of what a library says: the first mistakes of a validation are enough for a manifest.
MAX_REASON_CHARS: Final = 300
#: Pictures of one document that are rendered at once.
PICTURES_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """A document whose pages are all read."""

    #: Where its outputs are made, and what they are called.
    folder: Path
    name: str
    source: Path
    head: DocumentHead
    #: The pages in order; called more than once.
    pages: Callable[[], Iterable[Page]]
    limits: Limits
    wanted: Wanted

    def output(self, suffix: str) -> Path:
        """The path of one output."""
        return self.folder / f"{self.name}{suffix}"


class Run(Protocol):
    """Runs a blocking call elsewhere: in the threads of a share, or in a process."""

    def __call__(self, function: Callable[..., T], /, *args: object) -> Awaitable[T]:
        """What the call returns, or raises."""
        ...


class Assembler:
    """Makes outputs; `close` ends its processes, which start when they are first needed."""

    def __init__(self, picture: Callable[[Path, int, View], Awaitable[bytes]], run: Run | None = None) -> None:
        """`picture` renders a part of a page as PNG; `run` is for tests that need no processes."""
        self._picture = picture
        self._pool = ProcessPool(PROCESSES, initializer=initialize_worker, max_calls=MAX_CALLS)
        self._run: Run = run or self._in_process

    def close(self) -> None:
        """Kill the processes, at once."""
        self._pool.close()

    async def assemble(self, draft: Draft, on_disk: Run) -> tuple[list[str], Summary]:
        """Write and sync all outputs but the manifest; their names in the order of publishing, and the summary.

        `on_disk` runs what writes.  Raises `OSError` where the file system is at fault.
        """
        missing: list[str] = []
        made = await self._write_pictures(draft, on_disk, missing) if draft.wanted.images else {}

        def pages() -> Iterator[Page]:
            return (with_pictures(page, made) for page in draft.pages())

        summary = await on_disk(write_document, draft.folder, draft.name, draft.head, pages)
        tail = DocumentTail()
        if draft.wanted.keywords:
            tail = await self._made("keywords", missing, _digest, draft.output(".md")) or tail
        await on_disk(finish_document, draft.folder, draft.name, tail)
        outputs = [f"{draft.name}{IMAGES_SUFFIX}"] if made else []
        outputs.append(f"{draft.name}.json")
        outputs += await self._export(draft, missing)
        outputs.append(f"{draft.name}.md")
        summary.missing = missing
        return outputs, summary

    async def _export(self, draft: Draft, missing: list[str]) -> list[str]:
        """Make the exports; the names of those that came out whole."""
        docjson, out = draft.output(".json"), {name: draft.output(suffix) for name, suffix in EXPORT_SUFFIXES.items()}
        orders: tuple[tuple[Export, Callable[..., None], tuple[object, ...]], ...] = (
            ("docling", export_docling, (docjson, out["docling"])),
            ("content_list", export_content_list, (docjson, out["content_list"])),
            ("layout", draw_layout, (draft.source, docjson, out["layout"], draft.limits)),
        )
        made = []
        for export, function, args in orders:
            if export in draft.wanted.exports:
                already = len(missing)
                await self._made(display(out[export].name), missing, function, *args)
                if len(missing) == already:
                    made.append(out[export].name)
        return made

    async def _made(self, what: str, missing: list[str], function: Callable[..., T], *args: object) -> T | None:
        """What a call in a process returns; None where it fails for other reasons than the file system."""
        try:
            try:
                return await self._run(function, *args)
            except WorkerDied:  # perhaps for its neighbour's hunger for memory
                return await self._run(function, *args)
        except Exception as error:
            # One without a number is a library's, and memory is what the process may have, not what the machine has.
            if isinstance(error, OSError) and error.errno not in {None, errno.ENOMEM}:
                raise
            log.warning("export.failed", what=what, exc_info=error)
            missing.append(f"{what} could not be made: {_in_short(error)}")
            return None

    async def _in_process(self, function: Callable[..., T], /, *args: object) -> T:
        return await self._pool.run_within(TIMEOUT_S, function, *args)

    async def _write_pictures(self, draft: Draft, on_disk: Run, missing: list[str]) -> dict[str, str]:
        """The pictures of figures and charts; block id -> file name of those that could be made."""
        wanted = await on_disk(_pictures_of, draft.pages)
        if not wanted:
            return {}
        folder = draft.output(IMAGES_SUFFIX)
        await on_disk(folder.mkdir)
        places = asyncio.Semaphore(PICTURES_AT_ONCE)
        made: dict[str, str] = {}

        async def write(page_index: int, block_id: str, name: str, view: View) -> None:
            async with places:
                try:
                    png = await self._picture(draft.source, page_index, view)
                except (PageError, DocumentError) as error:
                    missing.append(f"the picture {name} could not be made: {error}")
                    return
                await on_disk(write_file, folder / name, png)
                made[block_id] = name

        try:
            async with asyncio.TaskGroup() as group:
                for one in wanted:
                    group.create_task(write(*one))
        except BaseExceptionGroup as faults:
            raise deciding(faults) from faults
        await on_disk(sync_folder, folder)
        return made


def _in_short(error: Exception) -> str:
    """What a library says, in a line that the ledger can hold: it may quote the document, in bytes that are no text."""
    words = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    return words[:MAX_REASON_CHARS] or type(error).__name__


def _digest(markdown: Path) -> DocumentTail:
    from deepseek_ocr.keywords import document_tail  # noqa: PLC0415 - 0.3 s and stop words of 50 languages, in processes

    return document_tail(markdown)


def _pictures_of(pages: Callable[[], Iterable[Page]]) -> list[tuple[int, str, str, View]]:
    """Page index, block, file name and view of every picture of a document."""
    return [(page.page_number - 1, *picture) for page in pages() for picture in pictures(page)]
