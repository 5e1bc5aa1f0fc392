"""DocJSON -> MinerU's content_list.json, which many tools for retrieval read.  Pure but for `export_content_list`.

The format is that of MinerU 3.4.5, the last release whose command writes such a file (make_blocks_to_content_list in
mineru/backend/vlm/vlm_middle_json_mkcontent.py, json.dumps in mineru/cli/common.py); the renderer that 4.0.12 keeps for
it (mineru/render/_internal/content_list/v1.py) differs in that a formula has no `$$` around it, and a picture without
content no `content`.

Not in the format, and left out: how a page was read and what is wrong with it, flags, confidence, summary, keywords,
context, page sizes.  Text is Markdown, as MinerU's is.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.captions import FLOATS
from deepseek_ocr.exports import images_folder, owned_captions, pages_of, picture_path, write
from deepseek_ocr.headings import DEFAULT_LEVEL
from deepseek_ocr.markdown import block_markdown
from deepseek_ocr.markup import cell_text
from deepseek_ocr.tables import parse_table, to_html

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from deepseek_ocr.document import Block, Document, Page

#: What MinerU has a type of its own for, as the model labels it.
_MARGINS: Final = frozenset({"header", "footer", "page_number"})
#: Our category -> MinerU's type, which is also how the names of its captions begin.
_TYPES: Final = {"figure": "image", "chart": "chart", "table": "table"}
_FOOTNOTE: Final = "table_footnote"
_FORMULA = re.compile(r"\$\$((?:(?!\$\$).)*)\$\$", re.DOTALL)


def content_list_json(document: Document, images: str | None = None) -> str:
    """The content of `x.pdf.content_list.json`; `images` is the folder of the pictures, else `<source name>.images`."""
    return _written(document.pages, f"{document.source_name}.images" if images is None else images)


def export_content_list(docjson: Path, target: Path) -> None:
    """Write and sync it for a written document, holding a page and the list; runs in a worker process."""
    write(target, _written(pages_of(docjson), images_folder(docjson)))


def _written(pages: Iterable[Page], images: str) -> str:
    items = [json.dumps([item], ensure_ascii=False, indent=4)[2:-2] for page in pages for item in _items(page, images)]
    text = "[\n" + ",\n".join(items) + "\n]" if items else "[]"
    return text.encode("utf-8", "replace").decode()


def _items(page: Page, images: str) -> Iterator[dict[str, Any]]:
    """What stands on a page, in reading order; captions are part of what they belong to."""
    captions = owned_captions(page.blocks)
    owners = frozenset(captions)
    for block in page.blocks:
        if block.category == "caption" and block.caption_of in owners:
            continue
        is_float = block.category in FLOATS
        item = _float(block, captions.pop(block.id, ()), images) if is_float else _text(block)
        if item:
            if block.relative_box:
                item["bbox"] = [int(side * 1000) for side in block.relative_box]
            yield item | {"page_idx": page.page_number - 1}


def _text(block: Block) -> dict[str, Any]:
    """What is no picture or table; nothing where there is no text."""
    if block.category == "formula" and block.markup:
        formula = _FORMULA.fullmatch(text := block_markdown(block))
        if formula:
            return {"type": "equation", "text": f"$$\n{formula[1].strip()}\n$$", "text_format": "latex"}
        return {"type": "text", "text": text} if text else {}
    text, label = _markdown(block), block.label.strip().lower()
    if not text:
        return {}
    if block.category == "heading":
        return {"type": "text", "text": text, "text_level": block.level or DEFAULT_LEVEL}
    return {"type": label if block.category == "text" and label in _MARGINS else "text", "text": text}


def _markdown(block: Block) -> str:
    """The text of a block without what says that it is a heading or a caption."""
    return block_markdown(block.model_copy(update={"category": "text"}))


def _float(block: Block, captions: Sequence[Block], images: str) -> dict[str, Any]:
    """A figure, chart or table with its captions."""
    kind = _TYPES[block.category]
    item: dict[str, Any] = {"type": kind, "img_path": picture_path(images, block.image)}
    if kind != "table":
        parts = [_markdown(block), *(_body(text, markup=True) for text in (block.description, block.data) if text)]
        item["content"] = "\n\n".join(part for part in parts if part)
    item[f"{kind}_caption"] = _texts(caption for caption in captions if caption.label != _FOOTNOTE)
    item[f"{kind}_footnote"] = _texts(caption for caption in captions if caption.label == _FOOTNOTE)
    body = _body(block.text, markup=block.markup) if kind == "table" else ""
    return item | {"table_body": body} if body else item


def _texts(captions: Iterable[Block]) -> list[str]:
    return [text for caption in captions if (text := _markdown(caption))]


def _body(text: str, *, markup: bool) -> str:
    """A table as HTML, with formulas as `$..$`; where there is none, the text."""
    if "<table" not in text.lower():
        return text.strip()
    table = parse_table(text)
    return to_html(table, cell_text if markup else str) if table.rows else ""
