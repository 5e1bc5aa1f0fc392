"""Files of every kind, sound and not, through `inspect` and `load_page`."""

from __future__ import annotations

import pickle
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageFile

from daemon.samples import write_samples
from deepseek_ocr.errors import (
    Corrupt,
    DocumentError,
    EmptyFile,
    FileTooLarge,
    NoPages,
    PageError,
    TooManyPages,
    TooManyPixels,
    UnsupportedType,
)
from deepseek_ocr.pages import close_document, initialize_worker, inspect, load_page
from tests import documents
from tests.documents import LIMITS, encoded, jpeg, load, rgb, write

if TYPE_CHECKING:
    from collections.abc import Iterator


SAMPLES = Path(__file__).parent.parent.parent / "shared" / "samples"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No document stays open between tests."""
    yield
    close_document()


# What a file is

PICTURE = documents.corners()
KINDS = {
    "pdf": documents.text_pdf(1),
    "png": encoded(PICTURE, "PNG"),
    "jpeg": jpeg(PICTURE),
    "tiff": encoded(PICTURE, "TIFF"),
    "webp": encoded(PICTURE, "WEBP"),
    "bmp": encoded(PICTURE, "BMP"),
    "gif": encoded(PICTURE, "GIF"),
    "heic": documents.heic(PICTURE),
}


@pytest.mark.parametrize("name", ["no-suffix", "wrong.pdf", "wrong.txt", "wrong.jpg"])
@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_told_by_content(tmp_path: Path, kind: str, name: str) -> None:
    """The name of a file says nothing."""
    path = write(tmp_path, KINDS[kind], name)
    info = inspect(path, LIMITS)
    assert (info.kind, info.page_count, info.repaired) == (kind, 1, False)
    assert load(path).ink > 0


def _office_zip() -> bytes:
    return b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0" + b"[Content_Types].xml" + bytes(100)


def _no_pages() -> bytes:
    return documents.content_pdf([])


REFUSED: dict[str, tuple[bytes, type[DocumentError], str]] = {
    "empty": (b"", EmptyFile, "no bytes"),
    "text": (b"Dear Sir,\nplease find attached\n", UnsupportedType, "plain text"),
    "text in UTF-8": ("Größe\n".encode(), UnsupportedType, "plain text"),
    "binary": (bytes(range(256)), UnsupportedType, "no known"),
    "zeros": (bytes(5000), Corrupt, "zero bytes"),
    "office": (_office_zip(), UnsupportedType, "office document"),
    "old office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), UnsupportedType, "office document"),
    "html": (b"<!DOCTYPE html><html><body>%PDF-1.4</body></html>", UnsupportedType, "web page"),
    "svg": (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', UnsupportedType, "SVG"),
    "rtf": (b"{\\rtf1 hello}", UnsupportedType, "rich text"),
    "postscript": (b"%!PS-Adobe-3.0\nshowpage\n", UnsupportedType, "PostScript"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(50), UnsupportedType, "archive"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + bytes(50), UnsupportedType, "AVIF"),
    "letters BM": (b"BM is no bitmap, but the beginning of a text", UnsupportedType, "plain text"),
    "PDF header alone": (b"%PDF-1.6\n%%EOF\n", Corrupt, "cannot be opened"),
    "PDF of noise": (b"%PDF-1.6\n" + np.random.default_rng(1).bytes(5000), Corrupt, "cannot be opened"),
    "PDF cut before its pages": (documents.text_pdf(3)[:250], Corrupt, "none of its pages"),
    "PDF with a mad page count": (
        documents.text_pdf(1).replace(b"/Count 1", b"/Count 999999999"),
        Corrupt,
        "list of pages",
    ),
    "PDF without pages": (_no_pages(), NoPages, "no pages"),
    "PNG header alone": (KINDS["png"][:20], Corrupt, "PNG"),
    "JPEG header alone": (KINDS["jpeg"][:20], Corrupt, "JPEG"),
    "TIFF header alone": (KINDS["tiff"][:8], Corrupt, "TIFF"),
    "WebP header alone": (KINDS["webp"][:16], Corrupt, "WEBP"),
    "GIF header alone": (KINDS["gif"][:8], Corrupt, "GIF"),
    "BMP header alone": (KINDS["bmp"][:20], Corrupt, "BMP"),
    "HEIC header alone": (KINDS["heic"][:64], Corrupt, "HEIF"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(tmp_path: Path, case: str) -> None:
    """What cannot be read is refused with its own slug and says why; the error survives the way between processes."""
    content, error, words = REFUSED[case]
    with pytest.raises(error, match=words) as caught:
        inspect(write(tmp_path, content, "x.pdf"), LIMITS)
    assert type(caught.value) is error
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy)) == (error, str(caught.value))


def test_missing_file_is_no_document_fault(tmp_path: Path) -> None:
    """A file that is gone, or whose share is, is the environment's fault and passes through as what it is."""
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "gone.pdf", LIMITS)
    path = write(tmp_path, documents.text_pdf(1))
    load(path, pixels=False)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load(path, pixels=False)


