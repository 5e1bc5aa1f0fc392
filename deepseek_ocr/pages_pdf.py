"""Pages of a PDF: their images and their text layers, with PyMuPDF.

Left to others: whether the file is a PDF at all, and the cache of the open document (`pages.py`); how pixels are made
(`rendering.py`); paragraphs and reading order (`layout.py`).

Residual risks: a text layer that covers only a part of the page (a stamp on a scan) counts as its text; letters mapped
to other, equally plausible letters are not noticed; a picture damaged in its middle, or instructions cut off between
two of them, show what is left and nothing tells; MuPDF may crash or loop on a page, which the process around it must
survive.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from deepseek_ocr.completion import PageImage
from deepseek_ocr.errors import Corrupt, Encrypted, NoPages, PageError, TooManyPages
from deepseek_ocr.grids import MAX_RULES
from deepseek_ocr.ink import GRID_CELLS, Ink, look
from deepseek_ocr.layout import Line, regions_from_lines
from deepseek_ocr.rendering import render, render_tiles
from deepseek_ocr.scans import pictures_of
from deepseek_ocr.sizes import MIN_LONG_SIDE_PX, POINTS_PER_INCH, image_size
from deepseek_ocr.view import WHOLE

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from deepseek_ocr.completion import Box, Region
    from deepseek_ocr.prompt import ModeChoice
    from deepseek_ocr.view import View

#: Pages, of whatever document, after which MuPDF's store (fonts, compressed pictures; up to 256 MB) is emptied.
#: Emptying it after every page makes the next one 2.4 ms slower, as fonts are built anew; after a page with pictures
#: that is little, and those, decoded, are what fills it.
PAGES_PER_STORE: Final = 16
#: Pages after which a sound document is opened anew, which drops every object of the pages read so far.
PAGES_PER_OPENING: Final = 512
#: Share of the letters of a page that no reader can make sense of, above which its text layer is none.
MAX_UNMAPPED: Final = 0.3
#: Unicode categories of such letters: control, private use, unassigned, surrogate.
UNMAPPED: Final = frozenset({"Cc", "Co", "Cn", "Cs"})
#: Bit of a span's `flags` for bold type (PyMuPDF, "Font flags").
BOLD: Final = 16
#: The kind of a block that is a drawing, and the thickness up to which one is a rule: a line of one point has a box of
#: two (PyMuPDF 2.0), double lines are about three.
VECTOR: Final = 3
MAX_RULE_PT: Final = 4.0
#: MuPDF's messages about content that is lost: torn instructions, pictures cut off or undecodable, parts missing from
#: the file.  Others (unknown operators, colour profiles, a font replaced by another) come from sloppy programs, and the
#: page is whole.  Found by breaking one thing after the other; none of them comes up in the sample documents.
LOSS: Final = re.compile(r"in content stream|truncated image|premature end of file|library error: (?!FT_)|XObject|faxd")
#: The same where nothing of the page can be seen: then any trouble may be the reason.
TROUBLE: Final = re.compile(r"error|truncated|premature|corrupt|cannot|failed", re.IGNORECASE)
MAX_DAMAGE_LETTERS: Final = 300

#: Pages read in this process.
_pages_read = itertools.count(1)


def mupdf() -> ModuleType:
    """PyMuPDF, without the layout package and the neural network runtime that it loads on import.

    PyMuPDF 2.0 tries to import both and does without where they are missing.  None in `sys.modules` is the language's
    own way to say "not there" (reference, section 5.3.1).  It halves the cost: 0.6 s instead of 1.2 s, 137 MB of memory
    instead of 213 MB, and 180 MB of address space instead of 595 MB.
    """
    if (loaded := sys.modules.get("pymupdf")) is not None:
        return loaded
    unwanted = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
    for name in unwanted:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        pymupdf = importlib.import_module("pymupdf")
    finally:
        for name in unwanted:
            del sys.modules[name]
    # Errors come as exceptions; the copies on the standard streams belong to nobody.
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    # Line boxes as high as the type, not as the font's tallest accent; otherwise neighbouring lines overlap.
    pymupdf.TOOLS.set_small_glyph_heights(True)
    return pymupdf


class OpenPdf:
    """An open PDF; raises a `DocumentError` where it cannot be opened."""

    kind = "pdf"

    def __init__(self, path: Path, content: bytes | None, *, max_pages: int) -> None:
        """Open the PDF at `path`, or in `content` where the caller has read the whole file."""
        self._path = path
        self._content = content
        self._document: Any = _open(path, content)
        self._pages_since_opening = 0
        try:
            self.page_count = _count_pages(self._document, max_pages)
            #: Whether MuPDF had to rebuild the table of objects.
            self.repaired = bool(self._document.is_repaired)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._document.close()

    def load(
        self,
        page_index: int,
        *,
        pixels: bool,
        dpi: float,
        max_page_px: int,
        view: View = WHOLE,
        mode: ModeChoice | None = None,
    ) -> PageImage:
        """One page, or a part of it (not turned, without its text); raises `PageError`.

        With a mode a whole page comes as tiles instead of pixels and text, if it has ink and can be rendered so.
        """
        if not 0 <= page_index < self.page_count:
            raise PageError(f"there is no page {page_index + 1}; the document has {self.page_count}")
        if self._pages_since_opening >= PAGES_PER_OPENING and not self.repaired:
            old, self._document = self._document, _open(self._path, self._content)
            old.close()
            self._pages_since_opening = 0
        self._pages_since_opening += 1
        try:
            return self._load(page_index, view, mode, pixels=pixels, dpi=dpi, max_page_px=max_page_px)
        except (MemoryError, OSError, PageError):
            raise
        except Exception as error:
            raise PageError(f"the page cannot be rendered: {explain(error)}") from error

    def _load(
        self, page_index: int, view: View, mode: ModeChoice | None, *, pixels: bool, dpi: float, max_page_px: int
    ) -> PageImage:
        pymupdf = mupdf()
        decoded = True
        try:
            if is_missing(self._document, page_index):
                raise PageError("the page is missing from the file, which is cut off or damaged")
            page = self._document.load_page(page_index)
            pymupdf.TOOLS.reset_mupdf_warnings()  # what MuPDF says from here on is about this page
            part = _part(page, view)
            width, height = part[2] - part[0], part[3] - part[1]
            rgb: NDArray[np.uint8] | None = None
            size = _size(page, part, view.side_px, dpi, max_page_px)
            seen = render_tiles(pymupdf, page, size, mode) if pixels and mode and view == WHOLE else None
            tiles, ink = seen or (None, None)
            text_layer = _text_layer(page, width, height) if view == WHOLE and not tiles else ()
            if ink:
                pass
            elif pixels:
                rgb = render(pymupdf, page, part, size)
                ink = look(Image.fromarray(rgb))
            elif text_layer:
                ink = Ink(_text_share(text_layer), None, sideways=False)
            else:
                # Without text one question is left: is the page blank?  The grid of the ink answers it.
                scale = GRID_CELLS / max(width, height)
                size = image_size(width, height, scale=scale, max_page_px=max_page_px)
                ink = look(Image.fromarray(render(pymupdf, page, part, size)))
            messages = pymupdf.TOOLS.mupdf_warnings()
            if view == WHOLE and not ink.share and not text_layer and _has_content(self._document, page):
                trouble = _those(TROUBLE, messages)
                if trouble:
                    raise PageError(f"the page is damaged and nothing of it can be seen: {trouble}")
            decoded = bool(pictures_of(page)) and ink.grid is not None
            return PageImage(
                page_index, width, height, "pt", rgb, ink.share, text_layer, damage=_those(LOSS, messages),
                tiles=tiles, ink_grid=ink.grid, sideways=ink.sideways,
            )  # fmt: skip
        finally:
            # PyMuPDF collects warnings without bound.
            pymupdf.TOOLS.reset_mupdf_warnings()
            if next(_pages_read) % PAGES_PER_STORE == 0 or decoded:
                pymupdf.TOOLS.store_shrink(100)


def open_file(path: Path) -> Any:
    """A PDF from the disk; by its descriptor, as MuPDF takes no name that is not UTF-8."""
    with path.open("rb") as file:
        return mupdf().open(f"/proc/self/fd/{file.fileno()}", filetype="pdf")


def _open(path: Path, content: bytes | None) -> Any:
    pymupdf = mupdf()
    try:
        document = open_file(path) if content is None else pymupdf.open(stream=content, filetype="pdf")
    except (MemoryError, OSError):
        raise
    except Exception as error:  # MuPDF's own exceptions share no other base
        cause = error.__cause__ or error
        if "encrypt" in str(cause).lower():  # a handler MuPDF does not know, such as certificates
            raise Encrypted(f"the PDF is protected by other means than a password: {explain(cause)}") from error
        raise Corrupt(f"the PDF cannot be opened: {explain(cause)}") from error
    if document.needs_pass:  # an empty password has been tried
        document.close()
        raise Encrypted("the PDF opens only with a password")
    if not document.is_pdf:
        document.close()
        raise Corrupt("the file begins like a PDF but is none")
    return document


def explain(error: BaseException) -> str:
    """MuPDF's words on one line, without its numbers ("code=7: no objects found")."""
    return " ".join(re.sub(r"^code=\d+: ", "", str(error)).split()) or type(error).__name__


