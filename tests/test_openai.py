"""The openai engine reads pages of real local HTTP servers, whatever becomes of the servers."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from daemon.warmup import warmup_pdf
from deepseek_ocr.completion import Completion, Health, PageImage
from deepseek_ocr.engine.openai import MAX_RETRY_AFTER_S, OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.errors import EngineDeadError, PageError
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.reader import Reader
from tests.conftest import eventually
from tests.openai_engine import CORRECT, PAGE, REFUSED, Waits, engine_for, read, running
from tests.openai_server import OpenAIServer, Reply, completion_reply, stream_reply

if TYPE_CHECKING:
    from pathlib import Path

# One page


async def test_a_page_is_read() -> None:
    """The request goes to the server's model with the published words, and the answer comes back with its counts."""
    server = OpenAIServer()
    async with running(server) as engine:
        server.replies = [completion_reply("# Title", "length")]
        done = await engine.recognize(PAGE, Options(Task.FREE, max_tokens=5))
        assert done == Completion("# Title", "length", done.seconds, prompt_tokens=907, completion_tokens=12)
        assert 0 < done.seconds < 10
        ((headers, body),) = server.requests
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("deepseek-ai/DeepSeek-OCR", 5, 0)
        assert body["messages"][0]["content"][1]["text"] == "Free OCR."
        assert headers["content-type"] == "application/json"
        assert "authorization" not in headers
        assert engine.info.tasks == set(Task)
        assert (engine.info.needs, engine.info.capacity) == ("png", 64)


async def test_a_blank_page_is_not_sent() -> None:
    """A model that is shown nothing invents text."""
    server = OpenAIServer()
    async with running(server) as engine:
        assert (await engine.recognize(PageImage(0, 9, 9, "px", None, 0), Options())).text == ""
        assert not server.requests


async def test_text_is_passed_on_as_it_comes() -> None:
    """`on_text` gets all the text so far; a stream that breaks off begins anew."""
    server = OpenAIServer()
    seen: list[str] = []
    async with running(server) as engine:
        server.replies = [stream_reply("wro", end=None), stream_reply("Hel", "lo\u2028", "you", end="length")]
        done = await engine.recognize(PAGE, Options(), seen.append)
    assert seen == ["wro", "Hel", "Hello\u2028", "Hello\u2028you"]
    assert (done.text, done.finish_reason, done.completion_tokens) == ("Hello\u2028you", "length", 12)
    assert server.requests[0][1]["stream"] is True


async def test_an_error_inside_a_stream_is_heeded() -> None:
    """A server answers 200 before the model has seen the page; what goes wrong then comes as an event."""
    server = OpenAIServer()
    async with running(server) as engine:
        server.replies = [
            stream_reply("a", end=None, error={"message": "engine died", "code": 500}),
            stream_reply("a", end=None, error={"message": "bad picture", "code": 400}),
        ]
        with pytest.raises(PageError, match=r"refuses this page \(400: bad picture\)"):
            await engine.recognize(PAGE, Options(), lambda _: None)
        assert len(server.requests) == 2


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_page_given_up_closes_its_connection(streams: bool) -> None:
    """So the server stops working on it; the engine serves the next page."""
    server = OpenAIServer()
    async with running(server) as engine:
        server.replies = [Reply(hangs=True)]
        reading = asyncio.create_task(engine.recognize(PAGE, Options(), (lambda _: None) if streams else None))
        await eventually(lambda: server.in_flight)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await eventually(lambda: server.given_up == 1)
        assert await read(engine) == "server"
        assert engine.health().ok


async def test_a_document_is_read_through_the_reader(tmp_path: Path) -> None:
    """A worker process makes the picture that the server gets, and what it says becomes the page."""
    path = tmp_path / "a.pdf"
    path.write_bytes(warmup_pdf())
    server = OpenAIServer("# Minutes")
    async with server, Reader(engine_for(server), workers=1) as reader:
        page = await reader.read_page(path, 0)
    url = server.requests[0][1]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as picture:
        assert picture.format == "PNG"
        assert picture.height / picture.width == pytest.approx(page.height / page.width, rel=0.01)
    assert (page.source, page.problem) == ("openai", None)
    assert [(block.category, block.text) for block in page.blocks] == [("heading", "Minutes")]


