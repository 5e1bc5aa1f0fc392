"""The openai engine against real local HTTP servers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from daemon.warmup import warmup_pdf
from deepseek_ocr.completion import Completion, Health, PageImage
from deepseek_ocr.engine.openai import KEY_VARIABLE, MAX_RETRY_AFTER_S, OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.prompt import Options, Task
from deepseek_ocr.reader import Reader
from tests.conftest import eventually
from tests.openai_server import OpenAIServer, Reply, completion_reply, stream_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "sk-very-secret-0123"
#: What the operator is told.
CORRECT = "correct engine.openai.base_urls"
REFUSED = "the key is refused ({}): put the right one into engine.openai.api_key_file or OCR_DAEMON_API_KEY"
NOT_OURS = ", not deepseek-ai/DeepSeek-OCR: set engine.model to one that it serves"
WRONG_PATH = "engine.openai.base_urls should end where /chat/completions begins, mostly with /v1"
PAGE = PageImage(0, 100, 100, "px", None, 0.1, png=b"\x89PNG picture")


class Waits:
    """Stands for `asyncio.sleep`: remembers how long it should have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Return at once."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def engine_for(*servers: OpenAIServer, **settings: Any) -> OpenAIEngine:
    """An engine for these servers, which waits for nothing."""
    own = {name: settings.pop(name) for name in ("model", "clock", "sleep", "keep_alive_s") if name in settings}
    urls = tuple(server.url for server in servers)
    return OpenAIEngine(OpenAISettings(urls, **settings), **{"sleep": Waits(), **own})


@asynccontextmanager
async def running(*servers: OpenAIServer, **settings: Any) -> AsyncIterator[OpenAIEngine]:
    """A started engine; servers that do not listen yet are started."""
    async with AsyncExitStack() as stack:
        for server in servers:
            if not server.port:
                await stack.enter_async_context(server)
        engine = engine_for(*servers, **settings)
        stack.push_async_callback(engine.stop)
        await engine.start()
        yield engine


async def read(engine: OpenAIEngine, **options: Any) -> str:
    """The text of the page."""
    return (await engine.recognize(PAGE, Options(**options))).text


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


# Start


@pytest.mark.parametrize(
    ("served", "asked", "used"),
    [
        pytest.param(
            ("a", "deepseek-ai/DeepSeek-OCR"), "deepseek-ai/DeepSeek-OCR", "deepseek-ai/DeepSeek-OCR", id="one-of"
        ),
        pytest.param(("ocr",), "deepseek-ai/DeepSeek-OCR", "ocr", id="the-only-one"),
    ],
)
async def test_the_served_model_is_used(served: tuple[str, ...], asked: str, used: str) -> None:
    """The configured name where the server has it, else the only one there is."""
    server = OpenAIServer(models=served)
    async with running(server, model=asked) as engine:
        await read(engine)
        assert (engine.info.model, server.requests[0][1]["model"]) == (used, used)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        pytest.param(
            Reply(body=b'{"data": [{"id": "a"}, {"id": "b"}]}'), f"{{url}} serves a, b{NOT_OURS}", id="others"
        ),
        pytest.param(Reply(body=b'{"data": []}'), f"{{url}} serves no model{NOT_OURS}", id="none"),
        pytest.param(Reply(401, KEY.encode()), f"{{url}}: {REFUSED.format(401)}", id="key"),
        pytest.param(Reply(404), f"{{url}}/models does not exist (404): {WRONG_PATH}", id="path"),
        pytest.param(Reply(body=b"<html>"), f"{{url}}/models is no list of models: {WRONG_PATH}", id="html"),
        pytest.param(Reply(418, KEY.encode()), f"{{url}}: it cannot be used (418: ***): {CORRECT}", id="odd"),
        pytest.param(
            Reply(503, b"loading"), f"no server answers ({{url}}: 503: loading): start it, or {CORRECT}", id="loading"
        ),
    ],
)
async def test_a_server_that_cannot_serve_is_one_sentence(
    models: Reply, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is wrong and what to do, and shows no key."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    async with OpenAIServer() as server:
        server.models = models
        engine = engine_for(server)
        with pytest.raises(EngineStartError) as caught:
            await engine.start()
        assert str(caught.value) == words.format(url=server.url)
        assert not engine.health().ok


async def test_one_server_that_answers_is_enough() -> None:
    """The others are avoided and told about; with none the start fails with the reason of each."""
    dead = OpenAIServer("dead")
    async with dead:
        pass
    server = OpenAIServer()
    async with running(server, dead) as engine:
        assert engine.health().detail.startswith(f"1 of 2 servers answer; {dead.url}: ConnectError")
        assert [await read(engine) for _ in range(3)] == ["server"] * 3
    engine = engine_for(dead)
    with pytest.raises(EngineStartError, match=rf"no server answers \({dead.url}: ConnectError"):
        await engine.start()


async def test_servers_of_different_models_are_refused() -> None:
    """A document would be read by one of them here and by another there."""
    async with OpenAIServer(models=("a",)) as server, OpenAIServer(models=("b",)) as other:
        engine = engine_for(server, other)
        with pytest.raises(EngineStartError, match="different models"):
            await engine.start()


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "has no server to ask"),
        (["localhost:8000/v1"], "is no address"),
        (["http://"], "is no address"),
        (["http://host:99999/v1"], "is no address"),
        (["http://[::1/v1"], "is no address"),
        (["http://host/v1?key=1"], "is no address"),
        (["http://host/v1#a"], "is no address"),
        (["http://host/v 1"], "is no address"),
        (["http://me:secret@host/v1"], "must hold no user or password"),
        (["me:secret@host/v1"], "must hold no user or password"),
    ],
)
def test_an_address_that_is_none_is_refused(urls: list[str], words: str) -> None:
    """A typing mistake shows at the start, not at the first page, and shows no password."""
    with pytest.raises(EngineStartError, match=words) as caught:
        OpenAIEngine(OpenAISettings(tuple(urls)))
    assert "secret" not in str(caught.value)