def _count_pages(document: Any, max_pages: int) -> int:
    try:
        count = int(document.page_count)
        looked_at = range(min(count, max_pages))
        lost = document.is_repaired and all(is_missing(document, index) for index in looked_at)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise Corrupt(f"the list of pages cannot be read: {explain(error)}") from error
    if lost:
        raise Corrupt("the PDF is damaged and none of its pages can be found")
    if count <= 0:
        raise NoPages("the PDF has no pages")
    if count > max_pages:
        raise TooManyPages(f"the PDF has {count} pages, the limit is {max_pages}")
    return count


def is_missing(document: Any, page_index: int) -> bool:
    """Whether the list of pages names an object that the file does not hold, as its end is cut off.

    MuPDF shows such a page as an empty one of US letter size, which would pass for a blank page.
    """
    xref = document.page_xref(page_index)  # 0 for a page written into the list itself
    return bool(xref and (xref >= document.xref_length() or not document.xref_get_keys(xref)))


def _has_content(document: Any, page: Any) -> bool:
    """Whether the page holds any drawing instruction; some programs write a compressed stream of no bytes."""
    return any(document.xref_stream_raw(xref) for xref in page.get_contents())


def _those(pattern: re.Pattern[str], messages: str) -> str:
    """Those of MuPDF's messages that match, each once, on one line."""
    found = dict.fromkeys(line for line in messages.splitlines() if pattern.search(line))
    return "; ".join(found)[:MAX_DAMAGE_LETTERS]