# Retries


async def test_what_passes_is_tried_again() -> None:
    """Each wait is longer than the one before, and the page is read in the end."""
    server, waits = OpenAIServer(), Waits()
    async with running(server, sleep=waits) as engine:
        server.replies = [Reply(500), Reply(503), Reply(429), Reply(body=b"<html>")]
        assert await read(engine) == "server"
        assert engine.health() == Health(ok=True, detail="1 of 1 servers answer")
    for wait, most in zip(waits.seconds, (0.5, 1, 2, 4), strict=True):
        assert most / 2 <= wait <= most


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 599])
async def test_a_server_at_fault_is_tried_again(status: int) -> None:
    """When the retries are used up the engine is dead: the page is not to blame."""
    server = OpenAIServer()
    async with running(server, retries=2) as engine:
        server.replies = [Reply(status, b'{"error": {"message": "no luck"}}')] * 3
        with pytest.raises(EngineDeadError, match=rf"^{server.url}: {status}: no luck \(3 attempts\)$"):
            await read(engine)
        assert len(server.requests) == 3
        assert engine.health() == Health(ok=False, detail=f"0 of 1 servers answer; {server.url}: {status}: no luck")


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_a_page_that_is_refused_is_not_tried_again(status: int) -> None:
    """The server says what is wrong with it, and goes on with others."""
    server = OpenAIServer()
    async with running(server) as engine:
        server.replies = [Reply(status, b'{"error": {"message": "the prompt is too long"}}')]
        with pytest.raises(PageError, match=rf"refuses this page \({status}: the prompt is too long\)"):
            await read(engine)
        assert len(server.requests) == 1
        assert engine.health().ok


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, REFUSED.format(401)),
        (403, REFUSED.format(403)),
        (
            404,
            "it does not serve deepseek-ai/DeepSeek-OCR (404: gone): correct engine.model or engine.openai.base_urls",
        ),
        (301, f"it cannot be used (301: gone): {CORRECT}"),
    ],
)
async def test_an_answer_that_stays_the_same_is_not_waited_for(status: int, words: str) -> None:
    """A wrong key or model is the engine's fault, at once; another server that is well takes the page."""
    server, other, waits = OpenAIServer(), OpenAIServer("other"), Waits()
    async with running(server, other, sleep=waits) as engine:
        server.replies = [Reply(status, b'{"error": "gone"}')]
        assert await read(engine) == "other"
        assert words in engine.health().detail
    server = OpenAIServer()
    async with running(server, sleep=waits) as engine:
        server.replies = [Reply(status, b'{"error": "gone"}')]
        with pytest.raises(EngineDeadError) as caught:
            await read(engine)
        assert str(caught.value) == f"{server.url}: {words}"
    assert not waits.seconds


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        pytest.param("20", 20, 20, id="seconds"),
        pytest.param("999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S, id="too-long"),
        pytest.param("0", 0.25, 0.5, id="none"),
        pytest.param(formatdate(time.time() + 86_400, usegmt=True), 120, 120, id="a-date"),
    ],
)
async def test_a_server_says_when_to_come_back(header: str, least: float, most: float) -> None:
    """Retry-After is heeded up to a limit."""
    server, waits = OpenAIServer(), Waits()
    async with running(server, sleep=waits) as engine:
        server.replies = [Reply(429, headers={"Retry-After": header})]
        assert await read(engine) == "server"
    (wait,) = waits.seconds
    assert least <= wait <= most


