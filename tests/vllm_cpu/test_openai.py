"""The openai engine against a real `vllm serve` with the published flags and the tiny model."""

from __future__ import annotations

import asyncio
import base64
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from deepseek_ocr.completion import PageImage
from deepseek_ocr.errors import EngineDeadError, PageError
from deepseek_ocr.prompt import Mode, Options, Task, prompt_for
from deepseek_ocr.tiles import grid_for, token_count
from tests.vllm_cpu.serve import LONG, MODEL, VllmServe, engine_for, page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServe]:
    """One server for all of these tests."""
    with VllmServe(model_folder, tmp_path_factory.mktemp("serve")) as server:
        yield server


def asked_directly(server: VllmServe, picture: PageImage, options: Options, **more: Any) -> Any:
    """The published request by hand, with the token ids of prompt and answer."""
    words = {Task.DOCUMENT: "<|grounding|>Convert the document to markdown.", Task.FREE: "Free OCR."}[options.task]
    url = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": words}]
    guard = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]}
    return server.post(
        "/v1/chat/completions",
        {
            "model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0.0,
            "max_tokens": options.max_tokens, "skip_special_tokens": False, "vllm_xargs": guard,
            "return_token_ids": True, **more,
        },
    )  # fmt: skip


@pytest.mark.parametrize(("name", "task"), [("small", Task.DOCUMENT), ("a4", Task.DOCUMENT), ("tall", Task.FREE)])
async def test_the_server_asks_the_published_prompt(
    server: VllmServe, pictures: dict[str, Image.Image], name: str, task: Task
) -> None:
    """The chat template makes BOS, the picture and the raw prompt of it, token by token; the text is that asked for."""
    options, picture = Options(task, max_tokens=12), page(pictures[name])
    direct = asked_directly(server, picture, options)
    raw = server.post("/tokenize", {"prompt": prompt_for(options), "add_special_tokens": False})["tokens"]
    bos, image, places = 0, raw[0], token_count(Mode.GUNDAM, grid_for(*pictures[name].size))
    assert direct["prompt_token_ids"] == [bos, *[image] * places, *raw[1:]]
    async with engine_for(server) as engine:
        done = await engine.recognize(picture, options)
    (choice,) = direct["choices"]
    assert (done.text, done.finish_reason) == (choice["message"]["content"], choice["finish_reason"])
    assert done.prompt_tokens == len(direct["prompt_token_ids"])
    assert done.completion_tokens == len(choice["token_ids"])


async def test_the_servers_guard_is_asked_for(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """A page on which the guard acts is read as by the published request, and otherwise without it."""
    options, picture = Options(max_tokens=130), page(pictures["a4"])
    guarded, unguarded = (asked_directly(server, picture, options, **more) for more in ({}, {"vllm_xargs": None}))
    async with engine_for(server) as engine:
        done = await engine.recognize(picture, options)
    said = [direct["choices"][0]["message"]["content"] for direct in (guarded, unguarded)]
    assert done.text == said[0] != said[1]


async def test_together_and_streamed_is_as_alone(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """Several at once, some of them streamed, are read as each alone; a stream grows to the text."""
    options = Options(max_tokens=100)  # the server hands over in one what came while it did not look
    seen: list[str] = []
    async with engine_for(server) as engine:
        assert engine.info.model == MODEL
        alone = {name: (await engine.recognize(page(pictures[name]), options)).text for name in ("small", "tall")}
        names = ["small", "tall", "small", "tall"]
        together = await asyncio.gather(
            *(
                engine.recognize(page(pictures[name]), options, seen.append if index == 0 else None)
                for index, name in enumerate(names)
            )
        )
    assert [done.text for done in together] == [alone[name] for name in names]
    assert len(seen) > 1
    assert seen[-1] == alone["small"]
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert together[0].completion_tokens == together[2].completion_tokens > 0


async def test_what_the_server_refuses_is_this_pages_fault(server: VllmServe) -> None:
    """A picture that it cannot open gives its own words, and the engine goes on."""
    async with engine_for(server) as engine:
        with pytest.raises(PageError, match=r"refuses this page \(400: .*image"):
            await engine.recognize(PageImage(0, 9, 9, "px", None, 0.1, png=b"no picture"), Options(max_tokens=2))
        assert engine.health().ok


async def test_a_page_given_up_is_not_read_on(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """The server drops the request, although nothing was streamed."""
    async with engine_for(server) as engine:
        reading = asyncio.create_task(engine.recognize(page(pictures["small"]), LONG))
        await server.works_on({1})
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await server.works_on({0})


@pytest.mark.last
async def test_a_killed_core_is_a_dead_engine(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """Pages in flight raise for the engine, not for themselves."""
    async with engine_for(server) as engine:
        pages = [asyncio.create_task(engine.recognize(page(pictures["small"]), LONG)) for _ in range(2)]
        await server.works_on({1, 2})
        server.kill_core()
        found = await asyncio.gather(*pages, return_exceptions=True)
        assert [type(error) for error in found] == [EngineDeadError] * len(pages), found
        assert not engine.health().ok
