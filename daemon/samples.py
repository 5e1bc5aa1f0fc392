"""Documents for `ocr-daemon demo` and for tests: what people drop into an inbox, and what they drop by mistake.

The same bytes come out every time, the encrypted PDF excepted (its key is random).  Everything is drawn here from text,
so nothing needs to be shipped or downloaded.  It imports the PDF library and numpy: import it only where it is used.

Residual risk: these scans are kinder than real ones; `bench/` and the tests have nastier documents.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from PIL import Image, ImageFilter

from deepseek_ocr.pages_pdf import mupdf

if TYPE_CHECKING:
    from pathlib import Path

#: A4 in points.
WIDTH_PT: Final = 595
HEIGHT_PT: Final = 842
MARGIN_PT: Final = 64
#: A common setting of office scanners, and enough for ten-point type.
SCAN_DPI: Final = 150
#: EXIF tag 274 and its value for "turn by 90 degrees clockwise", as a phone held upright writes it.
ORIENTATION_TAG: Final = 274
QUARTER_TURN: Final = 6


@dataclass(frozen=True, slots=True)
class Sample:
    """A document and what a daemon that recognizes pictures should make of it."""

    path: Path
    expected: Literal["done", "partial", "failed"]
    #: The slug of the failure.
    reason: str | None = None


def write_samples(folder: Path) -> list[Sample]:
    """Write every sample below `folder`, one in a subfolder; existing files of these names are replaced."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    contents: list[tuple[str, bytes, Sample]] = []

    def add(name: str, content: bytes, expected: Literal["done", "failed"], reason: str | None = None) -> None:
        contents.append((name, content, Sample(folder / name, expected, reason)))

    add("harbour-log-scan.pdf", scanned_pdf(), "done")
    add("two-columns.pdf", born_digital_pdf(), "done")
    add("photos/notice-board.jpg", photo_jpeg(), "done")
    add("fax.tif", two_page_tiff(), "done")
    add("broken.pdf", corrupt_pdf(), "failed", "corrupt")
    add("locked.pdf", encrypted_pdf(), "failed", "encrypted")
    add("shopping-list.pdf", SHOPPING_LIST.encode(), "failed", "unsupported_type")
    for name, content, _ in contents:
        (folder / name).write_bytes(content)
    return [sample for _, _, sample in contents]


def scanned_pdf() -> bytes:
    """Three pages that look scanned: a little askew, on grey paper with grain, as JPEG without any text layer."""
    noise = np.random.default_rng(20)
    document = mupdf().open()
    for number, (title, text) in enumerate(HARBOUR_LOG):
        page = _page_picture(title, text, footer=f"- {number + 1} -")
        askew = page.rotate((0.6, -0.4, 0.3)[number % 3], Image.Resampling.BICUBIC, fillcolor="white")
        sheet = document.new_page(width=WIDTH_PT, height=HEIGHT_PT)
        sheet.insert_image(sheet.rect, stream=_jpeg(_on_paper(askew, noise), quality=80))
    return _pdf_bytes(document)


def born_digital_pdf() -> bytes:
    """One page as a word processor writes it: a heading, a paragraph over the full width, and two columns."""
    document = mupdf().open()
    page = document.new_page(width=WIDTH_PT, height=HEIGHT_PT)
    page.insert_text((MARGIN_PT, 90), ORCHARD_TITLE, fontname="hebo", fontsize=20)
    right = WIDTH_PT - MARGIN_PT
    _fill(page, (MARGIN_PT, 108, right, 190), ORCHARD_LEAD)
    page.insert_text((MARGIN_PT, 216), ORCHARD_HEADING, fontname="hebo", fontsize=14)
    middle, half_gutter = WIDTH_PT / 2, 12
    _fill(page, (MARGIN_PT, 230, middle - half_gutter, 700), ORCHARD_LEFT)
    _fill(page, (middle + half_gutter, 230, right, 700), ORCHARD_RIGHT)
    return _pdf_bytes(document)


