"""The second pass: figures, charts and broken tables of a page that was read are looked at again, each by itself.

What deserves a look, how finely and with which question (`looks`), and what becomes of the answers (`with_answers`) is
pure; `look_closer` asks for all of a page at once.  Nothing an answer says is evaluated.  What the first pass read is
only ever replaced in a table, by a reading that has as much in it and is sounder; all else is added beside it.

Left to others: rendering a view and asking the engine (`reader.py`), writing pictures, how it is shown (`markdown.py`).
Residual risks: a description that is fluent and wrong is taken; a table that lost the same columns in every row does
not show it and is not read again; a page that was read turned has its figures looked at as they lie.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepseek_ocr.blocks import blocks_of, storable
from deepseek_ocr.completion import PageImage
from deepseek_ocr.document import Attempt, Flag
from deepseek_ocr.errors import PageError
from deepseek_ocr.grounding import parse
from deepseek_ocr.loops import find_loop
from deepseek_ocr.markup import is_prose
from deepseek_ocr.mending import mend, mend_table
from deepseek_ocr.pages import RENDER_DPI
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.sizes import POINTS_PER_INCH
from deepseek_ocr.tables import find_tables, parse_table, pipes_to_html, to_html
from deepseek_ocr.tiles import CROP_SIDE_PX, GRIDS, grid_for
from deepseek_ocr.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from deepseek_ocr.completion import Box, Completion, FinishReason
    from deepseek_ocr.document import Block, Page
    from deepseek_ocr.tables import Table

#: What an engine must be able to answer for this pass.
TASKS: Final = frozenset({Task.FIGURE, Task.DESCRIBE})
#: Shortest side of what is looked at, as a share of the page's longer side: 25 points of A4.  Below are icons, bullets
#: and rules.
MIN_SIDE: Final = 0.03
#: Share of the page above which there is nothing to be gained: it was just looked at so finely.
WHOLE_PAGE: Final = 0.8
#: Figures of a page that are looked at, the largest ones: a loop of the first pass wrote 130 of them for one page
#: (research report, section 2.1 d).
MAX_FIGURES: Final = 12
#: What is looked at around a box, as a share of the page's longer side: a line of text of A4, as boxes are a little off
#: and the words along an axis often lie outside.
MARGIN: Final = 0.01
#: Tokens of an answer at most.  A description is a paragraph or two, a table of data some 50 rows.  The longest table
#: in 464 real outputs that is none of a loop has 2,000 characters, tags counted as one: 1,000 tokens at most; but
#: those read again are the large ones.
MAX_TOKENS: Final = {Task.DESCRIBE: 512, Task.FIGURE: 2048, Task.DOCUMENT: 4096}
#: Longest side of a picture that is looked at: six crops of 640 pixels in a row (tiles.py).
LONGEST_SIDE_PX: Final = CROP_SIDE_PX * max(map(max, GRIDS))
#: Content of a table, in letters, that another reading of it must have at least: what is read better differs a little.
SAME_CONTENT: Final = 0.9
#: Rows of a table from which a column with a head and nothing below it is taken for a lost one.
MIN_ROWS: Final = 4
#: Words of an answer that must be new, as a share of all, for it to say more than what is known.
MIN_NEWS: Final = 0.15
#: Pictures for people: half as fine again as the page was rendered, and as large as a screen shows.
PICTURE_DPI: Final = 216
MAX_PICTURE_PX: Final = 2000
#: Around their boxes, as above; shorter sides are none.
PICTURE_MARGIN: Final = 0.004

_FIGURES: Final = frozenset({"figure", "chart"})
_FAULTS: Final[dict[FinishReason, str]] = {
    "length": "the answer was cut off at its limit of tokens",
    "repetition": "the answer repeats itself",
    "abort": "the answer was broken off",
    "error": "the engine failed on it",
}
_FENCED = re.compile(r"\s*```[^\n`]*\n(.*?)\s*```\s*", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?。！？](?!\w)")  # noqa: RUF001 - as written in Chinese
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Look:
    """One question about a part of a page."""

    block_id: str
    view: View
    options: Options
    #: The same in words, for the account of the page.
    way: str


# What to look at


def looks(page: Page) -> tuple[Look, ...]:
    """What of a page deserves a second look, in the order of its blocks; empty where nothing does."""
    figures = [block for block in page.blocks if block.category in _FIGURES and _is_part(page, block)]
    largest = {block.id for block in sorted(figures, key=_area, reverse=True)[:MAX_FIGURES]}
    found = []
    for block in page.blocks:
        if block.id in largest:
            found += [
                _look(page, block, Task.DESCRIBE, f"{block.category} {block.id} described"),
                _look(page, block, Task.FIGURE, f"{block.category} {block.id} parsed"),
            ]
        elif block.category == "table" and _is_part(page, block) and _is_broken(block):
            found.append(_look(page, block, Task.DOCUMENT, f"table {block.id} again from its crop"))
    return tuple(found)


def _is_part(page: Page, block: Block) -> bool:
    """Whether it is large enough to hold something, and small enough for a look from nearer."""
    if block.relative_box is None:
        return False
    left, top, right, bottom = block.relative_box
    shortest = min((right - left) * page.width, (bottom - top) * page.height)
    return shortest >= MIN_SIDE * max(page.width, page.height) and _area(block) <= WHOLE_PAGE


def _area(block: Block) -> float:
    left, top, right, bottom = block.relative_box or (0.0, 0.0, 0.0, 0.0)
    return (right - left) * (bottom - top)


def _look(page: Page, block: Block, task: Task, way: str) -> Look:
    """The look at a block; small ones in one view, others as finely as the model's crops can show them.

    One view costs 273 tokens and takes pictures up to 640 pixels; a single pixel more, and it is 693 to 903.
    """
    box = _widened(page, block, MARGIN)
    width, height = (box[2] - box[0]) * page.width, (box[3] - box[1]) * page.height
    longest = max(width, height)
    # What fits into one view as it was rendered for the first pass, is no worse there; it may even be finer.
    if longest * _pixels_per_unit(page, RENDER_DPI) <= CROP_SIDE_PX:
        side_px = CROP_SIDE_PX
    else:
        scale = LONGEST_SIDE_PX / longest
        side_px = CROP_SIDE_PX * max(grid_for(max(1, round(width * scale)), max(1, round(height * scale))))
    return Look(block.id, View(box, side_px=side_px), Options(task, max_tokens=MAX_TOKENS[task]), way)


def _widened(page: Page, block: Block, margin: float) -> Box:
    """The box of a block that has one, and what is around it, on the page."""
    left, top, right, bottom = block.relative_box or (0.0, 0.0, 1.0, 1.0)
    space = margin * max(page.width, page.height)
    across, down = space / page.width, space / page.height
    return max(0.0, left - across), max(0.0, top - down), min(1.0, right + across), min(1.0, bottom + down)


def _pixels_per_unit(page: Page, dpi: float) -> float:
    """Pixels for one unit of the page; those of a picture are its own, whatever the resolution."""
    return dpi / POINTS_PER_INCH if page.unit == "pt" else 1.0


def _is_broken(block: Block) -> bool:
    """Whether the first pass lost some of a table, as far as the table itself shows it."""
    if "<table" not in block.text:
        return not block.text.strip()
    if {Flag.UNCLOSED, Flag.LOOP_CUT} & set(block.flags):
        return True
    table = parse_table(block.text)
    return not _is_even(table) or _has_blank_end(table)


def _is_even(table: Table) -> bool:
    """Whether all rows are equally wide; a row of one cell may be a heading in the table."""
    return len({width for width in _widths(table) if width > 1}) <= 1


def _widths(table: Table) -> list[int]:
    """How many columns each row covers, spans of the rows above counted."""
    widths = [0] * len(table.rows)
    for number, row in enumerate(table.rows):
        for cell in row:
            for other in range(number, min(number + cell.rows, len(widths))):
                widths[other] += cell.columns
    return widths


def _has_blank_end(table: Table) -> bool:
    """Whether the last column has a head and nothing else."""
    if len(table.rows) < MIN_ROWS or not table.is_simple or len({len(row) for row in table.rows}) > 1:
        return False
    head, *body = (row[-1].text for row in table.rows)
    return bool(head) and not any(body)


# What becomes of the answers


async def look_closer(page: Page, ask: Callable[[View, Options], Awaitable[Completion]]) -> Page:
    """The page with what a second look found, all its looks asked for at once; raises what `ask` raises.

    A `PageError` costs no more than its look.
    """

    async def answer(look: Look) -> Completion | str:
        try:
            return await ask(look.view, look.options)
        except PageError as error:
            return str(error) or type(error).__name__

    found = looks(page)
    asked = [asyncio.ensure_future(answer(look)) for look in found]
    try:
        answers = await asyncio.gather(*asked)
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    # In a thread: 0.3 s for a page full of long answers (twelve figures and four tables, 9,000 characters each).
    return await asyncio.to_thread(with_answers, page, list(zip(found, answers, strict=True)))


def with_answers(page: Page, answered: Sequence[tuple[Look, Completion | str]]) -> Page:
    """The page with what is good of the answers, and an account of them all; in the order of `looks`.

    An answer may be a sentence that says why there is none.
    """
    blocks = {block.id: block for block in page.blocks}
    attempts = []
    for look, answer in answered:
        fault, block = _fault(answer), blocks.get(look.block_id)
        if block is not None and not isinstance(answer, str):
            match look.options.task:
                case Task.DESCRIBE:
                    block, fault = _described(block, answer, fault)
                case Task.FIGURE:
                    block, fault = _parsed(block, answer, fault)
                case _:
                    block, fault = _read_again(page, block, answer, fault)
            blocks[block.id] = block
        attempts.append(_attempt(look, answer, fault))
    provenance = page.provenance and page.provenance.model_copy(
        update={"attempts": (*page.provenance.attempts, *attempts)}
    )
    return page.model_copy(update={"blocks": tuple(blocks.values()), "provenance": provenance})


def _fault(answer: Completion | str) -> str:
    """Why nothing of an answer can be taken; empty where something can."""
    if isinstance(answer, str):
        return answer or "it could not be looked at"
    if answer.finish_reason != "stop":
        return _FAULTS[answer.finish_reason]
    if not answer.text.strip():
        return "the answer is empty"
    return _FAULTS["repetition"] if find_loop(answer.text) else ""


def _attempt(look: Look, answer: Completion | str, outcome: str) -> Attempt:
    if isinstance(answer, str):
        return Attempt(way=look.way, outcome=outcome, seconds=0)
    return Attempt(
        way=look.way,
        outcome=outcome,
        seconds=round(answer.seconds, 3),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
    )


def _untagged(text: str) -> str:
    """The answer without the model's tags and without a fence around it."""
    text = "\n\n".join(block.text for block in parse(storable(text)).blocks).strip()
    fenced = _FENCED.fullmatch(text)
    return fenced[1].strip() if fenced else text


