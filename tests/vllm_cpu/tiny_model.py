"""A tiny random DeepSeek-OCR in a folder: published names, token ids and picture sizes, few and narrow layers.

vLLM's own loader, processor and engine run with it.  vLLM's class fixes how large the vision towers are; the plugin in
`plugin/` makes them tiny.  Weights are drawn at the scale of trained ones and norms start at one, so that what is read
depends on the picture; zeros or vLLM's dummy weights would make every page the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from bench.dummy_model import EOS, SPECIAL, VOCABULARY, write_tokenizer
from tests.vllm_cpu.plugin.tiny_towers import CLIP_LAYERS, SAM_BLOCKS, SAM_GLOBAL_BLOCKS, SAM_HEADS, SAM_WIDTH

if TYPE_CHECKING:
    from pathlib import Path

#: Width of the decoder; the two matrices over the vocabulary are all of its size that counts.
HIDDEN: Final = 64
#: The decoder, in the keys of the published config.json.
DECODER: Final[dict[str, Any]] = {
    "bos_token_id": 0, "eos_token_id": 1, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    "first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "use_mla": False,
    "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0,
    "lm_head": True, "rm_head": False,
}  # fmt: skip
CLIP_WIDTH = 1024
#: Of the encoder of DeepSeek-OCR-2 (`last_conv_output` in vLLM's deepseek_ocr2.py).
QWEN2_WIDTH = 896
#: Length of the row of EOS in the last matrix for answers that end.  The greatest of the other 129 000 logits, whose
#: deviation is 1, is about 4.6, so one of 2.5 is above them at one step of thirty.
SOON: Final = 2.5


def build(folder: Path, *, seed: int = 1, ends_soon: bool = False) -> Path:
    """Write the folder, 0.15 GB in float32; with `ends_soon` answers have a few dozen tokens, else they hardly end.

    With seed 1 the answer for the page "a4" of the tests begins with a loop, so that the guard acts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(), indent=1), encoding="utf-8")
    write_tokenizer(folder)
    weights = _weights(seed)
    if ends_soon:
        weights["lm_head.weight"][SPECIAL[EOS]] *= SOON
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def build_version_2(folder: Path) -> Path:
    """The same of DeepSeek-OCR-2, as published for vLLM, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _config() | {"architectures": ["DeepseekOCR2ForCausalLM"]}
    config["projector_config"] = config["projector_config"] | {"input_dim": QWEN2_WIDTH}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def _config() -> dict[str, Any]:
    towers = {
        "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": CLIP_WIDTH},
        "sam_vit_b": {
            "downsample_channels": [512, 1024],
            "global_attn_indexes": list(SAM_GLOBAL_BLOCKS),
            "heads": SAM_HEADS,
            "layers": SAM_BLOCKS,
            "width": SAM_WIDTH,
        },
    }
    return {
        **DECODER,
        "architectures": ["DeepseekOCRForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "torch_dtype": "float32",
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "tile_tag": "2D",
        "language_config": {**DECODER, "architectures": ["DeepseekV2ForCausalLM"], "torch_dtype": "float32"},
        "projector_config": {
            "input_dim": 2 * CLIP_WIDTH,
            "model_type": "mlp_projector",
            "n_embed": HIDDEN,
            "projector_type": "linear",
        },
        "vision_config": {
            "image_size": 1024,
            "mlp_ratio": 3.7362,
            "model_name": "deeplip_b_l",
            "model_type": "vision",
            "width": towers,
        },
    }


class _Weights:
    """Tensors under their published names, drawn in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, name: str, *shape: int, std: float | None = None) -> None:
        """Normally distributed; by default so that what comes out has the scale of what goes in."""
        fan_in = 1
        for side in shape[1:]:
            fan_in *= side
        self.tensors[name] = torch.randn(*shape, generator=self._generator) * (std or fan_in**-0.5)

    def linear(self, name: str, out: int, into: int) -> None:
        """A layer with a bias of zeros."""
        self.draw(f"{name}.weight", out, into)
        self.tensors[f"{name}.bias"] = torch.zeros(out)

    def norm(self, name: str, width: int, *, bias: bool = True) -> None:
        """A norm that does nothing more."""
        self.tensors[f"{name}.weight"] = torch.ones(width)
        if bias:
            self.tensors[f"{name}.bias"] = torch.zeros(width)

    def gated(self, name: str, inner: int) -> None:
        """The decoder's feed-forward layer, or an expert."""
        self.draw(f"{name}.gate_proj.weight", inner, HIDDEN)
        self.draw(f"{name}.up_proj.weight", inner, HIDDEN)
        self.draw(f"{name}.down_proj.weight", HIDDEN, inner)


