"""Documents made for tests: PDFs written by hand, so that every oddity can be put into them, and odd pictures.

Documents that look like what people drop are in `daemon/samples.py`.  `write`, `load` and `rgb` are how tests put them
on the disk and read their pages.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
from PIL import Image

from deepseek_ocr.pages import Limits, load_page
from deepseek_ocr.view import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.view import View

LIMITS = Limits()

A4 = (595, 842)
#: The order in which the four corners of `corners()` follow each other, clockwise from the top left.
CORNER_COLOURS = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 200, 0))


# PDF


def pdf(objects: Sequence[bytes], *, trailer: bytes = b"", version: bytes = b"1.7") -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalog."""
    content = bytearray(b"%PDF-" + version + b"\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for place in places:
        content += b"%010d 00000 n \n" % place
    content += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, table)
    return bytes(content)


def stream(body: bytes, extra: bytes = b"") -> bytes:
    """A stream object."""
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(body), extra, body)


def content_pdf(
    contents: Sequence[bytes], *, size: tuple[float, float] = A4, page: bytes = b"", resources: bytes = b""
) -> bytes:
    """One page per content stream; Helvetica is /F1, `page` goes into every page dictionary."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * index) for index in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d /MediaBox [0 0 %g %g] >>" % (kids, len(contents), *size),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for index, content in enumerate(contents):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> %s >> %s >>"
            % (5 + 2 * index, resources, page)
        )
        objects.append(stream(content))
    return pdf(objects)


def text_content(lines: Sequence[str], *, size: float = 11, left: float = 72, top: float = 780) -> bytes:
    """A content stream with these lines below each other."""
    shown = b"".join(b"(%s) Tj T*\n" % _literal(line) for line in lines)
    return b"BT /F1 %g Tf %g TL %g %g Td\n%sET" % (size, 1.3 * size, left, top, shown)


def text_pdf(pages: int, *, lines: int = 30, words: str = "the quick brown fox jumps over the lazy dog") -> bytes:
    """A born-digital PDF of many pages, about 2 KB each; every page names its number."""
    return content_pdf(
        [
            text_content([f"Page {index + 1}", *(f"{words} {index + 1}.{line + 1}" for line in range(lines))])
            for index in range(pages)
        ]
    )


def scanned_pdf(pages: int, *, pixels: tuple[int, int] = (1240, 1754)) -> bytes:
    """Pages that are one grey picture each, of grain and bars like lines of text, all different."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d /MediaBox [0 0 595 842] >>"
        % (b" ".join(b"%d 0 R" % (3 + 3 * index) for index in range(pages)), pages),
    ]
    for index in range(pages):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R /Resources << /XObject << /Im %d 0 R >> >> >>"
            % (4 + 3 * index, 5 + 3 * index),
            stream(b"595 0 0 842 0 0 cm /Im Do"),
            stream(
                jpeg(bars(pixels, seed=index)),
                b"/Type /XObject /Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace /DeviceGray "
                b"/Filter /DCTDecode" % pixels,
            ),
        ]
    return pdf(objects)


def _literal(text: str) -> bytes:
    return text.encode("cp1252", "replace").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


# Pictures


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """The picture as JPEG."""
    return encoded(image, "JPEG", **options)


def corners(width: int = 120, height: int = 80) -> Image.Image:
    """Four coloured quarters on a picture that is wider than high: every turn and mirror image looks different."""
    image = Image.new("RGB", (width, height))
    half = (width // 2, height // 2)
    for colour, place in zip(CORNER_COLOURS, ((0, 0), (half[0], 0), half, (0, half[1])), strict=True):
        image.paste(Image.new("RGB", half, colour), place)
    return image


def bars(size: tuple[int, int], *, seed: int = 0) -> Image.Image:
    """A grey page with rows of dark bars in the place of words, with grain."""
    random = np.random.default_rng(seed)
    width, height = size
    levels = np.full((height, width), 235, np.int16)
    row = max(4, height // 60)
    for top in range(2 * row, height - 3 * row, 2 * row):
        left = width // 10
        while left < width - width // 5:
            length = int(random.integers(row, 6 * row))
            levels[top : top + row // 2, left : left + length] = 40
            left += length + row
    levels += random.integers(-6, 7, levels.shape, dtype=np.int16)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def paper(size: tuple[int, int] = (1240, 1754), *, level: float = 235, grain: float = 0, seed: int = 0) -> Image.Image:
    """A blank sheet: `level` is its grey, `grain` the standard deviation of its noise."""
    noise = np.random.default_rng(seed).normal(0, grain, (size[1], size[0])) if grain else 0
    return Image.fromarray((np.full((size[1], size[0]), level) + noise).clip(0, 255).astype(np.uint8))


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises a picture of this size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def heic(image: Image.Image) -> bytes:
    """The picture as HEIC."""
    pillow_heif.register_heif_opener()
    return encoded(image, "HEIF", quality=95)


# Reading them


def write(folder: Path, content: bytes, name: str = "document.bin") -> Path:
    """The content in a file, by default under a name that says nothing."""
    path = folder / name
    path.write_bytes(content)
    return path


def load(
    path: Path, page_index: int = 0, *, pixels: bool = True, limits: Limits = LIMITS, view: View = WHOLE
) -> PageImage:
    """A page or a part of it, with its pixels unless they are unwanted."""
    return load_page(path, page_index, needs="pixels" if pixels else "nothing", limits=limits, view=view)


def rgb(page: PageImage) -> NDArray[np.uint8]:
    """The pixels of a page that has some."""
    assert page.pixels is not None
    assert page.pixels.dtype == np.uint8
    assert page.pixels.flags.c_contiguous
    assert page.pixels.shape[2] == 3
    return page.pixels