def photo_jpeg() -> bytes:
    """A sheet on a dark table, unevenly lit, stored lying on its side with the EXIF mark that says so."""
    sheet = _page_picture(*NOTICE, height_pt=480).convert("RGB")
    margin = 70
    table = Image.new("RGB", (sheet.width + 2 * margin, sheet.height + 2 * margin), (88, 62, 44))
    table.paste(sheet.rotate(1.2, Image.Resampling.BICUBIC, expand=True, fillcolor=(88, 62, 44)), (margin, margin))
    levels = np.asarray(table, dtype=np.float32)
    light = np.linspace(0.97, 0.78, table.width, dtype=np.float32)[None, :, None]
    levels = levels * light * np.array([1.0, 0.98, 0.93], dtype=np.float32)  # a warm lamp from the left
    levels += np.random.default_rng(21).normal(0, 4, levels.shape)
    photo = Image.fromarray(levels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = QUARTER_TURN
    return _jpeg(photo.transpose(Image.Transpose.ROTATE_90), quality=88, exif=exif.tobytes())


def two_page_tiff() -> bytes:
    """A black-and-white page at 200 dpi and a grey one at 150 dpi, as multi-function printers send them."""
    (first_title, first_text), (second_title, second_text) = FAX
    first = _page_picture(first_title, first_text, dpi=200).convert("1", dither=Image.Dither.NONE)
    second = _on_paper(_page_picture(second_title, second_text), np.random.default_rng(22))
    # Pillow takes options that differ from the first page's from the page itself.
    second.encoderinfo = {"compression": "tiff_adobe_deflate", "dpi": (SCAN_DPI, SCAN_DPI)}
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[second], compression="group4", dpi=(200, 200))
    return buffer.getvalue()


def corrupt_pdf() -> bytes:
    """A PDF of which only the header and some stray bytes are left."""
    return b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + np.random.default_rng(23).bytes(4096)


def encrypted_pdf() -> bytes:
    """A PDF that opens only with a password."""
    document = mupdf().open(stream=born_digital_pdf(), filetype="pdf")
    return bytes(document.tobytes(encryption=mupdf().PDF_ENCRYPT_AES_256, user_pw="open sesame", owner_pw="owner"))


# Drawing


def _page_picture(title: str, text: str, *, dpi: int = SCAN_DPI, footer: str = "", height_pt: int = HEIGHT_PT) -> Any:
    """A typeset page as a clean grey picture."""
    pymupdf = mupdf()
    document = pymupdf.open()
    page = document.new_page(width=WIDTH_PT, height=height_pt)
    page.insert_text((MARGIN_PT, 90), title, fontname="tibo", fontsize=20)
    _fill(page, (MARGIN_PT, 110, WIDTH_PT - MARGIN_PT, height_pt - 60), text, fontsize=13)
    if footer:
        page.insert_text((WIDTH_PT / 2 - 12, height_pt - 40), footer, fontname="tiro", fontsize=11)
    pixmap = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY, alpha=False)
    return Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)


def _fill(page: Any, box: tuple[float, float, float, float], text: str, fontsize: float = 11) -> None:
    left_over = page.insert_textbox(box, text, fontname="tiro", fontsize=fontsize, lineheight=1.3)
    if left_over < 0:
        raise ValueError(f"the text needs {-left_over:.0f} points more than its box has")


def _on_paper(page: Image.Image, noise: np.random.Generator) -> Image.Image:
    """Ink that is not quite black on paper that is not quite white, with grain."""
    levels = np.asarray(page.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32)
    scanned = 40 + levels * (228 - 40) / 255 + noise.normal(0, 5, levels.shape)
    return Image.fromarray(scanned.clip(0, 255).astype(np.uint8))