def _part(page: Any, view: View) -> Box:
    """Where on the displayed page the part lies, in points; raises `PageError` where that is nowhere."""
    left, top, right, bottom = view.within()
    width, height = float(page.rect.width), float(page.rect.height)
    return left * width, top * height, right * width, bottom * height


def _size(page: Any, part: Box, side_px: int, dpi: float, max_page_px: int) -> tuple[int, int]:
    """Pixels (width, height) of a part: as many on its longer side as asked for, else as fine as the whole page."""
    width, height = part[2] - part[0], part[3] - part[1]
    long_side = max(width, height)
    if side_px:
        # The longer side as 1, so that no rounding takes a pixel from it.
        return image_size(width / long_side, height / long_side, scale=side_px, max_page_px=max_page_px)
    min_side_px = MIN_LONG_SIDE_PX * (long_side / max(page.rect.width, page.rect.height))
    return image_size(width, height, scale=dpi / POINTS_PER_INCH, max_page_px=max_page_px, min_side_px=min_side_px)


# Text


def _text_layer(page: Any, width: float, height: float) -> tuple[Region, ...]:
    """The text embedded in the page, also invisible text under a scan; empty where it makes no sense."""
    lines, rules = _lines(page, width, height)
    if is_unmapped("".join(line.text for line in lines)):
        return ()
    return regions_from_lines(lines, aspect=width / height, rules=rules)


