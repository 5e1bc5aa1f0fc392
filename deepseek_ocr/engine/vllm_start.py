"""What vLLM is started with, until when a start waits for the card, and what is said of one that failed.

vLLM tells its caller only that its engine core failed; why, the core writes into a file (`vllm_plugin.py`).
Left to others: how much of the card is taken (`vllm_plan.py`), the start itself (`vllm.py`).  Residual risk: a cause
that vLLM words in another way than it did is told with a remedy for every case.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.engine import vllm_plugin as plugin
from deepseek_ocr.engine.vllm_plan import GIB, LOOK_EVERY_S, capture_sizes, look_at_card
from deepseek_ocr.engine.vllm_processes import GONE_S
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import CONTEXT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepseek_ocr.engine.vllm_plan import Card, Plan
    from deepseek_ocr.prompt import ModeChoice

INSTALL_VLLM: Final = (
    "install vLLM from the checkout, with `make install ENGINE=vllm` for the service or `pip install '.[vllm]'` for an "
    'environment of your own, or set backend = "cpu" under [engine] to read without a card'
)
#: Words of an error that mean that vLLM found no card, or nothing that speaks to it (vLLM, torch, the loader).
_NO_CUDA: Final = (
    "infer device type", "libcuda", "cuda driver version", "nvidia driver", "no cuda gpus", "no cuda-capable",
)  # fmt: skip
_LARGER_SHARE: Final = "raise gpu_memory_utilization or lower max_num_batched_tokens"
#: Words of one that mean that a card's memory is short (vLLM, torch), and what helps under [engine.vllm].
_MEMORY: Final = {
    "no available memory for the cache": _LARGER_SHARE,
    "available kv cache memory": _LARGER_SHARE,
    "error in memory profiling": "something else gave memory back meanwhile, so start again, or lower max_num_seqs",
    "less than desired gpu memory": "stop what else uses the card, or lower gpu_memory_utilization",
    "out of memory": (
        'stop what else uses the card, or lower max_num_seqs or gpu_memory_utilization, or set preset = "8gb"'
    ),
}
#: The same without a card.
_CPU_MEMORY: Final = ("available memory", "out of memory", "available kv cache memory")
#: How the exceptions of a core begin, of which there are only words, that a file is to blame for.
_OF_A_FILE: Final = ("OSError", "FileNotFoundError", "PermissionError", "SafetensorError")
#: Of an error's text; vLLM goes on with advice for its own command line, torch with all that is allocated.
_MAX_CHARS: Final = 300
_ADVICE: Final = re.compile(r"\.? (?:Try |Decrease |See http|To resolve|On the CPU backend).*")


def set_environment(card: Card | None) -> None:
    """What vLLM and CUDA read when they are first imported; without a card, the CPU is meant."""
    if card is not None:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = card.id
    os.environ[plugin.PARENT_VARIABLE] = str(os.getpid())
    # A fork of a process with threads can hang, and one that has touched CUDA cannot use it.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    for name, value in {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is a command's own


async def wait_for_memory(card: Card, plan: Plan) -> None:
    """Until the card has what the plan takes, as an engine that just died may still hold it.

    Raises `EngineStartError` where it has not after `GONE_S`.
    """
    wanted = plan.gpu_memory_utilization * card.total
    for _ in range(int(GONE_S)):
        now = await asyncio.to_thread(look_at_card, 0, card.id)
        if now.free >= wanted:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise EngineStartError(
        f"{now.name} has {now.free / GIB:.1f} GiB free and the engine is to take {wanted / GIB:.1f}; stop what "
        f"else uses the card, or lower gpu_memory_utilization under [engine.vllm]"
    )


def arguments_for(model: str, plan: Plan, mode: ModeChoice | None) -> dict[str, Any]:
    """Of vLLM's `AsyncEngineArgs`; without a mode the model is DeepSeek-OCR-2."""
    found: dict[str, Any] = {
        "model": model,
        "seed": 0,
        "max_model_len": CONTEXT_TOKENS,
        # The defaults of an engine that is built directly are far below those of `vllm serve`.
        "max_num_seqs": plan.max_num_seqs,
        "max_num_batched_tokens": plan.max_num_batched_tokens,
        "limit_mm_per_prompt": {"image": 1},
        # Pages do not repeat.
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,
        "logits_processors": [plugin.GUARD],
        "worker_extension_cls": plugin.WORKER,
        "stream_interval": plugin.STREAM_INTERVAL,
        "disable_log_stats": True,
    }
    if plan.gpu_memory_utilization:
        found["gpu_memory_utilization"] = plan.gpu_memory_utilization
        found["compilation_config"] = {"cudagraph_capture_sizes": capture_sizes(plan)}
    else:
        # The model runs in the core's own process, as it does on a card.
        found |= {"enforce_eager": True, "distributed_executor_backend": plugin.ONE_PROCESS}
    if plan.quantization:
        found["quantization"] = plan.quantization
    if mode is not None:  # DeepSeek-OCR-2 runs with vLLM's own class
        found["hf_overrides"] = {"architectures": [plugin.ARCHITECTURE]}
        found["additional_config"] = plan.encoder(mode)
    return found