# Limits


def test_file_size_limit(tmp_path: Path) -> None:
    """One byte over the limit is too large, the limit itself is not."""
    content = documents.text_pdf(1)
    content += b"\n" * (1_000_000 - len(content))
    limits = replace(LIMITS, max_file_mb=1)
    assert inspect(write(tmp_path, content), limits).page_count == 1
    with pytest.raises(FileTooLarge, match="the limit is 1 MB"):
        inspect(write(tmp_path, content + b"\n"), limits)


@pytest.mark.parametrize("kind", ["pdf", "tiff"])
def test_page_limit(tmp_path: Path, kind: str) -> None:
    """As many pages as the limit allows are read, one more is refused."""
    frames = [documents.bars((60, 80), seed=seed) for seed in range(4)]
    content = {
        "pdf": documents.text_pdf(4),
        "tiff": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
    }[kind]
    path = write(tmp_path, content)
    assert inspect(path, replace(LIMITS, max_pages=4)).page_count == 4
    with pytest.raises(TooManyPages, match="3"):
        inspect(path, replace(LIMITS, max_pages=3))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pdf"])
def test_pixel_limit(tmp_path: Path, kind: str) -> None:
    """A picture over the limit is refused by its header."""
    path = write(tmp_path, KINDS[kind])
    assert load(path, limits=replace(LIMITS, max_page_px=120 * 80)).width == 120
    with pytest.raises(TooManyPixels, match="120 x 80"):
        inspect(path, replace(LIMITS, max_page_px=120 * 80 - 1))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pdf"])
