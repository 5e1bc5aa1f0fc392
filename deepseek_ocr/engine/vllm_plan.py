"""How much of a card DeepSeek-OCR on vLLM takes, and how many pages it reads at once there.

The figures behind the presets were measured on one H200 with vLLM 0.25.1 (bench/README.md).  A plan holds for the life
of an engine, so the card is looked at until it is at rest.  Left to others: whether the memory is really there when the
engine starts (`vllm_start.py`, vLLM).  Residual risk: what takes longer than that to leave a card is planned around.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import structlog

from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import AUTO, Mode, ModeChoice
from deepseek_ocr.tiles import CROP_SIDE_PX, VIEW_SIDE_PX

log = structlog.get_logger()

GIB: Final = 1 << 30
#: Weights in bf16 (6.67 GB of files) and with the linear layers in fp8.
WEIGHTS_BYTES: Final = {"": 6.3 * GIB, "fp8": 3.7 * GIB}
#: Keys and values of one token: 12 layers, 10 heads of 128, in bf16.
KV_BYTES_PER_TOKEN: Final = 2 * 12 * 10 * 128 * 2
#: A page of A4: 903 tokens of picture, 10 of prompt, and an answer of about as many again.
PAGE_TOKENS: Final = 2048
#: Page pictures that one step may encode cost this much for each of them (gundam, A4), and the rest of a step (preset
#: 8gb on an H200: vLLM kept 1528 MiB of 6527 for its cache).
ENCODER_BYTES_PER_PAGE: Final = 0.15 * GIB
STEP_BYTES: Final = 0.85 * GIB
#: CUDA itself and the graphs, beside what vLLM is given (the same: 7847 MiB were in use), and a tenth of a GiB more.
BESIDE_BYTES: Final = 1.4 * GIB
#: Sequences at which an H200 is kept busy although one thread schedules all of them (bench/LOG.md).
MAX_SEQS: Final = 896
#: Of a full engine a step takes in a new page for each so many that are read at once (bench/LOG.md).
PAGES_FOR_EACH_NEW: Final = 224
#: Picture and prompt of the largest page.
LARGEST_PAGE_TOKENS: Final = 960

#: What the model class reads of vLLM's `additional_config` (`Plan` in `vllm_encoder.py`).
ENCODER_KEY: Final = "ocr_daemon_encoder"

Preset = Literal["auto", "24gb", "8gb"]


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What an operator may say about it; 0 and "" leave the choice to `plan_for`."""

    preset: Preset = "auto"
    #: Pages that are read at once.
    max_num_seqs: int = 0
    #: Tokens of one step, prompts and pictures included.
    max_num_batched_tokens: int = 0
    #: Share of the card's memory, 0 to 1.
    gpu_memory_utilization: float = 0.0
    #: "fp8" halves the weights; "none" keeps them as they are.
    quantization: Literal["", "none", "fp8"] = ""
    #: Requests in flight and no token for so many seconds: the engine hangs and is killed.
    hang_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Card:
    """One NVIDIA card as the driver sees it; memory in bytes."""

    #: What `CUDA_VISIBLE_DEVICES` calls it: an index in PCI order, or a UUID.
    id: str
    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What vLLM is started with."""

    max_num_seqs: int
    max_num_batched_tokens: int
    #: Share of the card's whole memory; 0 = there is no card.
    gpu_memory_utilization: float
    #: "" or "fp8".
    quantization: str
    #: Pages that the encoder takes at once, each for some 0.3 GiB (estimated from the sizes of its tensors: those of
    #: its graphs, and as much beside them for pages of another mode).
    encoder_pages: int = 1

    def encoder(self, mode: ModeChoice) -> dict[str, Any]:
        """For vLLM's `additional_config`: how much is encoded at once, and which sizes of pictures get graphs."""
        mode = Mode.GUNDAM if mode == AUTO else mode  # which has the view of base, too
        sides_px = [VIEW_SIDE_PX[mode], *([CROP_SIDE_PX] if mode is Mode.GUNDAM else [])]
        return {ENCODER_KEY: {"pages": self.encoder_pages, "sides_px": sides_px}}

    def __str__(self) -> str:
        """For the log."""
        share = f"{self.gpu_memory_utilization:.3f} of the card" if self.gpu_memory_utilization else "the CPU"
        weights = f", {self.quantization} weights" if self.quantization else ""
        return f"{self.max_num_seqs} pages at once, {self.max_num_batched_tokens} tokens a step, {share}{weights}"


