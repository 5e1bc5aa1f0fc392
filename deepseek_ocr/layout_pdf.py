"""A document and its DocJSON -> a PDF of its pages with their blocks drawn over them, for people to look at.

Pages of a PDF stay text and lines (each is put as one object on a page of its own, so that whatever is wrong with its
instructions ends there), pictures become JPEG at 150 dpi of an A4 page.  Everything is synchronous and runs in a worker
process, as `pages.py` does.  A page that cannot be shown is an empty one with the reason; a page with a problem has a
red frame and says it in words.

Left to others: how a document is read, and whether it is to be drawn.
Residual risks: all pages are in memory, compressed as in the source, and twice when they are saved (1.1 GB for 2,300
scans of 472 MB); layers that a PDF hides are shown; links, bookmarks and scripts are left out; letters outside of
Latin-1 in a page's problem become "?".
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from deepseek_ocr.document import Document, Flag, Page
from deepseek_ocr.errors import Corrupt, PageError
from deepseek_ocr.pages import close_document, inspect, load_page
from deepseek_ocr.pages_pdf import PAGES_PER_STORE, explain, is_missing, mupdf, open_file
from deepseek_ocr.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deepseek_ocr.completion import Box
    from deepseek_ocr.document import Block, Category
    from deepseek_ocr.pages import Limits

Colour = tuple[float, float, float]

#: The long side of A4: of a picture's page in points, and of its JPEG in pixels at 150 dpi.
A4_PT: Final = 842.0
A4_PX: Final = 1754
JPEG_QUALITY: Final = 75
#: Blocks drawn of a page; the fullest of the real answers has 120, and more than this cannot be told apart.
MAX_DRAWN: Final = 1000

#: Okabe and Ito, "Color Universal Design" (2008): told apart by people with any colour blindness.
COLOURS: Final[dict[Category, Colour]] = {
    "heading": (0.835, 0.369, 0.0),
    "text": (0.0, 0.447, 0.698),
    "formula": (0.8, 0.475, 0.655),
    "table": (0.0, 0.62, 0.451),
    "figure": (0.902, 0.624, 0.0),
    "chart": (0.337, 0.706, 0.914),
    "caption": (0.3, 0.3, 0.3),
}
#: Those on which black letters are read better than white ones.
PALE: Final = frozenset({"formula", "figure", "chart"})
BLACK: Final[Colour] = (0.0, 0.0, 0.0)
WHITE: Final[Colour] = (1.0, 1.0, 1.0)
ALARM: Final[Colour] = (0.75, 0.0, 0.1)

# Sizes in points of a page whose longer side is that of A4; other pages have them in proportion.
LETTERS: Final = 6.5
NOTE_LETTERS: Final = 8.0
OUTLINE: Final = 0.7
#: A box without width or height is drawn as high and wide as this.
LEAST_SIDE: Final = 2.0
FILL_OPACITY: Final = 0.12
TAG_OPACITY: Final = 0.85
#: Lines of words on top of a page at most.
MAX_NOTE_LINES: Final = 4
#: Grey level (of 255) up to which a pixel is not paper, where the legend might go.
PAPER: Final = 245


def draw_layout(source: Path, docjson: Path, target: Path, limits: Limits) -> None:
    """Write and sync the PDF; raises a `DocumentError` where the source can no longer be opened, never for a page.

    An `OSError` with a number is the file system's and passes through.
    """
    kind = inspect(source, limits).kind
    pymupdf = mupdf()
    drawn = pymupdf.open()
    pages = _PdfPages(source) if kind == "pdf" else _Pictures(source, limits)
    try:
        for number, page in enumerate(read_pages(docjson), 1):
            scale = 1.0 if page.unit == "pt" else A4_PT / max(page.width, page.height)
            sheet = _Sheet(drawn.new_page(width=page.width * scale, height=page.height * scale))
            trouble = _shown(pages, sheet, page)
            _draw_blocks(sheet, page.blocks[:MAX_DRAWN])
            _draw_note(sheet, page, trouble)
            if number == 1:
                _draw_legend(sheet, page)
            sheet.finish()
            if number % PAGES_PER_STORE == 0:
                pymupdf.TOOLS.store_shrink(100)
                pymupdf.TOOLS.reset_mupdf_warnings()
        # MuPDF would open the file by its name, which must be UTF-8 then, and a full disk would be an error of its own.
        content = drawn.tobytes(garbage=3, deflate=True, use_objstms=1)
        with target.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    finally:
        drawn.close()
        pages.close()
        pymupdf.TOOLS.reset_mupdf_warnings()
        close_document()


def read_pages(docjson: Path) -> Iterator[Page]:
    """The pages of a DocJSON file, one at a time where each has its own line, as the daemon writes it."""
    with docjson.open(encoding="utf-8") as lines:
        if lines.readline().endswith('"pages":[\n'):
            for line in lines:
                if line.startswith("]"):
                    return
                yield Page.model_validate_json(line.rstrip().removesuffix(","))
            return
    yield from Document.model_validate_json(docjson.read_bytes()).pages


# What is drawn upon


def _shown(pages: _PdfPages | _Pictures, sheet: _Sheet, page: Page) -> str:
    """Put the page as it is on its sheet; why that could not be, "" if it was."""
    try:
        pages.show(sheet, page.page_number - 1)
    except OSError as error:
        if error.errno is not None:
            raise
        return explain(error)
    except MemoryError:
        return "it needs more memory than a worker may use"
    except Exception as error:  # noqa: BLE001 - MuPDF's own exceptions share no other base
        return explain(error)
    return ""


class _PdfPages:
    """Pages of a PDF as they are, with their annotations and form fields."""

    def __init__(self, source: Path) -> None:
        self._document: Any = open_file(source)
        try:
            self._document.bake()
        except Exception:  # noqa: BLE001 - without them, then; a damaged document may have neither
            mupdf().TOOLS.reset_mupdf_warnings()

    def close(self) -> None:
        self._document.close()

    def show(self, sheet: _Sheet, page_index: int) -> None:
        if page_index >= self._document.page_count or is_missing(self._document, page_index):
            raise PageError("the page is missing from the file, which is cut off or damaged")
        page = self._document.load_page(page_index)
        turn = page.rotation
        page.set_rotation(0)  # in memory; PyMuPDF places what lies turned wrongly
        sheet.page.show_pdf_page(
            sheet.page.rect, self._document, page_index, keep_proportion=False, overlay=False, rotate=-turn
        )


class _Pictures:
    """Pages of a picture file, upright, made small."""

    def __init__(self, source: Path, limits: Limits) -> None:
        self._source, self._limits = source, limits

    def close(self) -> None:
        """Nothing to release."""

    def show(self, sheet: _Sheet, page_index: int) -> None:
        try:
            image = load_page(self._source, page_index, needs="pixels", limits=self._limits, view=View(side_px=A4_PX))
        except Corrupt as error:  # the only picture of its file
            raise PageError(str(error)) from error
        if image.pixels is not None:
            file = io.BytesIO()
            Image.fromarray(image.pixels).save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
            sheet.page.insert_image(sheet.page.rect, stream=file.getvalue(), keep_proportion=False, overlay=False)


# What is drawn


@dataclass(frozen=True, slots=True)
class _Style:
    """How a rectangle is drawn."""

    line: Colour | None
    fill: Colour | None
    opacity: float = 1.0
    width: float = OUTLINE


class _Sheet:
    """A page under the pencil: places in points as displayed, sizes in `unit`s."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.width, self.height = float(page.rect.width), float(page.rect.height)
        #: Points per point of an A4 page.
        self.unit = max(self.width, self.height) / A4_PT
        self._shape = page.new_shape()

    def place(self, block: Block) -> Box | None:
        """Where a block stands; wide and high enough to be seen."""
        if block.relative_box is None:
            return None
        left, top, right, bottom = block.relative_box
        least = LEAST_SIDE * self.unit
        x0, y0 = min(left * self.width, self.width - least), min(top * self.height, self.height - least)
        return x0, y0, max(right * self.width, x0 + least), max(bottom * self.height, y0 + least)

    def letters_width(self, words: str, size: float) -> float:
        """In points, of Helvetica of so many units."""
        return float(mupdf().get_text_length(words, "helv", size * self.unit))

    def rectangle(self, box: Box, style: _Style) -> None:
        self._shape.draw_rect(mupdf().Rect(box))
        self._shape.finish(
            color=style.line, fill=style.fill, width=style.width * self.unit,
            fill_opacity=style.opacity, stroke_opacity=1,
        )  # fmt: skip

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        point = mupdf().Point
        tip, direction = point(end), (point(end) - point(start)).unit
        across, length = point(-direction.y, direction.x), 6 * self.unit
        self._shape.draw_line(point(start), tip - direction * length)
        self._shape.finish(color=colour, width=1.2 * self.unit)
        corners = [tip, *(tip - direction * length + across * side * 0.45 * length for side in (1, -1))]
        self._shape.draw_polyline(corners)
        self._shape.finish(color=colour, fill=colour, width=0.1 * self.unit, closePath=True)

    def words(self, left: float, baseline: float, words: str, size: float, colour: Colour) -> None:
        self._shape.insert_text(
            (left, baseline), latin(words), fontname="helv", fontsize=size * self.unit, color=colour
        )

    def finish(self) -> None:
        self._shape.commit()


