"""Which DeepSeek-OCR a configuration describes, and the published OCR-2 one in the words of transformers.

The same weights exist twice: as published (`deepseek-ai/DeepSeek-OCR-2`, with code of its own, which vLLM loads) and
converted (`deepseek-community/DeepSeek-OCR-2`, which transformers loads).  transformers finds the published tensors by
itself, only the published configuration means nothing to it; so it is translated here and either copy serves.
Left to others: reading the file and loading the weights (`transformers_load.py`).
Residual risk: the published file does not say how large the second vision tower is; its size stands here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from deepseek_ocr.engine.model_folder import is_path
from deepseek_ocr.errors import EngineStartError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The first generation, for which transformers has no class (up to 5.23; DeepSeek-OCR's own code wants 4.46).
V1_ID: Final = "deepseek-ai/DeepSeek-OCR"
#: The second, as published and as converted.
V2_IDS: Final = ("deepseek-ai/DeepSeek-OCR-2", "deepseek-community/DeepSeek-OCR-2")
#: The second vision tower, a Qwen2 decoder (vLLM, model_executor/models/deepencoder2.py; the published
#: configuration has its width alone).
_ENCODER: Final = {
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "vocab_size": 1,  # it embeds no words
}
#: What the language model of the published configuration says beyond its class in transformers: multi-head latent
#: attention, which it does not use, and where its code lies.
_NOT_TEXT: Final = {
    *("architectures", "auto_map", "first_k_dense_replace", "lm_head", "rm_head", "torch_dtype", "use_mla"),
    *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
}

Kind = Literal["native", "published"]


@dataclass(frozen=True, slots=True)
class TransformersSettings:
    """What may be set of the engine; 0 = what suits the device."""

    #: auto = the card where there is an NVIDIA device, else the processor.
    device: Literal["auto", "cuda", "cpu"] = "auto"
    #: Pages read together.
    batch_size: int = 0
    #: Seconds without a token while pages are in flight, after which it counts as dead.
    hang_s: float = 0.0


def check_model(model: str) -> None:
    """Raise `EngineStartError` for a model that is known not to load, before anything is imported or downloaded."""
    if model.rstrip("/").lower() == V1_ID.lower():
        raise EngineStartError(_no_v1(model))
    folder = Path(model)
    if folder.is_dir():
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise EngineStartError(
                f"the model folder {model} has no config.json: set engine.model to the folder into which the whole "
                f"repository {V2_IDS[1]} was downloaded"
            ) from error
        except (OSError, ValueError) as error:
            raise EngineStartError(
                f"the configuration in the model folder {model} cannot be read ({error}): download the folder again"
            ) from error
        kind_of(config, model)
    elif is_path(model):
        raise EngineStartError(
            f"the model folder {model} does not exist: correct engine.model, or set it to {V2_IDS[1]} "
            f"to have the model downloaded"
        )


def kind_of(config: Any, model: str) -> Kind:
    """Which copy of OCR-2 a config.json describes; raises `EngineStartError` for every other model."""
    config = config if isinstance(config, dict) else {}
    architectures = config.get("architectures") or []
    if config.get("model_type") == "deepseek_ocr2":
        return "native"
    if "DeepseekOCR2ForCausalLM" in architectures:
        return "published"
    if "DeepseekOCRForCausalLM" in architectures or config.get("model_type") == "deepseek_vl_v2":
        raise EngineStartError(_no_v1(model))
    raise EngineStartError(
        f"{model} is no DeepSeek-OCR-2 (model_type {config.get('model_type')!r}, architectures {architectures}): "
        f"set engine.model to {V2_IDS[1]}"
    )


def native_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """The published configuration as `DeepseekOcr2Config` takes it; raises `KeyError` where a part is missing."""
    language = published["language_config"]
    dense = language["first_k_dense_replace"]
    sam = published["vision_config"]["width"]["sam_vit_b"]
    return {
        "architectures": ["DeepseekOcr2ForConditionalGeneration"],
        "model_type": "deepseek_ocr2",
        "text_config": {key: value for key, value in language.items() if key not in _NOT_TEXT}
        | {"mlp_layer_types": ["dense"] * dense + ["sparse"] * (language["num_hidden_layers"] - dense)},
        "vision_config": {
            "sam_config": {
                "hidden_size": sam["width"],
                "num_hidden_layers": sam["layers"],
                "num_attention_heads": sam["heads"],
                "global_attn_indexes": sam["global_attn_indexes"],
                "downsample_channels": sam["downsample_channels"],
            },
            "encoder_config": _ENCODER | {"hidden_size": published["vision_config"]["width"]["qwen2-0-5b"]["dim"]},
        },
    }


def _no_v1(model: str) -> str:
    return (
        f"the transformers engine cannot load {model}, the first DeepSeek-OCR, for which transformers has no class: "
        f'set backend = "vllm" under [engine], or model to {V2_IDS[1]} or {V2_IDS[0]}'
    )
