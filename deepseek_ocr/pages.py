"""A file -> page images, one at a time, with the text embedded in each.

What a file is, is told by its content; its name is never looked at.  Everything here is synchronous and runs in worker
processes (`processes.ProcessPool` with `initialize_worker`): decoders crash, loop and eat memory on bad input.  The
last document stays open in its process, as opening one of thousands of pages, or a damaged one, costs more than a page.

Importing this module is cheap (the daemon does, for its types); the libraries are loaded with the first document.

Left to others: time limits and dying processes (the pool), what to do about a page that fails (the reader).
Residual risks: kinds are told by their first bytes, so a file of another kind that begins like a picture ends as
`Corrupt`, not as `UnsupportedType`; a file that changes while it is read gives pages of both states (the daemon
compares size and time before it publishes); a large PDF stays open, also after it was moved, until the next document.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from deepseek_ocr.errors import Corrupt, EmptyFile, FileTooLarge, PageError, UnsupportedType
from deepseek_ocr.tile_memory import store
from deepseek_ocr.view import WHOLE

if TYPE_CHECKING:
    from pathlib import Path

    from deepseek_ocr.completion import Needs, PageImage
    from deepseek_ocr.pages_image import OpenImage
    from deepseek_ocr.pages_pdf import OpenPdf
    from deepseek_ocr.prompt import ModeChoice
    from deepseek_ocr.tile_memory import Place
    from deepseek_ocr.view import View

MIB: Final = 1024 * 1024
#: What operators' limits are counted in.
MB: Final = 1_000_000
#: Dots per inch at which a PDF is rendered: A4 becomes 1191 x 1684, which the model's crops show pixel by pixel.
RENDER_DPI: Final = 144
#: Address space a worker may map on top of what it has at its start: the libraries (170 MB), a picture of 200 million
#: pixels at Pillow's 4 bytes each, and its smaller copies.
WORKER_MEMORY_MB: Final = 2048
#: Bytes at the start of a file that are looked at; a PDF header may stand anywhere in the first 1024 (ISO 32000-1,
#: annex H.3.4.1).
HEAD_BYTES: Final = 1024
#: PDFs up to this size are read into memory and their files closed.  An open file that somebody deletes from an NFS
#: share leaves a `.nfs...` file behind, and this process keeps the last document open until it gets another one.
MAX_MEMORY_BYTES: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a document is too much; the operator's `[limits]`."""

    #: 10^6 bytes.
    max_file_mb: int = 500
    max_pages: int = 5000
    #: Pixels of one decoded picture.
    max_page_px: int = 200_000_000


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """What a file turned out to be."""

    #: pdf, png, jpeg, tiff, webp, bmp, gif or heic.
    kind: str
    page_count: int
    #: Whether a damaged PDF had to be repaired to open.
    repaired: bool


def initialize_worker(memory_mb: int = WORKER_MEMORY_MB) -> None:
    """Make this process one that reads pages: bounded in memory, on one thread, silent, without core dumps.

    The bound is on address space, so that a decompression bomb ends as `PageError` or `DocumentError` before the system
    runs out of memory and kills a process of its own choice.
    """
    # libtiff and others write on standard error, in between the lines of the daemon's log.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no file of ours
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + memory_mb * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def inspect(path: Path, limits: Limits) -> DocumentInfo:
    """What the file is and how many pages it has; raises a `DocumentError` that says why it cannot be read.

    No page is decoded.  An `OSError` with a number is the file system's and passes through.
    """
    document = _last.document(path, limits)
    return DocumentInfo(document.kind, document.page_count, document.repaired)


def load_page(
    path: Path,
    page_index: int,
    *,
    needs: Needs,
    limits: Limits,
    mode: ModeChoice | None = None,
    dpi: float = RENDER_DPI,
    view: View = WHOLE,
    place: Place | None = None,
) -> PageImage:
    """A page, upright, or a part of it; raises `PageError`, and a `DocumentError` where the document cannot be read.

    `needs` says what becomes of its picture; with "nothing" a page that has text is not rendered, and its ink is then
    the area of that text.  "tiles" are those of `mode`, and come without the page's text;
    "auto" chooses one for a whole page and is gundam for a part.
    A `view` that is not of the whole page comes with its own size, in the page's unit as it is turned, and its own ink;
    it has no text layer.  A PDF is rendered for it, a picture is cut out of the original.
    Very large pages become images of bounded size (`sizes.py`); width and height stay those of the original.
    Where there is a `place`, tiles are stored in it.
    An `OSError` with a number is the file system's and passes through.
    """
    document = _last.document(path, limits)
    try:
        page = document.load(
            page_index, pixels=needs != "nothing", dpi=dpi, max_page_px=limits.max_page_px, view=view,
            mode=mode if needs == "tiles" else None,
        )  # fmt: skip
        page = _as_needed(_turned(page, view), needs, mode)
    except MemoryError as error:
        raise PageError("the page needs more memory than a worker may use") from error
    except (PageError, Corrupt) as error:
        _raise_environment_fault(path, error)
        raise
    if place is not None and page.tiles is not None:
        # Where there is no room they travel as they are.
        with contextlib.suppress(OSError, MemoryError):
            return replace(page, tiles=None, stored=store(page.tiles, place))
    return page