@contextmanager
def explained(model: str, plan: Plan) -> Iterator[None]:
    """An engine is built meanwhile: what vLLM fails of is raised as `EngineStartError`, with the core's own cause."""
    # No name in a folder for others to find, and nothing is left of it.
    file = os.memfd_create("engine-cause")
    os.environ[plugin.CAUSE_VARIABLE] = f"/proc/{os.getpid()}/fd/{file}"
    try:
        yield
    except EngineStartError:
        raise
    except Exception as error:
        cause = os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
        raise EngineStartError(explain(error, model, plan, cause)) from error
    finally:
        os.environ.pop(plugin.CAUSE_VARIABLE, None)
        os.close(file)


def explain(error: Exception, model: str, plan: Plan, cause: str = "") -> str:
    """One sentence, with the remedy, for a start that failed in vLLM; `cause` is what its core told, if it did."""
    words = " ".join((cause or str(error)).split()).rstrip(": ")
    # The name of a folder may have any words in it.
    lower = words.lower().replace(model.lower() or " ", " ")
    words = _ADVICE.sub("", words)
    words = words if len(words) <= _MAX_CHARS else words[:_MAX_CHARS] + "..."
    if not plan.gpu_memory_utilization and any(sign in lower for sign in _CPU_MEMORY):
        return (
            f"this machine has too little memory for the engine: {words}; VLLM_CPU_KVCACHE_SPACE in the environment "
            f"says how many GiB are for the cache"
        )
    for sign, remedy in _MEMORY.items():
        if sign in lower:
            return f"the card has too little memory for {plan}: {words}; {remedy} under [engine.vllm]"
    if any(sign in lower for sign in _NO_CUDA):
        return (
            f"vLLM cannot use the card: {words}; `nvidia-smi` must work for this user, and its driver must be new "
            f"enough for the CUDA that came with vLLM"
        )
    if isinstance(error, ImportError):
        return f"vLLM cannot be loaded: {words}; {INSTALL_VLLM}"
    of_a_file = isinstance(error, OSError) or cause.startswith(_OF_A_FILE)
    if (of_a_file and "cannot allocate memory" not in lower) or "weights" in lower:
        return (
            f'the model "{model}" cannot be loaded: {words}; set engine.model to a folder with its weights, '
            f"or let this machine reach the hub once"
        )
    return (
        f"vLLM did not start with {plan}: {words}; the lines of EngineCore above tell more: it may be too little "
        f'memory on the card (lower gpu_memory_utilization or set preset = "8gb" under [engine.vllm]), or a folder '
        f"that does not hold the model's weights"
    )
