"""The chat protocol of OpenAI as vLLM serves it: the request for one page, the answer, its stream, its errors.

Pure: bytes and objects in and out; `engine/openai.py` sends them.
The words travel without the picture's place: vLLM's template for this model (0.25.1 and 0.28.0,
`entrypoints/chat_utils.py`, `transformers_utils/chat_templates/template_deepseek_ocr.jinja`) puts BOS, `<image>` and a
line break before them, which makes the published prompt; a test against the real server holds the token ids.
Residual risk: a server that was started with another chat template asks the model other words, and nobody sees it.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, get_args

from deepseek_ocr.completion import FinishReason
from deepseek_ocr.guard import request_args
from deepseek_ocr.prompt import IMAGE_TOKEN, prompt_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from deepseek_ocr.prompt import Options

#: The ids of what the guard exempts, <td> and </td>, in the published tokenizer: a server's own is not seen from here.
_EXEMPT_IDS: Final = (128821, 128822)
#: Stands in the JSON for the picture, which is put in as it is: escaping megabytes of base64 would be wasted work.
_PICTURE: Final = "<picture>"
#: Characters of a server's message that are passed on.
_MAX_MESSAGE: Final = 300


class ChatError(Exception):
    """The server did not answer with a text; `status` is the HTTP status, 200 for an answer that is none."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def request_body(model: str, options: Options, png: bytes, *, vllm: bool, stream: bool) -> bytes:
    """The body of POST chat/completions; `vllm` adds what only vLLM knows (special tokens in the text, the guard)."""
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PICTURE}"}},
        {"type": "text", "text": prompt_for(options).removeprefix(f"{IMAGE_TOKEN}\n")},
    ]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "model": model, "temperature": 0}
    if options.max_tokens:
        body["max_tokens"] = options.max_tokens  # without it the server takes what is left of the context
    if vllm:
        # Only a server with `--logits-processors ...:NGramPerReqLogitsProcessor` heeds the guard.
        body |= {"skip_special_tokens": False, "vllm_xargs": request_args(_EXEMPT_IDS, options.guard)}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    head, tail = json.dumps(body).encode().split(_PICTURE.encode(), 1)  # the picture comes before every foreign word
    return b"".join((head, base64.b64encode(png), tail))


def answer_of(content: bytes) -> Answer:
    """The answer to a request that did not stream; raises `ChatError`."""
    streamed = Streamed()
    streamed.add(content, "message")
    return streamed.answer()


class Streamed:
    """An answer that comes in pieces."""

    def __init__(self) -> None:
        self.text = ""
        self._finish: FinishReason | None = None
        self._usage: dict[str, Any] = {}

    def add(self, data: bytes, part: str = "delta") -> bool:
        """Take in one event; whether there is more text now.  Raises `ChatError`."""
        if data == b"[DONE]":
            return False
        try:
            event = json.loads(data)
            if error := event.get("error"):
                raise ChatError(error_message(data), _code(error))
            self._usage = event.get("usage") or self._usage
            piece = ""
            for choice in event["choices"][:1]:
                piece = choice[part].get("content") or ""
                self._finish = _finish(choice.get("finish_reason")) or self._finish
            self.text += piece
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as wrong:
            raise ChatError(f"the answer is no chat completion: {shorten(data)}") from wrong
        return bool(piece)

    def answer(self) -> Answer:
        """All of it; raises `ChatError` if the end is missing."""
        if self._finish is None:
            raise ChatError("the answer broke off")
        return Answer(self.text, self._finish, self._count("prompt_tokens"), self._count("completion_tokens"))

    def _count(self, key: str) -> int:
        """A number of tokens, 0 where the server counts none."""
        value = self._usage.get(key) if isinstance(self._usage, dict) else None
        return value if isinstance(value, int) else 0


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event.

    Lines end at line feeds alone: a text may hold what else Python takes for a line's end (U+2028, U+0085).
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def error_message(content: bytes) -> str:
    """What a server says is wrong, in one short line, whatever form it gives it."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return shorten(content)
    for _ in range(2):  # {"error": {"message": ...}}, {"error": ...}, {"message": ...}, {"detail": ...}
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if key in found), found)
    return shorten((found if isinstance(found, str) else json.dumps(found)).encode())


def shorten(content: bytes) -> str:
    """The beginning of a text as one printable line."""
    text = " ".join(content[: 4 * _MAX_MESSAGE].decode(errors="replace").split())
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def retry_after_s(value: str, now: float) -> float:
    """Seconds to wait by a Retry-After header, in either of its forms; 0 = it says nothing.  `now` is Unix time."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _finish(reason: object) -> FinishReason | None:
    """The reason in our words, None while there is none; what we do not know (content_filter) is no good end."""
    if reason is None:
        return None
    return next((known for known in get_args(FinishReason) if known == reason), "error")


def _code(error: object) -> int:
    """The HTTP status that an error inside a stream stands for."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500
