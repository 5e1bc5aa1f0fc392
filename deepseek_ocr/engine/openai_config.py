"""What may be set of the openai engine, and what is an address of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class OpenAISettings:
    """Which servers to ask, and how."""

    #: Each ends where `/chat/completions` begins: http://host:8000/v1.
    base_urls: tuple[str, ...] = ()
    #: None = the environment's key, if there is one.
    api_key_file: Path | None = None
    #: Requests in flight to each server.
    concurrency: int = 64
    #: Of one attempt at a page, in all.
    timeout_s: float = 300.0
    #: Attempts at a page after the first.
    retries: int = 4
    #: Whether to send the fields that only vLLM knows.
    vllm: bool = True


def base_url(text: str) -> str:
    """A base URL without its last slash; raises `ValueError`, whose message shows no password."""
    if "@" in text:  # also where it is no URL otherwise: all of it would be shown in errors and logs
        raise ValueError("an address must hold no user or password; a key goes into api_key_file")
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or "?" in text or "#" in text or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is no address such as http://127.0.0.1:8000/v1")
    return text.rstrip("/")