#: On vLLM's CPU build, which is for tests and for curiosity: it takes seconds a page.
CPU_PLAN: Final = Plan(8, 2048, 0.0, "")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A preset: what is taken of a card of so much memory."""

    memory: float
    max_num_seqs: int
    max_num_batched_tokens: int
    share: float
    quantization: str
    encoder_pages: int


#: Asked for on a larger card, a preset takes no more than the card it is named after has.
_PRESETS: Final = {
    "24gb": _Sizes(24 * GIB, 100, 4096, 0.9, "", 2),
    # The weights alone are 6.2 GiB in bf16; a card that is sold with 8 GB leaves about 7.5 GiB, BESIDE_BYTES included.
    "8gb": _Sizes(7.5 * GIB, 10, 2048, 0.81, "fp8", 1),
}
#: Below so much memory `auto` is the preset for small cards; a larger one that something else uses gets that only where
#: it has no room for the weights as they are.
_SMALL: Final = 14 * GIB
#: A card of which so much is free is nobody else's; others are looked at for some seconds, and again where more than
#: so much was freed meanwhile.
FREE_SHARE: Final = 0.95
SETTLED_S: Final = 5
REST_S: Final = 60
LOOK_EVERY_S: Final = 1.0
FREED_BYTES: Final = GIB // 4
#: At least so many tokens make a step where there is room: pictures of a dozen new pages beside all running ones.
_LARGE_STEP_TOKENS: Final = 16384


def plan_for(card: Card, settings: VllmSettings) -> Plan:
    """What fits on a card; raises `EngineStartError` where the model does not."""
    if settings.preset != "auto":
        sizes = _PRESETS[settings.preset]
    elif card.total < _SMALL:
        sizes = replace(_PRESETS["8gb"], memory=card.total)
    elif card.total < 2 * _PRESETS["24gb"].memory or card.free < _PRESETS["24gb"].memory:
        sizes = replace(_PRESETS["24gb"], memory=card.total)
    else:
        sizes = _Sizes(card.total, 0, _LARGE_STEP_TOKENS, 0.9, "", 4)
    quantization = {"": sizes.quantization, "none": ""}.get(settings.quantization, settings.quantization)
    tokens = settings.max_num_batched_tokens or sizes.max_num_batched_tokens
    share = (
        settings.gpu_memory_utilization
        or min(sizes.share * sizes.memory, max(0, card.free - BESIDE_BYTES)) / card.total
    )
    steps = STEP_BYTES + tokens / 903 * ENCODER_BYTES_PER_PAGE
    left = share * card.total - WEIGHTS_BYTES[quantization] - steps
    fitting = int(left / (PAGE_TOKENS * KV_BYTES_PER_TOKEN))
    if fitting < 1 and settings.preset == "auto" and not settings.quantization and card.free < _SMALL <= card.total:
        return plan_for(card, replace(settings, preset="8gb"))
    if fitting < 1:
        raise EngineStartError(
            f"DeepSeek-OCR does not fit on {card.name}: {card.free / GIB:.1f} of {card.total / GIB:.1f} GiB are free, "
            f"{share * card.total / GIB:.1f} GiB may be used, but weights and one step need "
            f"{(WEIGHTS_BYTES[quantization] + steps) / GIB:.1f} GiB; stop what else uses the card, set another "
            f'engine.gpu, or under [engine.vllm] preset = "8gb" or quantization = "fp8"'
        )
    seqs = settings.max_num_seqs or min(fitting, sizes.max_num_seqs or MAX_SEQS)
    return Plan(seqs, tokens, round(share, 4), quantization, sizes.encoder_pages)


def new_pages_together(max_num_seqs: int) -> int:
    """New pages for which a full engine waits, that a step takes in together: a step with any costs all others."""
    return max(1, max_num_seqs // PAGES_FOR_EACH_NEW)


def capture_sizes(plan: Plan) -> list[int]:
    """Tokens of a step for which vLLM records its launches as a CUDA graph, and to which it fills up smaller steps.

    vLLM's own end at 512, but a step of hundreds of pages that also takes in new ones has a thousand tokens more for
    each, and was launched kernel by kernel: 11 ms of the engine core's thread (H200, 448 pages at once).
    """
    # One more comes in where two end in the step that had one to wait for.
    new_pages = new_pages_together(plan.max_num_seqs) + 1
    most = min(plan.max_num_seqs + new_pages * LARGEST_PAGE_TOKENS, plan.max_num_batched_tokens)
    sizes = [1, 2, 4, 8]
    while sizes[-1] < most:
        # An eighth is wasted at most, less than that in the mean.
        sizes.append(sizes[-1] + max(8, 1 << sizes[-1].bit_length() >> 4))
    return [*(size for size in sizes if size < most), most]


def look_at_rest(gpu: int) -> Card:
    """`look_at_card`, where much is taken for `SETTLED_S` and more, as it may be by an engine that just died.

    Ends when nothing was freed for that long, after `REST_S` in any case; blocks meanwhile.
    """
    card, settled = look_at_card(gpu), 0
    for look in range(REST_S):
        if card.free >= FREE_SHARE * card.total or settled >= SETTLED_S:
            break
        if not look:
            log.info("engine.card_in_use", card=card.name, free_gib=card.free // GIB, total_gib=card.total // GIB)
        time.sleep(LOOK_EVERY_S)
        before, card = card, look_at_card(0, card.id)
        settled = 0 if card.free > before.free + FREED_BYTES else settled + 1
    return card


def look_at_card(gpu: int, visible: str | None = None) -> Card:
    """The card with this number, as `nvidia-smi` counts, or within `CUDA_VISIBLE_DEVICES` where that is set.

    Raises `EngineStartError` where there is none.  No CUDA context is made: that would cost the card half a gigabyte.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    ids = [part.strip() for part in visible.split(",") if part.strip()] if visible is not None else []
    if visible is not None and gpu >= len(ids):
        raise EngineStartError(
            f"engine.gpu is {gpu}, but CUDA_VISIBLE_DEVICES shows {len(ids)} of this machine's cards; count from 0"
        )
    card = ids[gpu] if ids else str(gpu)
    smi = shutil.which("nvidia-smi")
    if smi is None:
        raise EngineStartError(
            "the vllm engine needs an NVIDIA card and its driver, and nvidia-smi is not there; install the driver, or "
            'set backend = "cpu" under [engine] to read without a card'
        )
    fields = "--query-gpu=name,memory.total,memory.free"
    try:
        # The id comes from the operator's own environment and reaches no shell.
        answer = subprocess.run(  # noqa: S603
            [smi, fields, "--format=csv,noheader,nounits", f"--id={card}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        name, total, free = (part.strip() for part in answer.stdout.strip().splitlines()[0].rsplit(",", 2))
        return Card(card, name, int(total) << 20, int(free) << 20)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        words = answer.stdout.strip() or answer.stderr.strip() if "answer" in locals() else str(error)
        raise EngineStartError(
            f"card {card} cannot be used: nvidia-smi says {words!r}; `nvidia-smi -L` lists the cards, set engine.gpu"
        ) from error
