"""Generated pages whose text is known: prose in several fonts, sizes, columns and languages, as a scanner sees it.

Each page is drawn from a seed.  Conditions are dealt out evenly: every value of each is on as many pages as any other.
The text of a page is its headings and paragraphs in reading order (down each column, the left one first), then the page
number; a word that is broken at a line end is one word, without hyphen, as a person would copy it.
"""

from __future__ import annotations

import io
import json
import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageFilter

from bench.accuracy_prose import HEADINGS, SENTENCES, paragraph
from deepseek_ocr.pages_pdf import mupdf

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DPI: Final = 150
#: A4 in points.
WIDTH, HEIGHT = 595, 842
MARGIN, GUTTER, FOOT = 54, 24, 796
#: Body and bold of each font: names of PyMuPDF's own (the PDF base fonts), or files of Debian's fonts-dejavu-core.
FONTS: Final[dict[str, tuple[str, str]]] = {
    "sans (Helvetica)": ("helv", "hebo"),
    "serif (Times)": ("tiro", "tibo"),
    "mono (Courier)": ("cour", "cobo"),
    "DejaVu Sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
}
FONT_FOLDERS: Final = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/dejavu"))
SIZES: Final = (8, 9, 10, 11, 12, 14)
#: What is done to the picture: degrees of skew at most, grey levels of noise (standard deviation), radius of the blur
#: in pixels, JPEG quality (0 = PNG).
CONDITIONS: Final[dict[str, tuple[float, float, float, int]]] = {
    "clean": (0.0, 0.0, 0.0, 0),
    "skew": (1.0, 0.0, 0.0, 0),
    "noise": (0.0, 12.0, 0.0, 0),
    "blur": (0.0, 3.0, 0.8, 0),
    "jpeg": (0.0, 3.0, 0.0, 40),
    "scan": (1.0, 8.0, 0.5, 70),
}
_VOWELS = "aeiouyäöüàáâèéêëìíîïòóôùúûœæ"
#: They stay with the consonant before them: "with-in", "ta-ble".
_FOLLOWERS = "hjlr"
#: Letters on each side of a break, at least.
_MIN_PART = 3


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a page is to look like."""

    number: int
    font: str
    size: int
    columns: int
    language: str
    condition: str
    #: Whether words are broken at line ends.
    hyphens: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, a paragraph or a page number, where it stands on the straight page (points)."""

    category: str
    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A page as a file, and what stands on it in reading order."""

    sheet: Sheet
    name: str
    data: bytes
    blocks: tuple[Block, ...]
    #: Degrees by which it is turned anticlockwise.
    skew: float

    @property
    def text(self) -> str:
        """The truth."""
        return "\n".join(block.text for block in self.blocks)


def available_fonts() -> list[str]:
    """Those of `FONTS` that this machine has; PyMuPDF's are always there."""
    return [name for name, files in FONTS.items() if all(map(_font_source, files))]


def _font_source(name: str) -> dict[str, str]:
    if not name.endswith(".ttf"):
        return {"fontname": name}
    found = next((folder / name for folder in FONT_FOLDERS if (folder / name).is_file()), None)
    return {"fontfile": str(found)} if found else {}


@cache
def _font(name: str) -> Any:
    return mupdf().Font(**_font_source(name))


def sheets(count: int, seed: int, fonts: Sequence[str]) -> list[Sheet]:
    """`count` pages, each condition dealt out evenly and apart from the others."""
    dice = random.Random(seed)  # noqa: S311 - pages, not secrets

    def dealt(values: Iterable[Any]) -> list[Any]:
        pool = list(values)
        cards = [pool[index % len(pool)] for index in range(count)]
        dice.shuffle(cards)
        return cards

    columns, hyphens = dealt((1, 2)), dealt((False, False, True))
    dealt_out = zip(
        dealt(fonts), dealt(SIZES), columns, dealt(SENTENCES), dealt(CONDITIONS), hyphens, strict=True
    )  # fmt: skip
    return [Sheet(number, *values) for number, values in enumerate(dealt_out, 1)]


def picture(sheet: Sheet, seed: int) -> Picture:
    """Draw a page and spoil it."""
    dice = random.Random(f"{seed}-{sheet.number}")  # noqa: S311
    with mupdf().open() as document:
        page = document.new_page(width=WIDTH, height=HEIGHT)
        blocks = _Typesetter(page, sheet, dice).fill()
        pixmap = page.get_pixmap(dpi=DPI)
        image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples).convert("L")
    most, noise, blur, quality = CONDITIONS[sheet.condition]
    skew = dice.choice((-1, 1)) * dice.uniform(0.3, most) if most else 0.0
    image = image.rotate(skew, Image.Resampling.BICUBIC, fillcolor=255).filter(ImageFilter.GaussianBlur(blur))
    grain = np.random.default_rng(dice.randrange(2**32)).normal(0, noise, (image.height, image.width))
    # Paper is not quite white, or half of the noise would be cut off.
    grey = np.asarray(image, np.float64) * (1 if noise == 0 else 0.94) + grain
    spoiled = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    file = io.BytesIO()
    if quality:
        spoiled.save(file, "JPEG", quality=quality, dpi=(DPI, DPI))
    else:
        spoiled.save(file, "PNG", dpi=(DPI, DPI))
    name = f"page-{sheet.number:03}.{'jpg' if quality else 'png'}"
    return Picture(sheet, name, file.getvalue(), tuple(blocks), skew)


