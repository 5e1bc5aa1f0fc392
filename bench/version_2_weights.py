"""The transformers engine with random weights for DeepSeek-OCR-2, which transformers cannot make up by itself.

They are drawn where the model runs in place of loading them; all else is the engine's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.dummy_model import SHALLOW_DECODER, SHALLOW_SAM
from deepseek_ocr.engine import transformers as engine
from deepseek_ocr.engine.transformers_process import serve

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path


def transformers_engine(folder: Path, batch_size: int, *, gpu: int | None) -> engine.TransformersEngine:
    """The engine, whose process draws its weights."""
    engine.serve = _serve  # type: ignore[attr-defined]
    return engine.TransformersEngine(model=str(folder), gpu=gpu, batch_size=batch_size)


def _serve(connection: Connection, parent_pid: int, model: str, device: str, batch_size: int) -> None:
    """The engine's process, but for the weights."""
    import torch  # noqa: PLC0415 - in the process alone
    import transformers  # noqa: PLC0415 - the same

    network = transformers.DeepseekOcr2ForConditionalGeneration

    def draw(_: str, *, config: Any, dtype: Any, **__: object) -> tuple[Any, dict[str, list[str]]]:
        if config.text_config.num_hidden_layers == SHALLOW_DECODER["num_hidden_layers"]:
            config.vision_config.encoder_config.num_hidden_layers = SHALLOW_SAM["layers"]
        with torch.device(device):
            drawn = network._from_config(config, dtype=dtype)  # noqa: SLF001 - what AutoModel.from_config calls
        with torch.no_grad():
            drawn.lm_head.weight[config.text_config.eos_token_id] = 0.0  # no page ends before its length
        return drawn, {"missing_keys": []}

    network.from_pretrained = draw
    serve(connection, parent_pid, model, device, batch_size)