def _turned(page: PageImage, view: View) -> PageImage:
    """The part of a page turned clockwise as the view says."""
    if not view.turn:
        return page
    size = (page.width, page.height) if view.turn == 180 else (page.height, page.width)  # noqa: PLR2004 - degrees
    page = replace(page, width=size[0], height=size[1])
    if page.pixels is None:
        return page
    import numpy as np  # noqa: PLC0415 - 0.1 s, in workers only
    from PIL import Image  # noqa: PLC0415 - the same

    from deepseek_ocr.ink import look  # noqa: PLC0415 - the same

    pixels = np.ascontiguousarray(np.rot90(page.pixels, -view.turn // 90))
    ink = look(Image.fromarray(pixels))  # lines of text run another way now
    return replace(page, pixels=pixels, ink_grid=ink.grid, sideways=ink.sideways)


def _as_needed(page: PageImage, needs: Needs, mode: ModeChoice | None) -> PageImage:
    """The page with its picture in the form the engine looks at; a blank one keeps none, as no engine will see it."""
    if page.pixels is None or needs in {"nothing", "pixels"}:
        return page
    if page.ink == 0:
        return replace(page, pixels=None)
    if needs == "png":
        from PIL import Image  # noqa: PLC0415 - 0.1 s, in workers only

        file = io.BytesIO()
        # Level 1: half a second less for A4 than the default, for a tenth more bytes; they live for one request.
        Image.fromarray(page.pixels).save(file, "PNG", compress_level=1)
        return replace(page, pixels=None, png=file.getvalue())
    if mode is None:
        raise ValueError("tiles are those of a mode")
    from deepseek_ocr.tiles import tile  # noqa: PLC0415 - the same

    return replace(page, pixels=None, tiles=tile(page.pixels, mode))


# The open document


class _LastDocument:
    """The document that this process read last, kept open."""

    def __init__(self) -> None:
        #: What the document was opened as; another file under the same name is another key.
        self._key: tuple[object, ...] | None = None
        self._document: OpenPdf | OpenImage | None = None

    def document(self, path: Path, limits: Limits) -> OpenPdf | OpenImage:
        status = path.stat()
        key = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, limits)
        if self._document is None or key != self._key:
            self.close()
            self._document = _open(path, status.st_size, limits)
            self._key = key
        return self._document

    def close(self) -> None:
        if self._document is not None:
            self._document.close()
        self._document = self._key = None


_last = _LastDocument()


def close_document() -> None:
    """Close the document that is kept open in this process, if any."""
    _last.close()


def _open(path: Path, size: int, limits: Limits) -> OpenPdf | OpenImage:
    if size == 0:
        raise EmptyFile("the file has no bytes")
    if size > limits.max_file_mb * MB:
        raise FileTooLarge(f"the file has {size / MB:.1f} MB, the limit is {limits.max_file_mb} MB")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        kind = kind_of(head)
        content = head + file.read() if kind == "pdf" and size <= MAX_MEMORY_BYTES else None
    try:
        if kind == "pdf":
            from deepseek_ocr.pages_pdf import OpenPdf  # noqa: PLC0415 - 0.6 s, in workers only

            return OpenPdf(path, content, max_pages=limits.max_pages)
        from deepseek_ocr.pages_image import OpenImage  # noqa: PLC0415 - 0.1 s, in workers only

        return OpenImage(path, kind, max_pages=limits.max_pages, max_page_px=limits.max_page_px)
    except MemoryError as error:
        raise Corrupt("opening the file needs more memory than a worker may use") from error
    except Corrupt as error:
        _raise_environment_fault(path, error)
        raise


def _raise_environment_fault(path: Path, error: BaseException) -> None:
    """Raise the file system's error where that is the cause: libraries report it as one more damaged file."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    with path.open("rb") as file:
        file.read(1)
        file.seek(-1, os.SEEK_END)
        file.read(1)


# Kinds

#: Beginning of a file -> its kind.  JPEG: SOI and the next marker; TIFF with 32-bit and 64-bit (BigTIFF) offsets.
_MAGIC: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "tiff"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    # Two letters are too few: the size of the second header, which is one of a few, stands at 14.
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "bmp"),
)
#: Brands (ISO/IEC 23008-12) of files with HEVC pictures; `mif1` and `msf1` say only that it is some picture.
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"})
_PDF_HEADER: Final = re.compile(rb"%PDF-\d")
#: What people drop by mistake -> what to call it.
_FOREIGN: Final = (
    (re.compile(rb"PK\x03\x04"), "a ZIP archive or an office document (Word, Excel, EPUB)"),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an office document (Word, Excel) or a mail"),
    (re.compile(rb"\{\\rtf"), "a rich text document"),
    (re.compile(rb"%!PS"), "PostScript"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf|Rar!"), "a packed archive"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*<(\?xml|!doctype|html|svg|!--)", re.IGNORECASE), "a web page, SVG or XML"),
)


def kind_of(head: bytes) -> str:
    """The kind of a file with these first bytes; raises `UnsupportedType`, or `Corrupt` for a hole in a file."""
    for magic, kind in _MAGIC:
        if magic.match(head):
            return kind
    if head[4:8] == b"ftyp":
        length = int.from_bytes(head[:4], "big")
        brands = {head[at : at + 4] for at in (8, *range(16, min(length, len(head)), 4))}
        if brands & _HEIC_BRANDS:
            return "heic"
        raise UnsupportedType("the content is a video or a picture of an unsupported kind (AVIF, MP4, ...)")
    for magic, name in _FOREIGN:
        if magic.match(head):
            raise UnsupportedType(f"the content is {name}")
    if _PDF_HEADER.search(head):
        return "pdf"
    if not head.strip(b"\0"):
        raise Corrupt("the file begins with nothing but zero bytes; it was probably not copied to the end")
    if is_text(head):
        raise UnsupportedType("the content is plain text")
    raise UnsupportedType("the content is of no known document type")


def is_text(head: bytes) -> bool:
    """Whether this could be the beginning of a text file."""
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head)