class _Typesetter:
    """Fills a page with headings and paragraphs."""

    def __init__(self, page: Any, sheet: Sheet, dice: random.Random) -> None:
        self.page, self.sheet, self.dice = page, sheet, dice
        self.body, self.bold = map(_font, FONTS[sheet.font])
        self.blocks: list[Block] = []
        self.writer = mupdf().TextWriter(page.rect)

    def fill(self) -> list[Block]:
        """A title over all columns, the columns, the page number."""
        size = self.sheet.size
        titles = list(HEADINGS[self.sheet.language])
        self.dice.shuffle(titles)
        top = self._set("title", titles.pop(), MARGIN, WIDTH - MARGIN, MARGIN, self.bold, size * 1.7) + size
        width = (WIDTH - 2 * MARGIN - (self.sheet.columns - 1) * GUTTER) / self.sheet.columns
        for column in range(self.sheet.columns):
            left = MARGIN + column * (width + GUTTER)
            y = top
            while True:
                if y > top and titles and self.dice.random() < 0.25:  # noqa: PLR2004 - of the paragraphs
                    if y + 7 * size > FOOT - size:  # no heading without text under it
                        break
                    y = self._set("title", titles.pop(), left, left + width, y + 0.6 * size, self.bold, size * 1.25)
                    y += 0.4 * size
                text = paragraph(self.dice, self.sheet.language)
                if y + len(self._lines(text, width, self.body, size)) * 1.25 * size > FOOT - size:
                    break
                y = self._set("text_block", text, left, left + width, y, self.body, size) + 0.7 * size
        number = str(self.dice.randint(2, 480))
        self._set("page_number", number, WIDTH / 2 - 10, WIDTH / 2 + 40, FOOT, self.body, size)
        self.writer.write_text(self.page)
        return self.blocks

    def _set(self, category: str, text: str, left: float, right: float, top: float, font: Any, size: float) -> float:
        """Write a block; the height at which it ends."""
        lines = self._lines(text, right - left, font, size)
        for number, line in enumerate(lines):
            self.writer.append((left, top + size + number * 1.25 * size), line, font=font, fontsize=size)
        widest = max(font.text_length(line, size) for line in lines)
        bottom = top + len(lines) * 1.25 * size
        self.blocks.append(Block(category, text, (left, top, left + widest, bottom)))
        return bottom

    def _lines(self, text: str, width: float, font: Any, size: float) -> list[str]:
        lines, line = [], ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if font.text_length(longer, size) <= width:
                line = longer
                continue
            head, tail = "", word
            if self.sheet.hyphens and font is self.body:
                room = width - font.text_length(f"{line} -", size)
                head, tail = _broken(word, lambda part: font.text_length(part, size) <= room)  # noqa: B023 - called here
            lines.append(f"{line} {head}-" if head else line)
            line = tail
        return [*filter(None, lines), line]


def _broken(word: str, fits: Any) -> tuple[str, str]:
    """The longest beginning of a word that fits and the rest, between two consonants before a vowel; or none of it."""
    for at in range(len(word) - _MIN_PART, _MIN_PART - 1, -1):
        before, after, then = word[at - 1].lower(), word[at].lower(), word[at + 1].lower()
        breaks = before not in _VOWELS and after not in _VOWELS + _FOLLOWERS and then in _VOWELS
        if breaks and word.isalpha() and word.islower() and fits(word[:at]):
            return word[:at], word[at:]
    return "", word


def ground_truth(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """The pages as OmniDocBench.json has them; languages it does not know go by our own word."""
    return [
        {
            "layout_dets": [
                {
                    "category_type": block.category, "poly": _poly(block.box, one.skew), "ignore": False,
                    "order": order, "anno_id": order, "text": block.text,
                }
                for order, block in enumerate(one.blocks, 1)
            ],
            "page_info": {
                "page_no": one.sheet.number, "width": _pixels(WIDTH), "height": _pixels(HEIGHT), "image_path": one.name,
                "page_attribute": {
                    "data_source": "generated",
                    "language": "english" if one.sheet.language == "eng" else one.sheet.language,
                    "layout": ("single_column", "double_column")[one.sheet.columns - 1],
                    "fuzzy_scan": one.sheet.condition != "clean",
                },
            },
            "extra": {"relation": []},
        }
        for one in pictures
    ]  # fmt: skip


def _pixels(points: float) -> int:
    return round(points * DPI / 72)


def _poly(box: tuple[float, float, float, float], skew: float) -> list[float]:
    """The corners in pixels, clockwise from the top left, turned with the page around its middle."""
    left, top, right, bottom = box
    cos, sin = math.cos(math.radians(skew)), math.sin(math.radians(skew))
    corners = []
    for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
        across, down = x - WIDTH / 2, y - HEIGHT / 2
        turned = across * cos + down * sin + WIDTH / 2, down * cos - across * sin + HEIGHT / 2
        corners += [round(at * DPI / 72, 1) for at in turned]
    return corners


def write_folder(folder: Path, pictures: Sequence[Picture]) -> None:
    """A folder in the format of OmniDocBench: images/ and OmniDocBench.json."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for one in pictures:
        (folder / "images" / one.name).write_bytes(one.data)
    truth = json.dumps(ground_truth(pictures), ensure_ascii=False, indent=1)
    (folder / "OmniDocBench.json").write_text(truth, encoding="utf-8")
