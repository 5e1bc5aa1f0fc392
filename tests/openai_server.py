"""A small HTTP server that speaks OpenAI's chat protocol as it is told to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer to one request for a page."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Close the connection after the body although more was promised.
    torn: bool = False
    #: Never answer.
    hangs: bool = False


def completion_reply(text: str, finish_reason: str = "stop", **more: Any) -> Reply:
    """A whole answer, as vLLM gives it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 907, "completion_tokens": 12, "total_tokens": 919}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage, **more}, ensure_ascii=False).encode())


def stream_reply(*pieces: str, end: str | None = "stop", error: dict[str, Any] | None = None) -> Reply:
    """An answer in pieces; without `end` it breaks off, with `error` that is the last event."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
    choices += [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    if end:
        choices.append({"index": 0, "delta": {"content": ""}, "finish_reason": end})
    lines: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices]
    if end:
        lines.append({"choices": [], "usage": {"prompt_tokens": 907, "completion_tokens": 12}})
    if error:
        lines.append({"error": error})
    data = [json.dumps(line, ensure_ascii=False) for line in lines] + ["[DONE]"]
    return Reply(
        body="".join(f"data: {line}\n\n" for line in data).encode(),
        headers={"Content-Type": "text/event-stream"},
        torn=end is None and error is None,
    )


class OpenAIServer:
    """Listens on a port of this machine while it is entered."""

    def __init__(self, name: str = "server", *, models: tuple[str, ...] = ("deepseek-ai/DeepSeek-OCR",)) -> None:
        self.name = name
        #: What GET models answers; set to change it.
        self.models = Reply(body=json.dumps({"object": "list", "data": [{"id": model} for model in models]}).encode())
        #: What to answer next, in order; then always "<name>".
        self.replies: list[Reply] = []
        #: (headers with lower-case names, body) of each request for a page.
        self.requests: list[tuple[dict[str, str], Any]] = []
        #: Requests that were not answered when their connection was closed by the client.
        self.given_up = 0
        #: Requests without an answer now, and connections ever opened.
        self.in_flight = 0
        self.connections = 0
        #: While it is cleared every page waits.
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything at once, as a killed server does."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        reply = self.models
        if head[0].startswith("POST /v1/chat/completions "):
            self.requests.append((headers, json.loads(body)))
            reply = self.replies.pop(0) if self.replies else completion_reply(self.name)
            self.in_flight += 1
            try:
                if not await self._wait(reader, hangs=reply.hangs):
                    return False
            finally:
                self.in_flight -= 1
        lines = {"Content-Type": "application/json", "Content-Length": str(len(reply.body) + reply.torn)}
        lines |= reply.headers
        writer.write(f"HTTP/1.1 {reply.status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode() + b"\r\n" + reply.body)
        await writer.drain()
        return not reply.torn

    async def _wait(self, reader: asyncio.StreamReader, *, hangs: bool) -> bool:
        """Until the gate is open; False if the client closed its connection meanwhile."""
        gone = asyncio.create_task(reader.read(1))
        opened = asyncio.create_task(asyncio.Event().wait() if hangs else self.gate.wait())
        try:
            await asyncio.wait({gone, opened}, return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                self.given_up += 1
            return opened.done()
        finally:
            for task in (gone, opened):
                task.cancel()
            await asyncio.gather(gone, opened, return_exceptions=True)