def _described(block: Block, answer: Completion, fault: str) -> tuple[Block, str]:
    """The block with its description; of one that goes round and round, the sentences before that."""
    text, loop = answer.text, find_loop(answer.text)
    if loop is not None:
        text = text[: loop.start]
        ends = [found.end() for found in _SENTENCE_END.finditer(text)]
        text = text[: ends[-1]] if ends else ""
    elif fault:
        return block, fault
    text = mend(_untagged(text))
    if not text:
        return block, fault or "the answer is empty"
    return block.model_copy(update={"description": text}), fault


def _parsed(block: Block, answer: Completion, fault: str) -> tuple[Block, str]:
    """The block with its data: HTML where the answer has a table, which makes it a chart; else text, as it is."""
    if fault:
        return block, fault
    text = pipes_to_html(_untagged(answer.text))
    pieces, at, is_chart = [], 0, False
    for start, end in find_tables(text):
        table = parse_table(mend_table(text[start:end]))
        pieces.append(_words(text[at:start]))
        if _goes_round(table):
            return block, _FAULTS["repetition"]
        if any(cell.text for row in table.rows for cell in row):
            pieces.append(to_html(table))
            is_chart |= sum(width > 1 for width in _widths(table)) > 1
        at = end
    data = "\n".join(piece for piece in (*pieces, _words(text[at:])) if piece)
    if not data:
        return block, "there is no data in the answer"
    if is_prose(data) and "<table>" not in data and not _is_news(data, f"{block.description or ''} {block.text}"):
        return block, "the answer says no more than the description, or than what was read"
    return block.model_copy(update={"data": data, "category": "chart" if is_chart else block.category}), ""


