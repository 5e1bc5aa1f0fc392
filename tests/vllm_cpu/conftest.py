"""What the tests with the real vLLM share: a tiny model, drawn pages, and vLLM as it comes, with its own guard.

An engine takes 10 s and more to start and 3 GB, so it serves all tests that can share it.  A test that uses one of
these fixtures runs on the loop of the session: `pytestmark = session_loop`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from deepseek_ocr.engine.vllm_plugin import ONE_PROCESS
from deepseek_ocr.prompt import IMAGE_TOKEN, Options, prompt_for
from tests.vllm_cpu.plugin import tiny_towers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from PIL import Image

HAVE_VLLM = importlib.util.find_spec("vllm") is not None
HERE = Path(__file__).parent
#: A test that starts an engine; others are done in a tenth of it, on two cores.
TIMEOUT_S = 240
#: Results in float32 differ with the number of threads.
THREADS = 2

if not HAVE_VLLM:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """The environment that vLLM reads when it is imported, here and in its processes."""
    if not HAVE_VLLM:
        return
    # Warnings of ours are errors; what these deprecate among themselves is not ours to mend.
    for package in ("torch", "vllm", "transformers", "multiprocessing"):
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{package}")
    # vLLM leaves its sockets to the garbage collector, which may come to them between two tests or after the last.
    leak = ".*[Uu]nclosed (context|socket) <zmq"
    config.addinivalue_line("filterwarnings", f"ignore:{leak}:ResourceWarning")
    warnings.filterwarnings("ignore", leak, ResourceWarning)
    os.environ |= {
        "OMP_NUM_THREADS": str(THREADS),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; its default is a share of the machine's memory
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # pytest has threads, and torch's do not survive a fork
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # For this process and for those that it starts.
    plugin = str(HERE / "plugin")
    if plugin not in sys.path:
        sys.path.append(plugin)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of this folder may take longer than others, and some come last in their file."""
    files = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (files[item.path], item.get_closest_marker("last") is not None))
    # tests/conftest.py sorts after this, by `slow` alone: no test is both.
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DeepSeek-OCR; from now on vLLM builds tiny towers, as its weights are for."""
    from tests.vllm_cpu.tiny_model import build  # noqa: PLC0415 - imports torch

    os.environ[tiny_towers.VARIABLE] = "1"
    return build(tmp_path_factory.mktemp("tiny") / "DeepSeek-OCR")


def draw(width: int, height: int) -> Image.Image:
    """A page with lines of text that say how large it is."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - beside its use

    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for top in range(20, height - 20, 40):
        pen.text((30, top), f"line {top} of a page of {width} x {height} pixels", fill="black")
    return image


@pytest.fixture(scope="session")
def pictures() -> dict[str, Image.Image]:
    """Pages by name: two without crops, two that are cut into 3 x 2 and 2 x 3."""
    sizes = {"small": (640, 480), "tall": (300, 620), "landscape": (1500, 1000), "a4": (1240, 1754)}
    return {name: draw(*size) for name, size in sizes.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """What vLLM gave for one request."""

    prompt_tokens: int
    ids: list[int]
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """vLLM's engine with its own model class, its own processor and the reference guard."""

    engine: Any

    async def read(
        self,
        picture: Image.Image,
        *,
        prompt: str | None = None,
        max_tokens: int = 16,
        guard: dict[str, Any] | None = None,
        ignore_eos: bool = True,
    ) -> Answer:
        """Read a page greedily; `guard` is what the reference guard finds in `extra_args`, none without."""
        from vllm import SamplingParams  # noqa: PLC0415 - after the environment is set
        from vllm.utils import random_uuid  # noqa: PLC0415 - the same

        params = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            skip_special_tokens=False,
            extra_args=guard,
        )
        text = prompt or prompt_for(Options())
        assert text.startswith(IMAGE_TOKEN)
        last = None
        async for output in self.engine.generate(
            {"prompt": text, "multi_modal_data": {"image": picture}}, params, random_uuid()
        ):
            last = output
        assert last is not None
        (only,) = last.outputs
        return Answer(len(last.prompt_token_ids), list(only.token_ids), only.text, only.finish_reason)


session_loop = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream(model_folder: Path, pictures: dict[str, Image.Image]) -> AsyncIterator[Upstream]:
    """One engine for all tests; it has read a page, so that its threads are there before a test begins."""
    from vllm import AsyncEngineArgs  # noqa: PLC0415 - after the environment is set
    from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor  # noqa: PLC0415 - the same
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - the same

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model_folder),
            dtype="float32",
            enforce_eager=True,
            max_model_len=2048,
            max_num_seqs=8,
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
            limit_mm_per_prompt={"image": 1},
            logits_processors=[NGramPerReqLogitsProcessor],
            distributed_executor_backend=ONE_PROCESS,
            seed=0,
        )
    )
    try:
        one = Upstream(engine)
        await one.read(pictures["small"], max_tokens=1)
        yield one
    finally:
        engine.shutdown()