def _weights(seed: int) -> dict[str, torch.Tensor]:
    weights = _Weights(seed)
    _sam(weights)
    _clip(weights)
    weights.linear("model.projector.layers", HIDDEN, 2 * CLIP_WIDTH)
    weights.draw("model.image_newline", HIDDEN, std=1.0)
    weights.draw("model.view_seperator", HIDDEN, std=1.0)
    _decoder(weights)
    return weights.tensors


def _sam(weights: _Weights) -> None:
    name, width = "model.sam_model", SAM_WIDTH
    weights.draw(f"{name}.pos_embed", 1, 64, 64, width, std=0.5)
    weights.draw(f"{name}.patch_embed.proj.weight", width, 3, 16, 16)
    weights.tensors[f"{name}.patch_embed.proj.bias"] = torch.zeros(width)
    for index in range(SAM_BLOCKS):
        block = f"{name}.blocks.{index}"
        weights.norm(f"{block}.norm1", width)
        weights.norm(f"{block}.norm2", width)
        weights.linear(f"{block}.attn.qkv", 3 * width, width)
        weights.linear(f"{block}.attn.proj", width, width)
        # Positions relative to each other within a window of 14 patches, or within the 64 of a side.
        positions = 2 * (64 if index in SAM_GLOBAL_BLOCKS else 14) - 1
        weights.draw(f"{block}.attn.rel_pos_h", positions, width // SAM_HEADS, std=0.02)
        weights.draw(f"{block}.attn.rel_pos_w", positions, width // SAM_HEADS, std=0.02)
        weights.linear(f"{block}.mlp.lin1", 4 * width, width)
        weights.linear(f"{block}.mlp.lin2", width, 4 * width)
    weights.draw(f"{name}.neck.0.weight", 256, width, 1, 1)
    weights.norm(f"{name}.neck.1", 256)
    weights.draw(f"{name}.neck.2.weight", 256, 256, 3, 3)
    weights.norm(f"{name}.neck.3", 256)
    weights.draw(f"{name}.net_2.weight", 512, 256, 3, 3)
    weights.draw(f"{name}.net_3.weight", CLIP_WIDTH, 512, 3, 3)


def _clip(weights: _Weights) -> None:
    name, width = "model.vision_model", CLIP_WIDTH
    weights.draw(f"{name}.embeddings.class_embedding", width, std=0.5)
    weights.draw(f"{name}.embeddings.patch_embedding.weight", width, 3, 14, 14)
    weights.draw(f"{name}.embeddings.position_embedding.weight", 257, width, std=0.5)
    weights.norm(f"{name}.pre_layrnorm", width)
    for index in range(CLIP_LAYERS):
        layer = f"{name}.transformer.layers.{index}"
        weights.norm(f"{layer}.layer_norm1", width)
        weights.norm(f"{layer}.layer_norm2", width)
        weights.linear(f"{layer}.self_attn.qkv_proj", 3 * width, width)
        weights.linear(f"{layer}.self_attn.out_proj", width, width)
        weights.linear(f"{layer}.mlp.fc1", 4 * width, width)
        weights.linear(f"{layer}.mlp.fc2", width, 4 * width)


def _decoder(weights: _Weights) -> None:
    weights.draw("model.embed_tokens.weight", VOCABULARY, HIDDEN, std=1.0)
    for index in range(DECODER["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for projection in "qkvo":
            weights.draw(f"{layer}.self_attn.{projection}_proj.weight", HIDDEN, HIDDEN)
        weights.norm(f"{layer}.input_layernorm", HIDDEN, bias=False)
        weights.norm(f"{layer}.post_attention_layernorm", HIDDEN, bias=False)
        if index < DECODER["first_k_dense_replace"]:
            weights.gated(f"{layer}.mlp", DECODER["intermediate_size"])
            continue
        weights.draw(f"{layer}.mlp.gate.weight", DECODER["n_routed_experts"], HIDDEN)
        for expert in range(DECODER["n_routed_experts"]):
            weights.gated(f"{layer}.mlp.experts.{expert}", DECODER["moe_intermediate_size"])
        shared = DECODER["moe_intermediate_size"] * DECODER["n_shared_experts"]
        weights.gated(f"{layer}.mlp.shared_experts", shared)
    weights.norm("model.norm", HIDDEN, bias=False)
    weights.draw("lm_head.weight", VOCABULARY, HIDDEN)
