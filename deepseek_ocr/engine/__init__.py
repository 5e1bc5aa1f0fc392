"""The engines, one module each, and the choice between them.  Importing this loads none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import Mode

if TYPE_CHECKING:
    from deepseek_ocr.completion import Engine
    from deepseek_ocr.engine.openai_config import OpenAISettings
    from deepseek_ocr.engine.transformers_config import TransformersSettings
    from deepseek_ocr.engine.vllm_plan import VllmSettings
    from deepseek_ocr.prompt import ModeChoice


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine was chosen and why; logged and part of every manifest."""

    name: str
    reason: str


def choose(backend: str) -> Choice:
    """The engine for a configured backend; `auto` looks for an NVIDIA device."""
    if backend != "auto":
        return Choice(backend, "engine.backend is set to it")
    device = nvidia_device()
    if device:
        return Choice("vllm", f"engine.backend is auto and there is an NVIDIA device ({device})")
    return Choice("cpu", "engine.backend is auto and there is no NVIDIA device")


def build(
    choice: Choice,
    *,
    model: str = "deepseek-ai/DeepSeek-OCR",
    mode: ModeChoice = Mode.GUNDAM,
    gpu: int = 0,
    vllm: VllmSettings | None = None,
    transformers: TransformersSettings | None = None,
    openai: OpenAISettings | None = None,
    cpu_workers: int = 0,
    rec_model: Path | None = None,
) -> Engine:
    """The chosen engine, not started; raises `EngineStartError` if something it needs is missing."""
    if choice.name == "vllm":
        from deepseek_ocr.engine.vllm import VllmEngine  # noqa: PLC0415 - each engine loads its own libraries

        return VllmEngine(model, mode=mode, gpu=gpu, settings=vllm)
    if choice.name == "transformers":
        from deepseek_ocr.engine.transformers import TransformersEngine  # noqa: PLC0415
        from deepseek_ocr.engine.transformers_config import TransformersSettings  # noqa: PLC0415

        wanted = transformers or TransformersSettings()
        on_card = wanted.device == "cuda" or (wanted.device == "auto" and nvidia_device() != "")
        return TransformersEngine(
            model=model, gpu=gpu if on_card else None, batch_size=wanted.batch_size, hang_s=wanted.hang_s
        )
    if choice.name == "openai":
        from deepseek_ocr.engine.openai import OpenAIEngine  # noqa: PLC0415
        from deepseek_ocr.engine.openai_config import OpenAISettings  # noqa: PLC0415

        return OpenAIEngine(openai or OpenAISettings(), model=model)
    if choice.name == "cpu":
        from deepseek_ocr.engine.cpu import CpuEngine  # noqa: PLC0415

        return CpuEngine(workers=cpu_workers, rec_model=rec_model)
    if choice.name == "textlayer":
        from deepseek_ocr.engine.textlayer import TextLayerEngine  # noqa: PLC0415

        return TextLayerEngine()
    raise EngineStartError(f"there is no {choice.name} engine ({choice.reason})")


def nvidia_device(proc: Path = Path("/proc/driver/nvidia/gpus"), dev: Path = Path("/dev")) -> str:
    """The first NVIDIA device the kernel knows, empty if none; no driver library is loaded."""
    gpus = sorted(proc.iterdir()) if proc.is_dir() else []
    nodes = sorted(dev.glob("nvidia[0-9]*"))
    return str((gpus + nodes)[0]) if gpus or nodes else ""