async def test_a_server_that_never_answers_is_left() -> None:
    """The time limit is for the whole attempt, and the page goes elsewhere."""
    server, other = OpenAIServer(), OpenAIServer("other")
    async with running(server, other, timeout_s=1, retries=19) as engine:
        server.replies = [Reply(hangs=True)] * 20
        assert await read(engine) == "other"
        await eventually(lambda: server.given_up >= 1)
        assert engine.health() == Health(ok=True, detail=f"1 of 2 servers answer; {server.url}: no answer within 1 s")


def test_a_page_may_take_as_long_as_all_its_attempts() -> None:
    """Silent servers are a pause, not a hang of the service: its watchdog must wait until they count as dead."""
    engine = OpenAIEngine(OpenAISettings(("http://127.0.0.1:9/v1",), timeout_s=900.0, retries=4))
    assert engine.info.longest_page_s > 5 * 900.0


# Several servers


async def test_pages_are_spread() -> None:
    """Each of the servers has as many in flight as another, up to the limit of each; the rest waits here."""
    servers = [OpenAIServer(name) for name in "abc"]
    async with running(*servers, concurrency=2, keep_alive_s=3600) as engine:
        assert engine.info.capacity == 6
        for server in servers:
            server.gate.clear()
        pages = [asyncio.create_task(read(engine)) for _ in range(9)]
        await eventually(lambda: [server.in_flight for server in servers] == [2, 2, 2])
        servers[0].gate.set()
        await eventually(lambda: len(servers[0].requests) == 5, message="what waited goes to the one that is free")
        assert [len(server.requests) for server in servers] == [5, 2, 2]
        for server in servers:
            server.gate.set()
        assert sorted(await asyncio.gather(*pages)) == ["a"] * 5 + ["b"] * 2 + ["c"] * 2
        assert [server.connections for server in servers] == [2, 2, 2], "connections are used again"


async def test_a_dead_server_costs_nothing_and_comes_back() -> None:
    """Its pages go to the other one without a wait; when its time is over a page finds out that it is back."""
    now, waits = [0.0], Waits()
    server, other = OpenAIServer("a"), OpenAIServer("b")
    async with running(server, other, clock=lambda: now[0], sleep=waits) as engine:
        await server.__aexit__(None, None, None)
        assert [await read(engine) for _ in range(4)] == ["b"] * 4
        assert engine.health().ok
        assert engine.health().detail.startswith(f"1 of 2 servers answer; {server.url}: ")
        async with server:
            assert await read(engine) == "b", "it is avoided for a while"
            now[0] += 10
            assert {await read(engine) for _ in range(2)} == {"a", "b"}
            assert engine.health().detail == "2 of 2 servers answer"
    assert not waits.seconds


async def test_when_all_are_dead_the_engine_is_until_one_is_back() -> None:
    """The page raises for the engine, not for itself; the engine need not be built anew."""
    server = OpenAIServer()
    async with running(server, retries=1) as engine:
        await server.__aexit__(None, None, None)
        with pytest.raises(EngineDeadError, match=r"ConnectError.*\(2 attempts\)"):
            await read(engine)
        async with server:
            assert await read(engine) == "server"


async def test_an_engine_that_does_not_run_says_so() -> None:
    """Before `start` and after `stop` it is dead; `stop` may be called at any time, and `start` again."""
    server = OpenAIServer()
    async with running(server) as engine:
        await engine.stop()
        await engine.stop()
        assert engine.health() == Health(ok=False, detail="not started")
        with pytest.raises(EngineDeadError, match="not running"):
            await read(engine)
        await engine.start()
        assert await read(engine) == "server"


async def test_stopping_ends_the_pages_in_flight() -> None:
    """They raise for the engine at once."""
    server = OpenAIServer()
    async with running(server) as engine:
        server.gate.clear()
        pages = [asyncio.create_task(read(engine)) for _ in range(3)]
        await eventually(lambda: server.in_flight == 3)
        await engine.stop()
        found = await asyncio.gather(*pages, return_exceptions=True)
        assert [type(error) for error in found] == [EngineDeadError] * 3