def _jpeg(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _pdf_bytes(document: Any) -> bytes:
    """The file, without dates and random identifiers."""
    document.set_metadata({})
    return bytes(document.tobytes(garbage=3, deflate=True, no_new_id=True))


# Words

HARBOUR_LOG: Final = (
    (
        "The Harbour Log",
        (
            "On the first morning of March the harbour lay under a thick fog. The pilot boat went out at six and came "
            "back at eight without having seen a single mast. Three fishing boats waited at the north pier until the "
            "bell on the breakwater could be heard again.\n\n"
            "The keeper wrote down every arrival by hand. A line in his book held the name of the ship, the hour, the "
            "wind and the cargo. Timber came from Norway, salt from Portugal, and once a year a crate of oranges that "
            "nobody had ordered.\n\n"
            "At noon the fog lifted. Forty gulls sat on the roof of the customs house, as they did every spring, and "
            "the first sail of the season stood clear against the horizon."
        ),
    ),
    (
        "Tides and Timetables",
        (
            "High water was at half past four, and the ferry could not leave before then. The passengers played cards "
            "in the waiting room, where the stove smoked whenever the wind turned to the west.\n\n"
            "A timetable hung beside the door. It gave the hours of the tide for the whole month, printed in two "
            "colours, with the spring tides in red. Travellers copied it into their notebooks, and most of them copied "
            "at least one number wrongly.\n\n"
            "The captain trusted neither clock nor table. He looked at the weed on the third step of the quay, and "
            "when the water reached it he rang for departure."
        ),
    ),
    (
        "An Account of the Storm",
        (
            "The glass fell all day. By evening the boats had been drawn up to the chapel, and ropes were laid from "
            "door to door so that people could cross the square.\n\n"
            "Nobody slept. Toward midnight a wave carried away the old crane, which had stood on the quay for ninety "
            "years, and set it down again in the garden of the schoolmaster, upright and almost unharmed.\n\n"
            "In the morning the damage was counted: two roofs, eleven chimneys, one crane. No life was lost. The "
            "schoolmaster asked to keep the crane, and the town council agreed."
        ),
    ),
)
ORCHARD_TITLE: Final = "A Short Guide to the Orchard"
ORCHARD_LEAD: Final = (
    "An orchard needs little work if the work is done at the right time. This guide goes through the year in the "
    "order of the tasks, from the first pruning in winter to the last apples in autumn, and says what may safely "
    "be left undone."
)
ORCHARD_HEADING: Final = "Through the Year"
ORCHARD_LEFT: Final = (
    "Winter is the time for pruning. Choose a dry day without frost and begin with dead wood, then take out "
    "branches that cross or rub. Step back often. A tree that looks a little too open in January will look right "
    "in June.\n\n"
    "In early spring the ground around young trees is cleared of grass. A ring of compost as wide as the crown "
    "keeps the soil moist and feeds the roots until summer."
)
ORCHARD_RIGHT: Final = (
    "Summer asks for patience. The tree drops some of its fruit by itself, and what remains grows larger. Water "
    "young trees once a week in dry weather, slowly and deeply, rather than a little every day.\n\n"
    "Harvest begins when an apple comes away with a gentle twist. Early kinds are eaten at once; late kinds are "
    "laid on straw in a cool room, where the best of them keep until the next blossom."
)
NOTICE: Final = (
    "Notice to All Residents",
    (
        "The library will be closed on Friday for the annual count of books. Please return everything you have "
        "borrowed before Thursday evening, including the atlas that has been missing since last winter.\n\n"
        "The reading room opens again on Monday at nine o'clock. Tea will be served to those who bring back the atlas."
    ),
)
FAX: Final = (
    (
        "Order Confirmation",
        (
            "Dear Madam,\n\nThank you for your order of 12 May. We have reserved 240 clay flower pots and 36 saucers, "
            "which will leave our warehouse on Tuesday by the morning train.\n\n"
            "Please have somebody at the station to sign for the goods. The crates must stand upright and should not "
            "be left out in the rain.\n\nYours faithfully,\nThe Northern Pottery Works"
        ),
    ),
    (
        "Terms of Delivery",
        (
            "1. Goods are packed in straw and travel at our risk as far as the station of arrival.\n\n"
            "2. Breakages are replaced free of charge if they are reported within seven days.\n\n"
            "3. Empty crates remain our property and are collected with the next delivery."
        ),
    ),
)
SHOPPING_LIST: Final = "Eggs\nFlour\nTwo lemons\nCandles for the cake\n\nThis is a text file; only its name says PDF.\n"
