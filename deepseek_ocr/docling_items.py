r"""DocJSON -> docling-core's document; imported only where it is used: it takes 2 s and 100 MB (docling-core 2.104).

A block becomes the item that Docling itself would make of it: title and headings, text, formulas (those within a text
as an inline group, `\[..\]` apart), tables with their cells, pictures with description and chart data, captions as
children of what they belong to, footnotes behind it and among its references.  What has no field is a note, a comment
in the layer NOTES, which neither Markdown nor chunkers take for text: the flags of a block, the problem of a page.

Left out, as there is no field: confidence, raw boxes, the text around figures, attempts, the engine's oddities.

Residual risk: a table that is far wider than its cells need, or beyond the limit for all tables, becomes text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from docling_core.types.doc import (
    BoundingBox,
    CoordOrigin,
    DocItem,
    DocItemLabel,
    DoclingDocument,
    DocumentOrigin,
    ImageRef,
    PictureClassificationMetaField,
    PictureClassificationPrediction,
    PictureItem,
    PictureMeta,
    ProvenanceItem,
    Size,
    TableCell,
    TableData,
    TableItem,
)
from docling_core.types.doc.common.meta import (
    BaseMeta,
    DescriptionMetaField,
    FloatingMeta,
    KeywordsMetaField,
    LanguageMetaField,
    SummaryMetaField,
)
from docling_core.types.doc.items.picture.meta import TabularChartMetaField
from docling_core.types.doc.labels import HumanLanguageLabel, PictureClassificationLabel

from deepseek_ocr.captions import FLOATS
from deepseek_ocr.exports import owned_captions, picture_path
from deepseek_ocr.headings import DEFAULT_LEVEL, TITLE_LEVEL
from deepseek_ocr.markup import cell_text
from deepseek_ocr.mending import split_formulas
from deepseek_ocr.tables import MAX_PADDING, parse_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docling_core.types.doc import NodeItem

    from deepseek_ocr.document import Block, Document, Page
    from deepseek_ocr.tables import Cell, Table

#: Cells of all tables of a document, with those that are empty or covered by a span: so many cost 1 GB of memory and
#: 89 MB of JSON (measured; docling-core writes the whole grid beside the cells).
MAX_CELLS: Final = 200_000
#: A grid is that large in any case, or as `tables.py` pads rows.
_SMALL: Final = 1000
#: Of our `source_type`, those in the table of Python 3.11's `mimetypes`: docling-core refuses to read what it has not.
_MIME_TYPES: Final = {
    "pdf": "application/pdf", "png": "image/png", "jpeg": "image/jpeg", "tiff": "image/tiff", "gif": "image/gif",
    "bmp": "image/bmp",
}  # fmt: skip
_UNKNOWN_MIME_TYPE: Final = "application/octet-stream"
#: Pixels per inch at which a picture is as many pixels wide as its box is in the page's unit.
_UNIT_DPI: Final = 72


def converted(document: Document, images: str, digest: str, max_cells: int = MAX_CELLS) -> DoclingDocument:
    """A document with `images` as the folder of its pictures and `digest`, hexadecimal, as the hash of its origin."""
    origin = DocumentOrigin(
        mimetype=_MIME_TYPES.get(document.source_type, _UNKNOWN_MIME_TYPE),
        binary_hash=int(digest[-16:], 16),
        filename=document.source_name,
    )
    result = DoclingDocument(name=PurePosixPath(document.source_name).stem, origin=origin)
    result.body.meta = _meta(document)
    cells_left = max_cells
    for page in document.pages:
        cells_left = _PageItems(result, page, images, document.model, cells_left).add()
    return result


def _meta(document: Document) -> BaseMeta | None:
    """What is known of the document as a whole."""
    keywords = list(dict.fromkeys(document.keywords))
    language = (document.language or "").lower()
    meta = BaseMeta(
        summary=SummaryMetaField(text=document.summary) if document.summary else None,
        keywords=KeywordsMetaField(values=keywords) if keywords else None,
        language=LanguageMetaField(code=HumanLanguageLabel(language)) if language in _LANGUAGES else None,
    )
    return meta if document.summary or keywords or meta.language else None


_LANGUAGES: Final = frozenset(HumanLanguageLabel)


@dataclass(slots=True)
class _PageItems:
    """One page on its way into a document."""

    result: DoclingDocument
    page: Page
    images: str
    model: str
    #: What is left of `MAX_CELLS`.
    cells_left: int
    size: Size = field(init=False)

    def add(self) -> int:
        """Add the page; returns how many cells are left."""
        page = self.page
        self.size = Size(width=_finite(page.width), height=_finite(page.height))
        self.result.add_page(page_no=page.page_number, size=self.size)
        captions = owned_captions(page.blocks)
        owners = frozenset(captions)
        for block in page.blocks:
            if block.category != "caption" or block.caption_of not in owners:
                self._add_block(block, captions.pop(block.id, ()) if block.category in FLOATS else ())
        if page.problem:
            self.result.add_comment(text=page.problem, prov=self._place(None, page.problem))
        return self.cells_left

    def _add_block(self, block: Block, captions: Sequence[Block]) -> None:
        match block.category:
            case "heading":
                item = self._add_heading(block)
            case "caption":
                item = self._add_line(block, DocItemLabel.CAPTION)
            case "table":
                item = self._add_table(block, captions)
            case "figure" | "chart":
                item = self._add_picture(block, captions)
            case _:
                item = self._add_text(block)
        self._note(block, item)

    def _note(self, block: Block, item: DocItem | None) -> None:
        """Say what is to be known of a block before it is trusted."""
        if item is not None and block.flags:
            text = ", ".join(block.flags)
            self.result.add_comment(text=text, prov=self._place(block, text), targets=[item])

    # Texts

    def _add_heading(self, block: Block) -> DocItem | None:
        text, level = _line(block), block.level or DEFAULT_LEVEL
        if not text or level == TITLE_LEVEL:
            return self._add_item(block, DocItemLabel.TITLE, text) if text else None
        # Docling's first level is the one below the title.
        level -= TITLE_LEVEL
        item: DocItem = self.result.add_heading(text=text, level=level, prov=self._place(block, text))
        return item

    def _add_line(self, block: Block, label: DocItemLabel, parent: NodeItem | None = None) -> DocItem | None:
        text = _line(block)
        return self._add_item(block, label, text, parent) if text else None

    def _add_item(self, block: Block, label: DocItemLabel, text: str, parent: NodeItem | None = None) -> DocItem:
        item: DocItem = self.result.add_text(label=label, text=text, prov=self._place(block, text), parent=parent)
        return item

    def _add_text(self, block: Block) -> DocItem | None:
        """A text and the formulas in it; the first item of them."""
        items = [item for run in _runs(block) for item in self._add_run(block, run)]
        return items[0] if items else None

    def _add_run(self, block: Block, run: list[tuple[str, str]]) -> Iterator[DocItem]:
        """What stands in one paragraph: a text, a formula, or both in a group."""
        parent = self.result.add_inline_group() if len(run) > 1 else None
        for kind, text in run:
            yield self._add_item(block, DocItemLabel.FORMULA if kind else DocItemLabel.TEXT, text, parent)

    # Floats

    def _add_table(self, block: Block, captions: Sequence[Block]) -> DocItem | None:
        """A table; its text with its captions where it cannot be one."""
        data, text = self._read(block.text, markup=block.markup)
        if data is None:
            first = self._add_item(block, DocItemLabel.TEXT, text)
            self._add_captions(captions, None)
            return first
        item: TableItem = self.result.add_table(data=data, prov=self._place(block, ""))
        item.image = self._picture(block)
        if block.description:
            item.meta = FloatingMeta(description=DescriptionMetaField(text=block.description, created_by=self.model))
        self._add_captions(captions, item)
        return item

    def _read(self, text: str, *, markup: bool) -> tuple[TableData | None, str]:
        """A table, or the text that is all that can be had of it; an empty text is an empty table."""
        text = text.strip()
        if not text or "<table" not in text.lower():
            return (None, text) if text else (TableData(), "")
        table = parse_table(text)
        data = _table_data(table, self.cells_left, markup=markup)
        if data is None:
            return None, "\n".join(" | ".join(cell.text for cell in row) for row in table.rows)
        self.cells_left -= data.num_rows * data.num_cols
        return data, ""

    def _add_picture(self, block: Block, captions: Sequence[Block]) -> DocItem:
        item: PictureItem = self.result.add_picture(image=self._picture(block), prov=self._place(block, ""))
        meta = PictureMeta()
        if block.category == "chart":
            chart = PictureClassificationPrediction(
                class_name=PictureClassificationLabel.OTHER_CHART.value, created_by=self.model
            )
            meta.classification = PictureClassificationMetaField(predictions=[chart])
        if block.description:
            meta.description = DescriptionMetaField(text=block.description, created_by=self.model)
        data, text = self._read(block.data or "", markup=True)
        if data is not None and data.num_rows:
            meta.tabular_chart = TabularChartMetaField(chart_data=data, created_by=self.model)
        item.meta = meta if meta.model_fields_set else None
        self._add_captions(captions, item)
        # What was read within a picture stands behind it: as its child it would be no part of any text.
        self._add_text(block)
        if text:
            self._add_item(block, DocItemLabel.TEXT, text)
        return item

    def _add_captions(self, captions: Sequence[Block], item: TableItem | PictureItem | None) -> None:
        """Add what belongs to a float, below it; beside it where there is none."""
        for caption in captions:
            is_footnote = caption.label == "table_footnote"
            # A text behind the table: docling-core's Markdown leaves out `footnotes`, and what is labelled as one.
            label = DocItemLabel.TEXT if is_footnote else DocItemLabel.CAPTION
            added = self._add_line(caption, label, None if is_footnote else item)
            if added is not None and item is not None:
                (item.references if is_footnote else item.captions).append(added.get_ref())
            self._note(caption, added)

    # Places

    def _place(self, block: Block | None, text: str) -> ProvenanceItem:
        """Where something stands; all of the page where nobody knows."""
        left, top, right, bottom = block.box if block and block.box else (0.0, 0.0, math.inf, math.inf)
        left, right = sorted(_clamped(side, self.size.width) for side in (left, right))
        top, bottom = sorted(_clamped(side, self.size.height) for side in (top, bottom))
        box = BoundingBox(l=left, t=top, r=right, b=bottom, coord_origin=CoordOrigin.TOPLEFT)
        return ProvenanceItem(page_no=self.page.page_number, bbox=box, charspan=(0, len(text)))

    def _picture(self, block: Block) -> ImageRef | None:
        """The picture of a block by its relative path; its size is that of the box, as it was not opened."""
        path = picture_path(self.images, block.image)
        if not path:
            return None
        box = self._place(block, "").bbox
        is_jpeg = path.lower().endswith((".jpg", ".jpeg"))
        return ImageRef(
            mimetype="image/jpeg" if is_jpeg else "image/png",
            dpi=_UNIT_DPI,
            size=Size(width=box.width, height=box.height),
            uri=Path(path),
        )


def _finite(length: float) -> float:
    """The width or height of a page; JSON has no infinity."""
    return length if math.isfinite(length) else 1.0


def _clamped(side: float, limit: float) -> float:
    return 0.0 if math.isnan(side) else min(max(side, 0.0), limit)


def _line(block: Block) -> str:
    """The text of a block on one line."""
    line = " ".join(block.text.split())
    return cell_text(line) if block.markup else line


def _runs(block: Block) -> Iterator[list[tuple[str, str]]]:
    r"""The paragraphs of a text, each as texts and ("(", formula)s; `\[..\]` is one of its own."""
    text = block.text.strip()
    pieces = split_formulas(text) if block.markup else [("", text)]
    if block.category == "formula" and block.markup and not any(kind for kind, _ in pieces):
        pieces = [("[", text.strip("$"))]
    run: list[tuple[str, str]] = []
    for kind, piece in pieces:
        stripped = piece.strip()
        if kind == "[" and run:
            yield run
            run = []
        if kind == "[" and stripped:
            yield [(kind, stripped)]
        elif stripped:
            run.append((kind, stripped))
    if run:
        yield run


def _table_data(table: Table, limit: int, *, markup: bool) -> TableData | None:
    """The cells of a table at their places in its grid; None if that is too large, or far too large for its cells."""
    placed = list(_placed(table))
    rows = len(table.rows)
    columns = max((column + cell.columns for _, column, cell in placed), default=0)
    if rows * columns > min(limit, len(placed) * MAX_PADDING + _SMALL):
        return None
    heads = _head_rows(table)
    cells = [
        TableCell(
            text=cell_text(cell.text) if markup else cell.text,
            row_span=min(cell.rows, rows - row),
            col_span=cell.columns,
            start_row_offset_idx=row,
            end_row_offset_idx=min(row + cell.rows, rows),
            start_col_offset_idx=column,
            end_col_offset_idx=column + cell.columns,
            column_header=row < heads,
            row_header=cell.is_head and row >= heads,
        )
        for row, column, cell in placed
    ]
    return TableData(table_cells=cells, num_rows=rows, num_cols=columns)


def _placed(table: Table) -> Iterator[tuple[int, int, Cell]]:
    """Row, column and cell: each stands in the first columns of its row that no cell from above spans."""
    #: Column -> the row from which on it is free.
    free_from: dict[int, int] = {}
    for row, cells in enumerate(table.rows):
        column = 0
        for cell in cells:
            while taken := [at for at in range(column, column + cell.columns) if free_from.get(at, 0) > row]:
                column = taken[-1] + 1
            yield row, column, cell
            if cell.rows > 1:
                free_from |= dict.fromkeys(range(column, column + cell.columns), row + cell.rows)
            column += cell.columns


def _head_rows(table: Table) -> int:
    """How many rows are the head: those of `<th>` alone, else the first one, as in Markdown; never all."""
    rows = len(table.rows)
    heads = next((number for number, row in enumerate(table.rows) if not all(cell.is_head for cell in row)), rows)
    return heads if 0 < heads < rows else int(rows > 1)