def test_inspecting_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A picture is not decoded before a page of it is asked for."""

    def decoded(*_: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", decoded)
    inspect(write(tmp_path, KINDS[kind]), LIMITS)


def test_decompression_bomb_is_refused_unopened(tmp_path: Path) -> None:
    """A header that promises 3.6 gigapixels is believed, and no memory is taken for them."""
    with pytest.raises(TooManyPixels, match="60000 x 60000"):
        inspect(write(tmp_path, documents.bomb_png(60_000, 60_000)), LIMITS)


def test_page_limit_of_pixels_holds_for_pdf(tmp_path: Path) -> None:
    """A PDF page has no pixels of its own; its image stays within the limit."""
    page = load(write(tmp_path, documents.text_pdf(1)), limits=replace(LIMITS, max_page_px=100_000))
    height, width, _ = rgb(page).shape
    # MuPDF rounds the edges outwards.
    assert 90_000 < (width - 1) * (height - 1) <= 100_000


def test_another_file_under_the_same_name(tmp_path: Path) -> None:
    """The document kept open is the one on the disk."""
    path = write(tmp_path, documents.text_pdf(2))
    assert inspect(path, LIMITS).page_count == 2
    write(tmp_path, documents.text_pdf(3))
    assert inspect(path, LIMITS).page_count == 3
    with pytest.raises(PageError, match="no page 4"):
        load(path, 3)


# Processes


def _memory_after(path: str, pages: int) -> tuple[int, int]:
    """Resident memory in MB, highest and last, of this process after it read so many pages."""
    initialize_worker()
    for index in range(pages):
        load_page(Path(path), index, needs="nothing", limits=LIMITS)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM"].split()[0]) // 1024, int(status["VmRSS"].split()[0]) // 1024


def _error_of_bomb(path: str) -> str:
    initialize_worker(192)
    try:
        load_page(Path(path), 0, needs="pixels", limits=LIMITS)
    except (PageError, DocumentError) as error:
        return type(error).__name__
    return "none"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_memory_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    """2,800 pages take as much memory as 200 (measured: 153 MB both); 30 MB is the room for chance."""
    few = write(tmp_path, documents.text_pdf(200), "few")
    many = write(tmp_path, documents.text_pdf(2800), "many")
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        highest_few, _ = pool.apply(_memory_after, (str(few), 200))
        highest_many, _ = pool.apply(_memory_after, (str(many), 2800))
    assert highest_many - highest_few < 30


def test_memory_limit_ends_a_bomb(tmp_path: Path) -> None:
    """A picture within the limits that does not fit into a worker's memory is an error of that page, not a death."""
    path = write(tmp_path, encoded(Image.new("RGB", (8_000, 8_000)), "PNG", compress_level=1))
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_error_of_bomb, (str(path),)) == "PageError"


FUZZED = KINDS | {"tiff": encoded(PICTURE, "TIFF", compression="tiff_lzw"), "pdf": documents.text_pdf(2, lines=2)}


@pytest.mark.parametrize("kind", FUZZED)
def test_flipped_bytes_raise_only_our_errors(tmp_path: Path, kind: str) -> None:
    """Whatever is wrong with a file, what comes out is one of our errors, which survives the way between processes."""
    random = np.random.default_rng(5)
    for count in (1, 2, 5, 20) * 15:
        content = bytearray(FUZZED[kind])
        for place in random.integers(0, len(content), count):
            content[place] = random.integers(0, 256)
        path = write(tmp_path, bytes(content))
        errors: list[DocumentError | PageError] = []
        try:
            for index in range(inspect(path, LIMITS).page_count):
                load(path, index)
        except (DocumentError, PageError) as error:
            errors.append(error)
        for found in errors:
            assert "\n" not in str(found)
            assert str(tmp_path) not in str(found)
            assert str(pickle.loads(pickle.dumps(found))) == str(found)  # noqa: S301 - our own bytes


# Whole documents


def test_demo_documents(tmp_path: Path) -> None:
    """What the demo drops is read or refused as it says, and is the same every time."""
    first = write_samples(tmp_path / "first")
    second = write_samples(tmp_path / "second")
    for sample, again in zip(first, second, strict=True):
        assert sample.reason == "encrypted" or sample.path.read_bytes() == again.path.read_bytes()
        if sample.expected == "failed":
            with pytest.raises(DocumentError) as caught:
                inspect(sample.path, LIMITS)
            assert caught.value.slug == sample.reason
            continue
        for index in range(inspect(sample.path, LIMITS).page_count):
            page = load(sample.path, index)
            assert page.ink > 0.01
            assert not page.damage
            assert bool(page.text_layer) == (sample.path.name == "two-columns.pdf")


