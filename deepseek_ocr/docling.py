"""DocJSON -> `x.pdf.docling.json`, a DoclingDocument (schema 1.10) as docling-core reads it.

docling-core brings pandas and takes 2 s and 100 MB to import, so it is imported where it is used, in worker processes.
It holds the whole document: 2,800 pages of real answers with 18,852 blocks took 0.5 GB and 13 s (measured under the
memory limit of a worker, on a busy machine).

Left to others: what becomes of a block (`docling_items.py`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from deepseek_ocr.document import Document
from deepseek_ocr.exports import images_folder, storable, write

if TYPE_CHECKING:
    from pathlib import Path


def docling_json(document: Document, images: str | None = None) -> str:
    """The content of `x.pdf.docling.json`; `images` is the folder of the pictures, else `<source name>.images`.

    The hash of its origin, by which readers tell documents apart, is that of DocJSON: it does not know the file's.
    """
    from deepseek_ocr.docling_items import converted  # noqa: PLC0415 - 2 s, in workers only

    document, docjson = storable(document)
    images = f"{document.source_name}.images" if images is None else images
    result = converted(document, images, hashlib.sha256(docjson.encode()).hexdigest())
    return result.model_dump_json(by_alias=True, exclude_none=True) + "\n"


def export_docling(docjson: Path, target: Path) -> None:
    """Write and sync it for a written document; runs in a worker process."""
    document = Document.model_validate_json(docjson.read_bytes())
    write(target, docling_json(document, images_folder(docjson)))