def latin(words: str) -> str:
    """On one line, in letters that every reader's Helvetica has."""
    return " ".join(words.encode("latin-1", "replace").decode("latin-1").split())


def _draw_blocks(sheet: _Sheet, blocks: tuple[Block, ...]) -> None:
    """All blocks, then the captions' arrows, then the tags, so that none is under another's colour."""
    places = {block.id: place for block in blocks if (place := sheet.place(block))}
    for block in blocks:
        if block.id in places:
            colour = COLOURS[block.category]
            sheet.rectangle(places[block.id], _Style(colour, colour, FILL_OPACITY))
    for block in blocks:
        if block.caption_of in places and block.id in places:
            _draw_arrow(sheet, places[block.id], places[block.caption_of])
    taken = list(places.values())
    for number, block in enumerate(blocks, 1):
        if block.id in places:
            _draw_tag(sheet, f"{number} {block.category}", block, places[block.id], taken)


def _draw_arrow(sheet: _Sheet, caption: Box, home: Box) -> None:
    """From the middle of a caption a little way into what it belongs to."""
    start = (caption[0] + caption[2]) / 2, (caption[1] + caption[3]) / 2
    inset = 14 * sheet.unit
    end = tuple(
        min(max(at, low + min(inset, (high - low) / 2)), high - min(inset, (high - low) / 2))
        for at, low, high in zip(start, home[:2], home[2:], strict=True)
    )
    sheet.arrow(start, (end[0], end[1]), COLOURS["caption"])