# The key


async def test_the_key_comes_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file wins over the variable, is read anew at each start, and stripped."""
    monkeypatch.setenv(KEY_VARIABLE, "another")
    path = tmp_path / "key"
    path.write_text(f"  {KEY}\n")
    server = OpenAIServer()
    async with running(server, api_key_file=path) as engine:
        await read(engine)
        path.write_text("new")
        await engine.start()
        await read(engine)
    assert [headers["authorization"] for headers, _ in server.requests] == [f"Bearer {KEY}", "Bearer new"]


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours alone: a key for api.openai.com is not sent to another server."""
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai")
    server = OpenAIServer()
    async with running(server) as engine:
        await read(engine)
        monkeypatch.setenv(KEY_VARIABLE, KEY)
        await engine.start()
        await read(engine)
    assert [headers.get("authorization") for headers, _ in server.requests] == [None, f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"two secret-words", "holds no key"),
        ("secret-ключ".encode(), "holds no key"),
        (b"secret-\xff", "holds no key"),
    ],
    ids=["missing", "empty", "words", "not-ascii", "not-text"],
)
async def test_a_key_file_without_a_key_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    """The message names the file and never what is in it."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineStartError, match=words) as caught:
        await OpenAIEngine(OpenAISettings(("http://127.0.0.1:9/v1",), api_key_file=path)).start()
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in an error, although servers repeat it, nor in the engine's state, nor in any library's log."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server = OpenAIServer()
    shown = []
    async with running(server, retries=0) as engine:
        for status in (400, 401, 404, 500):
            server.replies = [Reply(status, json.dumps({"error": f"no {KEY}"}).encode())]
            with pytest.raises((PageError, EngineDeadError)) as caught:
                await read(engine)
            shown += [str(caught.value), repr(caught.value), engine.health().detail]
        shown += [repr(engine), repr(engine.info), repr(engine._client)]  # noqa: SLF001 - as a debugger would
    assert server.requests[0][0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in "\n".join([*shown, caplog.text])


def test_a_page_may_take_as_long_as_all_its_attempts() -> None:
    """Silent servers are a pause, not a hang of the service: its watchdog must wait until they count as dead."""
    engine = OpenAIEngine(OpenAISettings(("http://127.0.0.1:9/v1",), timeout_s=900.0, retries=4))
    assert engine.info.longest_page_s > 5 * 900.0
