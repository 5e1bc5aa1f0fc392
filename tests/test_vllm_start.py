"""What vLLM is started with on a card, how long a start waits for it, and what is said of one that failed."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.engine import vllm_plan, vllm_start
from deepseek_ocr.engine.vllm_plan import (
    CPU_PLAN,
    GIB,
    Card,
    VllmSettings,
    capture_sizes,
    look_at_card,
    look_at_rest,
    plan_for,
)
from deepseek_ocr.engine.vllm_plugin import CauseHandler
from deepseek_ocr.engine.vllm_start import arguments_for, explain, explained, set_environment, wait_for_memory
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import CONTEXT_TOKENS, Mode

if TYPE_CHECKING:
    from collections.abc import Callable

H200 = Card("GPU-7f", "NVIDIA H200", 140 * GIB, 139 * GIB)
PLAN = plan_for(H200, VllmSettings())
#: All that vLLM tells of a core.
FAILED = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}")


def test_a_card_is_taken_as_the_plan_says() -> None:
    """All of the plan reaches vLLM, and none of its own defaults for what it says."""
    plan = plan_for(H200, VllmSettings(preset="8gb", max_num_seqs=7))
    found = arguments_for("folder", plan, Mode.GUNDAM)
    assert found["model"] == "folder"
    assert found["max_num_seqs"] == 7
    assert found["max_num_batched_tokens"] == 2048
    assert found["max_model_len"] == CONTEXT_TOKENS
    assert found["gpu_memory_utilization"] == plan.gpu_memory_utilization > 0
    assert found["quantization"] == "fp8"
    assert found["compilation_config"] == {"cudagraph_capture_sizes": capture_sizes(plan)}
    assert found["additional_config"] == plan.encoder(Mode.GUNDAM)
    assert found["hf_overrides"] == {"architectures": ["ResidentDeepseekOCR"]}
    assert "enforce_eager" not in found


def test_weights_stay_as_they_are_unless_fp8_is_asked_for() -> None:
    """Nothing is said of quantization then."""
    assert "quantization" not in arguments_for("folder", PLAN, Mode.BASE)


def test_the_cpu_is_taken_without_graphs() -> None:
    """And without a share of a card."""
    found = arguments_for("folder", CPU_PLAN, Mode.BASE)
    assert found["enforce_eager"] is True
    assert not {"gpu_memory_utilization", "compilation_config"} & found.keys()


@pytest.mark.parametrize("mode", [Mode.GUNDAM, None], ids=["DeepSeek-OCR", "DeepSeek-OCR-2"])
def test_every_model_is_guarded(mode: Mode | None) -> None:
    """The second runs with vLLM's own class, but with our guard and worker."""
    found = arguments_for("folder", PLAN, mode)
    assert found["logits_processors"] == ["deepseek_ocr.engine.vllm_guard:NoRepeatGuard"]
    assert found["worker_extension_cls"] == "deepseek_ocr.engine.vllm_worker.PageWorker"
    assert ("hf_overrides" in found) == ("additional_config" in found) == (mode is not None)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The process's own, empty but for what it must have."""
    found = {"CUDA_VISIBLE_DEVICES": "0,1", "VLLM_LOGGING_LEVEL": "DEBUG"}
    monkeypatch.setattr(os, "environ", found)
    return found


def test_the_chosen_card_is_the_only_one_that_is_seen(environment: dict[str, str]) -> None:
    """`engine.gpu`; what the operator says of vLLM's log is kept."""
    set_environment(H200)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-7f"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environment["OCR_DAEMON_ENGINE_PARENT"] == str(os.getpid())