def _words(text: str) -> str:
    """What stands beside tables: words without the model's artefacts, a notation letter by letter."""
    return mend(text) if is_prose(text) else text.strip()


def _is_news(text: str, known: str) -> bool:
    """Whether a text has words that are not known."""
    words = set(_WORD.findall(text.lower()))
    return len(words - set(_WORD.findall(known.lower()))) > MIN_NEWS * len(words)


def _read_again(page: Page, block: Block, answer: Completion, fault: str) -> tuple[Block, str]:
    """The table, or the new reading of it where that is the better one."""
    block = block.model_copy(update={"flags": tuple(sorted({*block.flags, Flag.RETRIED}))})
    if fault:
        return block, fault
    crop = PageImage(page.page_number - 1, page.width, page.height, page.unit, None, ink=1.0)
    tables = [found for found in blocks_of(crop, answer, Task.DOCUMENT)[0] if "<table" in found.text]
    if not tables:
        return block, "no table was read there"
    new = max(tables, key=_soundness)
    is_looped = Flag.LOOP_CUT in block.flags or _goes_round(parse_table(block.text))
    if not is_looped and _letters(new) < SAME_CONTENT * _letters(block):
        return block, "the first reading has more in it"
    if _soundness(new) <= _soundness(block):
        return block, "the first reading is as good"
    flags = {*block.flags} - {Flag.UNCLOSED, Flag.LOOP_CUT} | ({*new.flags} & {Flag.UNCLOSED})
    return block.model_copy(
        update={"text": new.text, "markup": new.markup, "flags": tuple(sorted(flags)), "confidence": None}
    ), ""