def _draw_tag(sheet: _Sheet, words: str, block: Block, box: Box, taken: list[Box]) -> None:
    """Number and category: left of the block or above it where nothing else stands, else within its corner."""
    unit = sheet.unit
    width, height = sheet.letters_width(words, LETTERS) + 3 * unit, (LETTERS + 1.5) * unit
    left, top = min(box[0], sheet.width - width), min(box[1], sheet.height - height)
    for x, y in ((box[0] - width, top), (left, box[1] - height)):
        spot = x, y, x + width, y + height
        if x >= 0 and y >= 0 and not any(_overlap(spot, other) for other in taken):
            break
    else:
        spot = left, top, left + width, top + height
    taken.append(spot)
    sheet.rectangle(spot, _Style(None, COLOURS[block.category], TAG_OPACITY))
    baseline = spot[1] + LETTERS * unit
    sheet.words(spot[0] + 1.5 * unit, baseline, words, LETTERS, BLACK if block.category in PALE else WHITE)


def _overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# Words about a page


def notes(page: Page, trouble: str) -> list[str]:
    """What is to be known of a page before it is trusted: its problem first, each as a sentence."""
    found = []
    if page.problem:
        found.append(f"Page {page.page_number} was not read as it should be: {page.problem}")
    if trouble:
        found.append(f"Page {page.page_number} cannot be shown: {trouble}")
    if page.blank:
        found.append("Blank page")
    without = sum(block.relative_box is None for block in page.blocks)
    if without:
        found.append(f"{_blocks(without)} without a place")
    if len(page.blocks) > MAX_DRAWN:
        found.append(f"{_blocks(len(page.blocks) - MAX_DRAWN)} more than are drawn")
    flagged: defaultdict[Flag, list[int]] = defaultdict(list)
    for number, block in enumerate(page.blocks, 1):
        for flag in block.flags:
            if flag is not Flag.NO_BOX:  # said above
                flagged[flag].append(number)
    found += [f"{flag.replace('_', ' ')}: {_listed(numbers)}" for flag, numbers in sorted(flagged.items())]
    return found