def test_without_a_card_none_is_chosen(environment: dict[str, str]) -> None:
    """The CPU build looks at none."""
    set_environment(None)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stand-in for nvidia-smi says is free of 140 GiB: a line for each look, the last one for ever."""
    answers, command = tmp_path / "answers", tmp_path / "nvidia-smi"
    lines = (
        "#!/bin/sh",
        f'echo "NVIDIA H200, {140 * 1024}, $(($(head -n 1 {answers}) * 1024))"',
        f"[ $(wc -l < {answers}) = 1 ] || sed -i 1d {answers}",
    )
    command.write_text("\n".join(lines), encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for module in (vllm_plan, vllm_start):
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0)
    return answers


def free(answers: Path, *said: int) -> None:
    """What it will say, in GiB."""
    answers.write_text("".join(f"{gib}\n" for gib in said), encoding="utf-8")


async def test_a_start_waits_until_the_card_has_room(answers: Path) -> None:
    """An engine that just died holds it for a while; no longer than that is waited."""
    free(answers, 3, 3, 90, 130, 131)
    await wait_for_memory(H200, PLAN)
    assert look_at_card(0).free == 131 * GIB


async def test_a_card_that_stays_full_is_told(answers: Path) -> None:
    """After a minute, with both figures and the remedy."""
    free(answers, 20)
    with pytest.raises(EngineStartError, match=r"has 20\.0 GiB free and the engine is to take 126\.0; stop what else"):
        await wait_for_memory(H200, PLAN)


@pytest.mark.parametrize(
    ("said", "planned"),
    [
        ([139, 7], 139),
        ([10, 10, 10, 70, 139, 7], 139),
        ([60, 61, 61, 61, 61, 61, 61, 7], 61),
        ([*[60, 61] * 40], 60),
    ],
    ids=["nobody else", "an engine that just died", "another job", "another job that comes and goes"],
)
def test_a_plan_is_made_of_a_card_at_rest(answers: Path, said: list[int], planned: int) -> None:
    """Nobody waits for what stays taken, nor for ever."""
    free(answers, *said)
    assert look_at_rest(0).free == planned * GIB


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Failed to infer device type, please set"), "vLLM cannot use the card: .*nvidia-smi"),
        (OSError("libcudart.so.13: cannot open shared object file"), "vLLM cannot use the card: .*driver must be new"),
        (OSError("no file named model.safetensors"), 'the model "folder" cannot be loaded: .*set engine.model'),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "memory for .*CUDA out of memory. Tried.*; stop what"),
        (RuntimeError("CUDA driver error: out of memory"), "the card has too little memory for .*; stop what else"),
        (RuntimeError("The NVIDIA driver on your system is too old"), "vLLM cannot use the card"),
        (ModuleNotFoundError("No module named 'vllm'"), "vLLM cannot be loaded: .*install vLLM from the checkout"),
        (ValueError("No available memory for the cache blocks"), "the card has too little memory for .*; raise gpu_m"),
        (RuntimeError("Core failed.\n See above."), "with 896 pages .*: Core failed. See above.; the lines"),
    ],
    ids=[
        "no card", "no CUDA", "no weights", "out of memory", "driver out of memory", "old driver", "no vLLM",
        "no room for a cache", "somewhere in the core",
    ],
)  # fmt: skip
def test_a_start_that_failed_is_one_sentence_with_the_remedy(error: Exception, words: str) -> None:
    """By what vLLM says."""
    assert re.search(words, explain(error, "folder", PLAN))


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7 GiB",
            "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7 GiB; stop what else uses the card, or lower",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
            "ValueError: No available memory for the cache blocks; raise gpu_memory_utilization or lower max_num_batch",
        ),
        (
            "ValueError: (0.47 GiB KV cache is needed, which is larger than the available KV cache memory (0.3 GiB)",
            "; raise gpu_memory_utilization",
        ),
        (
            "ValueError: Free memory on cuda:0 is less than desired GPU memory utilization (0.9). Decrease it",
            "utilization (0.9); stop what else uses the card, or lower gpu_memory_utilization",
        ),
        ("AssertionError: Error in memory profiling. Initial free memory 7", "meanwhile, so start again"),
    ],
    ids=["out of memory", "no room for a cache", "little room for a cache", "in use", "freed meanwhile"],
)  # fmt: skip
def test_memory_that_a_card_lacks_is_told(cause: str, told: str) -> None:
    """The figures of the core's own exception, without vLLM's advice; the plan, and what helps here."""
    sentence = explain(FAILED, "folder", PLAN, cause)
    assert sentence.startswith(f"the card has too little memory for {PLAN}: {cause[:40]}")
    assert told in sentence
    assert sentence.endswith(" under [engine.vllm]")


def test_memory_that_a_machine_lacks_is_told() -> None:
    """Without a card the keys for a share of it change nothing."""
    cause = "ValueError: Available memory on node 0 (3/16 GiB) on startup is less than desired CPU memory utilization"
    told = explain(FAILED, "folder", CPU_PLAN, cause)
    assert told.startswith(f"this machine has too little memory for the engine: {cause}; VLLM_CPU_KVCACHE_SPACE in")


@pytest.mark.parametrize(
    "cause",
    [
        "FileNotFoundError: /x/memory: no such file",
        "SafetensorError: header too small",
        "ValueError: Following weights were not initialized from checkpoint: {'a'}",
    ],
)
def test_weights_that_a_core_misses_are_told(cause: str) -> None:
    """Of a core there are only the words."""
    told = explain(FAILED, "folder", PLAN, cause)
    assert told.startswith(f'the model "folder" cannot be loaded: {cause}; set engine.model to a folder')


@pytest.mark.parametrize(
    "cause",
    [
        "",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "OutOfResources: out of resource: shared memory, Required: 131072, Hardware limit: 101376",
        "MemoryError: ",
        "OSError: [Errno 12] Cannot allocate memory",
        "ValueError: bad config in /srv/weights out of memory/x",
    ],
)
def test_what_may_be_anything_is_told_as_such(cause: str) -> None:
    """The whole of it: the name of the model's folder decides nothing, and how a core ended is told."""
    told = explain(FAILED, "/srv/weights out of memory/x", PLAN, cause)
    assert told.startswith(f"vLLM did not start with {PLAN}: {cause.rstrip(': ') or FAILED}; the lines of EngineCore")


def test_a_cause_is_cut_off() -> None:
    """Of weights that do not fit all names come."""
    assert len(explain(FAILED, "folder", PLAN, "ValueError: weights " + "name, " * 1000)) < 500


def test_the_core_writes_its_cause() -> None:
    """As vLLM's core logs it, the last one if there are several; nothing is left in the environment."""
    core, paths = logging.getLogger("a core"), []

    def fail() -> None:
        paths.append(Path(os.environ["OCR_DAEMON_ENGINE_CAUSE"]))
        core.addHandler(CauseHandler(paths[0]))
        core.error("Invocation of a method failed", exc_info=ValueError("it is longer than the other one"))
        core.error("EngineCore failed to start.", exc_info=OSError("no disk"))
        raise FAILED

    with pytest.raises(EngineStartError, match='the model "folder" cannot be loaded: OSError: no disk; set'):
        in_explained(fail)
    assert "OCR_DAEMON_ENGINE_CAUSE" not in os.environ
    core.error("EngineCore encountered a fatal error.", exc_info=MemoryError("long after the start"))
    with pytest.raises(OSError, match="No such file"):
        CauseHandler(paths[0])
    for handler in core.handlers:
        handler.close()
    core.handlers.clear()


def in_explained(build: Callable[[], None]) -> None:
    """An engine is built."""
    with explained("folder", PLAN):
        build()
