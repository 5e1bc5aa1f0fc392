"""Blocks of pages -> Markdown.  Pure.

What an engine reads letter by letter is data, not markup: what would start a heading, a list or HTML by accident is
escaped, so that a line "# 5" on paper stays a line.  Lists are kept, as readers expect them.  What a model writes is
Markdown already (`Block.markup`) and is tidied only (`markup.py`).  In neither is HTML left but that of tables whose
cells span others, and our own marks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from deepseek_ocr.headings import DEFAULT_LEVEL, TITLE_LEVEL, is_title
from deepseek_ocr.markup import cell_text, code_markdown, formula_markdown, is_prose, line_markdown, text_markdown
from deepseek_ocr.tables import find_tables, parse_table, to_html, to_pipes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepseek_ocr.document import Block, Page

#: Bullets on paper -> a list item.
_BULLET = re.compile(r"^\s*[•◦▪‣·●○■□–—-]\s+")  # noqa: RUF001 - the dashes are what stands on paper
#: What would be markup at the beginning of a line, or of what stands in a list item: headings, quotes, "+" as a
#: bullet, underlined headings, rules, tables, fences.  "- x" and "1. x" stay: they are lists on paper too.
_LINE_START = re.compile(
    r"^((?:(?:-|\d{1,9}[.)])[ \t]+)*)(#{1,6}(?=\s|$)|>|\+(?=\s|$)|=+[ \t]*$|[-:][-:| \t]*$|\|)", re.MULTILINE
)
#: What would be markup anywhere: HTML and comments (a page mark, above all), emphasis, code, links, entities.
_INLINE = re.compile(r"([\\`*_\[\]<~]|&(?=#?\w+;))")
#: A heading may end with such, which would not be shown.
_CLOSING = re.compile(r"(?<!\S)(#+)$")
_BRACKET = re.compile(r"\\.|[\[\]]")


def page_markdown(page: Page, images: str = "") -> str:
    """One page with its mark; ends with a line feed.  `images` is the folder of the pictures that blocks name."""
    texts = {block.id: block for block in page.blocks}
    parts = [page_mark(page)]
    for block in page.blocks:
        captions = [_line(texts[caption]) for caption in block.captions if caption in texts]
        parts.append(block_markdown(block, images=images, title=" ".join(captions)))
    return "\n\n".join(part for part in parts if part) + "\n"


def page_mark(page: Page) -> str:
    """The comment that begins a page: its number, and what is wrong with it."""
    note = page.problem or ("blank" if page.blank else "")
    note = re.sub(r"-(?=-)", "- ", re.sub(r"\s+", " ", note)).replace(">", "")
    return f"<!-- page {page.page_number}: {note} -->" if note else f"<!-- page {page.page_number} -->"


def block_markdown(block: Block, *, images: str = "", title: str = "") -> str:
    """One block, without a line feed at its end; `title` is what a picture is called."""
    match block.category:
        case "heading":
            return _heading(block)
        case "caption":
            return _caption(block)
        case "table":
            return _table(block)
        case "figure" | "chart":
            return _figure(block, images, title)
        case "formula" if block.markup:
            return formula_markdown(block.text)
        case _:
            return _text(block)


def _text(block: Block) -> str:
    text = block.text
    if block.markup:
        # Headings have blocks of their own, but where the whole page is one.
        return text_markdown(text, has_headings=not block.label)
    # Without its indentation, which would make it code after an empty line.
    lines = [_BULLET.sub("- ", line).strip() for line in text.strip().splitlines()]
    return _LINE_START.sub(r"\1\\\2", _INLINE.sub(r"\\\1", "\n".join(lines)))


def _line(block: Block) -> str:
    """The text of a block on one line."""
    if block.markup:
        return line_markdown(block.text)
    return _INLINE.sub(r"\\\1", " ".join(block.text.split()))


def _heading(block: Block) -> str:
    line = _CLOSING.sub(r"\\\1", _line(block))
    level = block.level or (TITLE_LEVEL if is_title(block) else DEFAULT_LEVEL)
    return f"{'#' * level} {line}" if line else ""


def _caption(block: Block) -> str:
    line = _line(block)
    # With a star in it, or a backslash before the last one, it would not be what is between the two.
    is_plain = bool(line) and "*" not in line and not line.endswith("\\")
    return f"*{line}*" if is_plain else text_markdown(line)


def _table(block: Block) -> str:
    """A pipe table where that can hold it, else HTML; a text where there is no table in it."""
    return _table_of(block.text, markup=block.markup) if "<table" in block.text.lower() else _text(block)


def _table_of(text: str, *, markup: bool) -> str:
    table = parse_table(text)
    if not table.rows:
        return ""
    if not table.is_simple:
        return to_html(table, cell_text if markup else str)
    return to_pipes(
        [line_markdown(cell.text) if markup else _INLINE.sub(r"\\\1", cell.text) for cell in row] for row in table.rows
    )


def _figure(block: Block, images: str, title: str) -> str:
    """The picture, or a mark where there is none, what was read in it, and what a second look found."""
    if images and block.image:
        alt = _BRACKET.sub(lambda found: found[0] if found[0][0] == "\\" else f"\\{found[0]}", title)
        # A file's name may hold bytes that are no UTF-8.
        picture = f"![{alt}]({quote(f'{images}/{block.image}', errors='surrogateescape')})"
    else:
        picture = f"<!-- {block.category} {block.id} -->"
    parts = [
        picture,
        _text(block),
        _quoted(block.description or ""),
        *_data(block.data or ""),
    ]
    return "\n\n".join(part for part in parts if part)


def _quoted(text: str) -> str:
    """Words about the page that do not stand on it."""
    return "\n".join(f"> {line}".rstrip() for line in text_markdown(text).splitlines())


def _data(text: str) -> Iterator[str]:
    """The tables in what was read from a figure, and what stands around them: words, or a notation as it is."""
    at = 0
    for start, end in [*find_tables(text), (len(text), len(text))]:
        if around := text[at:start].strip():
            yield _quoted(around) if is_prose(around) else code_markdown(around)
        yield _table_of(text[start:end], markup=True)
        at = end