def _soundness(block: Block) -> tuple[bool, bool, bool, int, int]:
    """How well a table was read, the more the better: no loop, closed, even, its width, cells that are not blank."""
    table = parse_table(block.text)
    return (
        Flag.LOOP_CUT not in block.flags and not _goes_round(table),
        Flag.UNCLOSED not in block.flags,
        _is_even(table),
        max(_widths(table), default=0),
        sum(bool(cell.text) for row in table.rows for cell in row),
    )


def _goes_round(table: Table) -> bool:
    """Whether its rows repeat themselves; amid their tags that may not show."""
    return find_loop("\n".join(" ".join(cell.text for cell in row) for row in table.rows)) is not None


def _letters(block: Block) -> int:
    """Letters in the cells of a table; of a block without one, in all of it."""
    if "<table" not in block.text:
        return len("".join(block.text.split()))
    return sum(len(cell.text) for row in parse_table(block.text).rows for cell in row)


# Pictures for people


def pictures(page: Page) -> tuple[tuple[str, str, View], ...]:
    """Of each figure and chart with a place: its id, the name of its picture (sorted as read) and how to render it."""
    found = []
    for number, block in enumerate(page.blocks, 1):
        if block.category in _FIGURES and block.relative_box is not None:
            left, top, right, bottom = block.relative_box
            if min(right - left, bottom - top) >= PICTURE_MARGIN:
                found.append((block.id, f"p{page.page_number:04d}-b{number:02d}.png", _picture_view(page, block)))
    return tuple(found)


def _picture_view(page: Page, block: Block) -> View:
    box = _widened(page, block, PICTURE_MARGIN)
    longest = max((box[2] - box[0]) * page.width, (box[3] - box[1]) * page.height)
    side_px = min(MAX_PICTURE_PX, max(1, round(longest * _pixels_per_unit(page, PICTURE_DPI))))
    return View(box, side_px=side_px)


def with_pictures(page: Page, made: Mapping[str, str]) -> Page:
    """The page whose blocks name the pictures that were made; `made` is file names by block ids."""
    blocks = (
        block.model_copy(update={"image": made[block.id]}) if block.id in made else block for block in page.blocks
    )
    return page.model_copy(update={"blocks": tuple(blocks)})