def _blocks(number: int) -> str:
    return "1 block" if number == 1 else f"{number} blocks"


def _listed(numbers: list[int]) -> str:
    """Some of the numbers, and how many more."""
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown  # noqa: PLR2004 - as shown


def _draw_note(sheet: _Sheet, page: Page, trouble: str) -> None:
    """The notes on top of the page: white on red with a red frame where it was not read as it should be."""
    alarming = bool(page.problem or trouble)
    lines = _wrapped(sheet, "  |  ".join(map(latin, notes(page, trouble))))
    if alarming:
        edge = 1.5 * sheet.unit
        sheet.rectangle((edge, edge, sheet.width - edge, sheet.height - edge), _Style(ALARM, None, width=3))
    if not lines:
        return
    step = 1.3 * NOTE_LETTERS * sheet.unit
    height = step * (len(lines) + 0.4)
    style = _Style(None, ALARM, 0.95) if alarming else _Style(None, WHITE, TAG_OPACITY)
    sheet.rectangle((0.0, 0.0, sheet.width, height), style)
    for number, line in enumerate(lines, 1):
        sheet.words(8 * sheet.unit, step * number, line, NOTE_LETTERS, WHITE if alarming else BLACK)


def _wrapped(sheet: _Sheet, words: str) -> list[str]:
    """As many lines as may be, the last cut with three dots."""
    room = sheet.width - 16 * sheet.unit
    lines: list[str] = []
    for word in words.split(" ") if words else []:
        if lines and sheet.letters_width(f"{lines[-1]} {word}", NOTE_LETTERS) <= room:
            lines[-1] += f" {word}"
        elif len(lines) == MAX_NOTE_LINES:
            lines[-1] += " ..."
            break
        else:
            lines.append(word)
    return [line.strip() for line in lines]


def _draw_legend(sheet: _Sheet, page: Page) -> None:
    """What the colours mean, at the foot of the page if it is empty paper there; else nowhere."""
    used = [category for category in COLOURS if any(block.category == category for block in page.blocks)]
    step, unit = (LETTERS + 2) * sheet.unit, sheet.unit
    widths = [sheet.letters_width(category, LETTERS) + 20 * unit for category in used]
    if not used or sum(widths) > sheet.width - 16 * unit:
        return
    left, top = 8 * unit, sheet.height - 2 * step
    spot = left, top, left + sum(widths), top + step
    places = [place for block in page.blocks if (place := sheet.place(block))]
    if any(_overlap(spot, place) for place in places) or not _is_paper(sheet, spot):
        return
    for category, width in zip(used, widths, strict=True):
        colour = COLOURS[category]
        sheet.rectangle((left, top, left + 8 * unit, top + LETTERS * unit), _Style(colour, colour, 0.3))
        sheet.words(left + 10 * unit, top + 0.85 * LETTERS * unit, category, LETTERS, BLACK)
        left += width


def _is_paper(sheet: _Sheet, box: Box) -> bool:
    """Whether nothing of the page itself is seen there; what is drawn over it is not on it yet."""
    pymupdf = mupdf()
    pixmap = sheet.page.get_pixmap(clip=pymupdf.Rect(box), colorspace=pymupdf.csGRAY, alpha=False)
    return min(pixmap.samples_mv, default=0) > PAPER