#: Real documents -> what each page holds: "text", "ink" without text, or "blank"; or the error of the document.
SAMPLE_PAGES: dict[str, str | type[DocumentError]] = {
    "deepseek/show1.jpg": "ink",
    "deepseek/show2.jpg": "ink",
    "deepseek/show3.jpg": "ink",
    "deepseek/show4.jpg": "ink",
    "ocrmypdf/2400dpi.pdf": "ink",
    "ocrmypdf/3small.pdf": "ink ink ink",
    "ocrmypdf/README.rst": UnsupportedType,
    "ocrmypdf/acroform.pdf": "ink",
    "ocrmypdf/aspect.pdf": "ink",
    "ocrmypdf/baiona.png": "ink",
    "ocrmypdf/baiona_alpha.png": "ink",
    "ocrmypdf/baiona_cmyk.jpg": "ink",
    "ocrmypdf/baiona_color.jpg": "ink",
    "ocrmypdf/baiona_colormapped.png": "ink",
    "ocrmypdf/baiona_gray.png": "ink",
    "ocrmypdf/blank.pdf": "blank",
    "ocrmypdf/c02-22.pdf": "ink",
    "ocrmypdf/cardinal.pdf": "ink ink ink ink",
    "ocrmypdf/ccitt.pdf": "ink",
    "ocrmypdf/cmyk.pdf": "ink",
    "ocrmypdf/crom.png": "ink",
    "ocrmypdf/docinfo_latin1_key.pdf": "blank",
    "ocrmypdf/enormous.pdf": "ink",
    "ocrmypdf/epson.pdf": "ink",
    "ocrmypdf/formxobject.pdf": "text",
    "ocrmypdf/francais.pdf": "ink",
    "ocrmypdf/graph.pdf": "ink",
    "ocrmypdf/graph_ocred.pdf": "text",
    "ocrmypdf/hugemono.pdf": "ink",
    "ocrmypdf/invalid.pdf": Corrupt,
    "ocrmypdf/jbig2.pdf": "ink",
    "ocrmypdf/jbig2_baddevicen.pdf": "ink",
    "ocrmypdf/kcs.pdf": "ink",
    "ocrmypdf/lichtenstein.pdf": "ink",
    "ocrmypdf/link.pdf": "text text",
    "ocrmypdf/linn.pdf": "ink",
    "ocrmypdf/linn.png": "ink",
    "ocrmypdf/linn.txt": UnsupportedType,
    "ocrmypdf/livecycle.pdf": "blank",
    "ocrmypdf/masks.pdf": "ink",
    "ocrmypdf/meta.pdf": "blank",
    "ocrmypdf/missing_docinfo.pdf": "text",
    "ocrmypdf/multipage.pdf": "ink ink ink text ink ink",
    "ocrmypdf/negzero.pdf": "text",
    "ocrmypdf/no_contents.pdf": "blank",
    "ocrmypdf/overlay.pdf": "text",
    "ocrmypdf/palette.pdf": "ink",
    "ocrmypdf/poster.pdf": "ink",
    "ocrmypdf/rotated_skew.pdf": "ink",
    "ocrmypdf/skew.pdf": "ink",
    "ocrmypdf/tagged.pdf": "text text",
    "ocrmypdf/toc.pdf": "text blank",
    "ocrmypdf/trivial.pdf": "blank",
    "ocrmypdf/truetype_font_nomapping.pdf": "ink",
    "ocrmypdf/type3_font_nomapping.pdf": "ink",
    "ocrmypdf/typewriter.png": "ink",
    "ocrmypdf/vector.pdf": "ink",
}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample documents are not part of the repository")
@pytest.mark.parametrize("name", SAMPLE_PAGES)
def test_sample_documents(name: str) -> None:
    """Real documents, nasty ones among them: every page is what it is known to be, with pixels and without."""
    expected = SAMPLE_PAGES[name]
    path = SAMPLES / name
    if not isinstance(expected, str):
        with pytest.raises(expected):
            inspect(path, LIMITS)
        return
    count = inspect(path, LIMITS).page_count
    for pixels in (True, False):
        pages = [load(path, index, pixels=pixels) for index in range(count)]
        assert not any(page.damage for page in pages)
        seen = ["text" if page.text_layer else "ink" if page.ink else "blank" for page in pages]
        assert " ".join(seen) == expected
