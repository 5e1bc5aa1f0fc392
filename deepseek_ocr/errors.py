"""The exception tree of the package.

::

    OcrError
    ├── DocumentError         this document cannot be read; `slug` and `remedy` tell the operator why and what to do
    │   ├── EmptyFile             empty_file
    │   ├── UnsupportedType       unsupported_type
    │   ├── Encrypted             encrypted
    │   ├── Corrupt               corrupt
    │   ├── NoPages               no_pages
    │   ├── FileTooLarge          file_too_large
    │   ├── TooManyPages          too_many_pages
    │   └── TooManyPixels         too_many_pixels
    ├── PageError             this page cannot be read; the document becomes partial, never failed
    │   ├── WorkerDied            the process that worked on the page died (crash, memory killer)
    │   └── WorkerTimeout         the process that worked on the page was stopped after its time limit
    └── EngineError           the recognition engine is at fault, no document is
        ├── EngineStartError      it cannot start at all: the message says what is missing and how to get it
        └── EngineDeadError       it died; it can be built anew

Every class is built from one message, so that it survives the way back from a worker process.
"""

from __future__ import annotations

from typing import ClassVar


class OcrError(Exception):
    """Base of everything this package raises on purpose."""


class DocumentError(OcrError):
    """A document that cannot be read, whoever tries; the message is the detail, `remedy` the advice."""

    #: Stable identifier, for programs and for `retry --reason`; never renamed.
    slug: ClassVar[str]
    #: One sentence for the person who dropped the file: what to do.
    remedy: ClassVar[str]


class EmptyFile(DocumentError):
    """The file has no bytes."""

    slug = "empty_file"
    remedy = "Copy or scan the document again; the transfer probably broke off."


class UnsupportedType(DocumentError):
    """The content is no document type that can be read, whatever the name says."""

    slug = "unsupported_type"
    remedy = "Save or print it as PDF, PNG, JPEG, TIFF, WebP, BMP, GIF or HEIC and drop that."


class Encrypted(DocumentError):
    """The PDF opens only with a password."""

    slug = "encrypted"
    remedy = "Remove the password (open it and save an unprotected copy) and drop that copy."


class Corrupt(DocumentError):
    """The file claims to be a document but cannot be opened, even with repair."""

    slug = "corrupt"
    remedy = "Check that the original opens on your computer, then copy, export or scan it again."


class NoPages(DocumentError):
    """The document opens but holds no page."""

    slug = "no_pages"
    remedy = "Export the document again; this copy holds no page."


class FileTooLarge(DocumentError):
    """The file is larger than the limit."""

    slug = "file_too_large"
    remedy = "Split the document, or ask the operator to raise limits.max_file_mb."


class TooManyPages(DocumentError):
    """The document has more pages than the limit."""

    slug = "too_many_pages"
    remedy = "Split the document, or ask the operator to raise limits.max_pages."


class TooManyPixels(DocumentError):
    """A picture is larger than the limit when decoded (this is also what a decompression bomb looks like)."""

    slug = "too_many_pixels"
    remedy = "Scan or export it at a lower resolution, or ask the operator to raise limits.max_page_px."


class PageError(OcrError):
    """A page that cannot be rendered or recognized."""


class WorkerDied(PageError):
    """The worker process died over this page."""


class WorkerTimeout(PageError):
    """The worker process was stopped because this page took too long, or because it did not start."""


class EngineError(OcrError):
    """The engine is at fault, not the document."""


class EngineStartError(EngineError):
    """The engine cannot start; the message is one sentence with the remedy."""


class EngineDeadError(EngineError):
    """The engine died while it worked."""
