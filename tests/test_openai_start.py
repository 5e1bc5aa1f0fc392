"""How the openai engine starts: the model it finds, what it refuses, and where its key comes from and never goes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.engine.openai import KEY_VARIABLE, OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from tests.openai_engine import CORRECT, REFUSED, engine_for, read, running
from tests.openai_server import OpenAIServer, Reply

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-very-secret-0123"
NOT_OURS = ", not deepseek-ai/DeepSeek-OCR: set engine.model to one that it serves"
WRONG_PATH = "engine.openai.base_urls should end where /chat/completions begins, mostly with /v1"


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
