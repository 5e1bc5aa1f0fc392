"""DeepSeek-OCR and DeepSeek-OCR-2 at full size without weights: speed is that of the models, text is not.

A folder has the published configuration (deepseek-ai/DeepSeek-OCR, deepseek-ai/DeepSeek-OCR-2; what says nothing of
sizes is left out) and a tokenizer with the published ids, whose words are made up.  vLLM fills in dummy weights by
itself (`load_format="dummy"`).
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"  # noqa: RUF001 - as published
#: Ids in the published tokenizer.json.  The table's tags are tokens there, but no special ones.
SPECIAL = {
    BOS: 0, EOS: 1, PAD: 2, "<image>": 128815, "<|ref|>": 128816, "<|/ref|>": 128817, "<|det|>": 128818,
    "<|/det|>": 128819, "<|grounding|>": 128820,
}  # fmt: skip
TABLE = {"<td>": 128821, "</td>": 128822, "<tr>": 128823, "</tr>": 128824}
VOCABULARY = 129_280
DECODER: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1,
    "hidden_size": 1280, "intermediate_size": 6848, "kv_lora_rank": None, "lm_head": True,
    "max_position_embeddings": 8192, "moe_intermediate_size": 896, "n_group": 1, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_attention_heads": 10, "num_experts_per_tok": 6, "num_hidden_layers": 12,
    "num_key_value_heads": 10, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "rm_head": False,
    "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16", "use_mla": False, "v_head_dim": 0,
    "vocab_size": VOCABULARY,
}  # fmt: skip
#: What a processor can compute.  vLLM fixes the size of the towers in its code; the plugin of tests/vllm_cpu cuts them.
SHALLOW_DECODER = {
    "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32, "n_routed_experts": 8,
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 2,
}  # fmt: skip
SAM = {"downsample_channels": [512, 896], "global_attn_indexes": [2, 5, 8, 11], "heads": 12, "layers": 12, "width": 768}
SHALLOW_SAM = {"global_attn_indexes": [1], "layers": 2}
#: Width of the second tower of DeepSeek-OCR-2, and the one of DeepSeek-OCR.
ENCODER_WIDTH = 896
CLIP = {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024}


def write_version_1(folder: Path) -> Path:
    """Write config.json and the tokenizer of DeepSeek-OCR."""
    sam = SAM | {"downsample_channels": [512, 1024]}
    config = {
        "architectures": ["DeepseekOCRForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "torch_dtype": "bfloat16",
        "bos_token_id": SPECIAL[BOS],
        "eos_token_id": SPECIAL[EOS],
        "vocab_size": VOCABULARY,
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "tile_tag": "2D",
        "language_config": {**DECODER, "model_type": "deepseek_v2"},
        "projector_config": {
            "input_dim": 2 * CLIP["width"],
            "model_type": "mlp_projector",
            "n_embed": DECODER["hidden_size"],
            "projector_type": "linear",
        },
        "vision_config": {
            "image_size": 1024,
            "mlp_ratio": 3.7362,
            "model_name": "deeplip_b_l",
            "model_type": "vision",
            "width": {"clip-l-14-224": CLIP, "sam_vit_b": sam},
        },
    }
    return _write(folder, config)


def write_version_2(folder: Path, *, shallow: bool = False) -> Path:
    """Write config.json and the tokenizer of DeepSeek-OCR-2; `shallow`: what a processor can compute."""
    decoder = DECODER | (SHALLOW_DECODER if shallow else {})
    config = {
        **decoder,
        "architectures": ["DeepseekOCR2ForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "tile_tag": "2D",
        "language_config": decoder,
        "projector_config": {
            "input_dim": ENCODER_WIDTH,
            "model_type": "mlp_projector",
            "n_embed": decoder["hidden_size"],
            "projector_type": "linear",
        },
        "vision_config": {
            "image_size": 1024,
            "model_name": "deepencoderv2",
            "model_type": "vision",
            "width": {"qwen2-0-5b": {"dim": ENCODER_WIDTH}, "sam_vit_b": SAM | (SHALLOW_SAM if shallow else {})},
        },
    }
    return _write(folder, config)


def _write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer: bytes are tokens, the rest of the vocabulary is made up words, named ids are the published."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - not everywhere

    named = {number: token for token, number in (SPECIAL | TABLE).items()}
    letters = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    words = (f"w{number}" for number in count())
    vocabulary = {named.get(number) or next(letters, None) or next(words): number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TABLE])
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": DECODER["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
