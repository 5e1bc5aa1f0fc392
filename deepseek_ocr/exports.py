"""What all exports share: the document as it was written, whose captions are whose, a file that is on the disk.

`daemon/outputs.py` writes `x.pdf.json` with a line for its head, one for each page and one for its tail; so a page can
be read without the others.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from deepseek_ocr.captions import FLOATS
from deepseek_ocr.document import Document, Page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deepseek_ocr.document import Block

#: What would make a relative path the address of something else: "a:b.pdf".
_SCHEME = re.compile(r"[^/]*:")
_SURROGATE = re.compile("[\ud800-\udfff]")


def storable(document: Document) -> tuple[Document, str]:
    """The document with its JSON; a lone surrogate, which no file can hold, is a question mark in both."""
    try:
        return document, document.model_dump_json()
    except ValueError:  # pydantic's words for a text that is no UTF-8
        content = _scrubbed(document.model_dump())
        document = Document.model_validate(content)
        return document, document.model_dump_json()


def _scrubbed(content: object) -> object:
    """The same with question marks."""
    match content:
        case str():
            return _SURROGATE.sub("?", content)
        case dict():
            return {key: _scrubbed(value) for key, value in content.items()}
        case list() | tuple():
            return [_scrubbed(value) for value in content]
        case _:
            return content


def pages_of(docjson: Path) -> Iterator[Page]:
    """The pages of a written document, one at a time; raises `ValueError` if the file is laid out in another way."""
    with docjson.open(encoding="utf-8", newline="\n") as lines:
        if not next(lines, "").endswith('"pages":[\n'):
            raise ValueError(f"{docjson.name} does not begin as a document of ours")
        for line in lines:
            if line.startswith("]"):
                return
            yield Page.model_validate_json(line.rstrip(",\n"))
    raise ValueError(f"{docjson.name} ends within its pages")


def owned_captions(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """The captions of a page by the id of the figure, chart or table that they belong to, where that is on the page."""
    owners = {block.id for block in blocks if block.category in FLOATS}
    captions: dict[str, list[Block]] = {}
    for block in blocks:
        if block.category == "caption" and block.caption_of in owners:
            captions.setdefault(str(block.caption_of), []).append(block)
    return captions


def images_folder(docjson: Path) -> str:
    """The name of the folder that the pictures are in, beside the document."""
    return docjson.name.removesuffix(".json") + ".images"


def picture_path(images: str, image: str | None) -> str:
    """Where a picture is, relative to the document; empty where there is none.

    Percent signs stand for what JSON cannot hold, or would be taken for an address, and for nothing else: readers open
    it as a path.
    """
    name = PurePosixPath(image or "").name
    path = f"{images}/{name}" if images and name else ""
    is_plain = not _SCHEME.match(path) and not _SURROGATE.search(path)
    return path if is_plain else quote(path, errors="surrogateescape")


def write(target: Path, text: str) -> None:
    """Create or replace a file; it is on the disk when this returns, its name is not."""
    with target.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