def _lines(page: Any, width: float, height: float) -> tuple[list[Line], list[Box]]:
    """The lines of text and the rules of tables, with their boxes as fractions of the page."""
    pymupdf = mupdf()
    # Ligatures are taken apart ("fi" as two letters) and what lies off the page is left out.  "dict" is the cheapest
    # form with font sizes (0.8 ms for a full page; words alone 0.7 ms, raw letters 2 ms), drawings are in it for
    # nothing (generated pages with 15 to 75 of them: 1.1 ms with and without).
    flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP | pymupdf.TEXT_COLLECT_VECTORS
    # PyMuPDF gives places on the unrotated page.
    rotation = page.rotation_matrix if page.rotation else None

    def placed(box: Any) -> Box:
        x0, y0, x1, y1 = pymupdf.Rect(box) * rotation if rotation else box
        return _share(x0, width), _share(y0, height), _share(x1, width), _share(y1, height)

    textpage = page.get_textpage(flags=flags)
    blocks = textpage.extractDICT()["blocks"]
    drawn = [rule for block in blocks if block["type"] == VECTOR for rule in _rules(block)]
    if len(drawn) > MAX_RULES:
        drawn = []
    upright = sorted((rule for rule in drawn if rule[3] - rule[1] > rule[2] - rule[0]), key=lambda rule: rule[0])
    words: list[Any] = []
    lines: list[Line] = []
    # Words are numbered by their block among those of text.
    for block_number, block in enumerate(block for block in blocks if block["type"] != VECTOR):
        for line_number, line in enumerate(block["lines"]):
            longest = max(line["spans"], key=lambda span: len(span["text"]))
            bold = all(span["flags"] & BOLD for span in line["spans"] if span["text"].strip())
            parts = [("".join(span["text"] for span in line["spans"]), line["bbox"])]
            cuts = _crossing(upright, line["bbox"])
            if cuts:
                words = words or textpage.extractWORDS()
                own = [word for word in words if (word[5], word[6]) == (block_number, line_number)]
                # Nothing may be lost: no words, or others, leave the line whole.
                if "".join(word[4] for word in own) == "".join(parts[0][0].split()):
                    parts = _parts_between(cuts, own)
            for text, bbox in parts:
                box = placed(bbox)
                if text.strip() and box[0] < box[2] and box[1] < box[3]:
                    lines.append(Line(text, box, size=longest["size"] / height, bold=bold))
    return lines, [placed(rule) for rule in drawn]


def _crossing(upright: list[Box], box: Box) -> list[float]:
    """Where rules, ordered from the left, go through a line of text: its ends may belong to different cells."""
    x0, y0, x1, y1 = box
    near = upright[bisect_left(upright, x0, key=itemgetter(0)) : bisect_right(upright, x1, key=itemgetter(0))]
    return [(left + right) / 2 for left, top, right, bottom in near if top < (y0 + y1) / 2 < bottom]


def _parts_between(cuts: list[float], words: list[Any]) -> list[tuple[str, Box]]:
    """The words of a line between the cuts, with the boxes around them."""
    parts: dict[int, list[Any]] = {}
    for word in words:
        parts.setdefault(bisect_left(cuts, (word[0] + word[2]) / 2), []).append(word)
    return [(" ".join(word[4] for word in words), _around(words)) for words in parts.values()]


def _around(words: list[Any]) -> Box:
    x0, y0, x1, y1, *_ = zip(*words, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _rules(drawing: dict[str, Any]) -> list[Box]:
    """The straight lines of a drawing in points: itself if it is thin, the sides of a frame."""
    if not drawing["isrect"]:
        return []
    x0, y0, x1, y1 = drawing["bbox"]
    if min(x1 - x0, y1 - y0) <= MAX_RULE_PT:
        return [(x0, y0, x1, y1)]
    if not drawing["stroked"]:
        return []
    return [(x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1)]


def _share(value: float, whole: float) -> float:
    return min(1.0, max(0.0, value / whole)) if math.isfinite(value) else 0.0


def is_unmapped(text: str) -> bool:
    """Whether this is no text but the codes of glyphs whose font does not say what they mean.

    Also true for bytes in the wrong order (`M` as U+4D00, which Photoshop writes) and for text without any letter and
    with few digits, which is what a font without a mapping looks like when its codes fall among the ASCII signs.
    """
    counts = {sign: count for sign, count in Counter(text).items() if not sign.isspace()}
    if not counts:
        return False
    total = sum(counts.values())
    if sum(count for sign, count in counts.items() if _is_unmapped_sign(sign)) > MAX_UNMAPPED * total:
        return True
    digits = sum(count for sign, count in counts.items() if sign.isdigit())
    return 2 * digits < total and not any(map(str.isalpha, counts))


def _is_unmapped_sign(sign: str) -> bool:
    swapped = sign > "\xff" and ord(sign) % 256 == 0
    return sign == "\ufffd" or swapped or unicodedata.category(sign) in UNMAPPED


def _text_share(regions: tuple[Region, ...]) -> float:
    """The area of the text as a share of the page: an upper bound of its ink that needs no rendering."""
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (region.box for region in regions))
    return min(1.0, max(area, sys.float_info.epsilon))
