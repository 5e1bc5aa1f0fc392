"""A tiny random DeepSeek-OCR-2 in a folder: the real classes, tokens and image sizes, small numbers of everything else.

The weights are of the scale of trained ones, so that what is read depends on the picture; those that the classes
initialise by themselves would make every page the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration

if TYPE_CHECKING:
    from pathlib import Path

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"  # noqa: RUF001 - as published
#: In the order of the published ids; the first six are special there, the table tags are not.
SPECIAL = ("<image>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")
TABLE = ("<td>", "</td>", "<tr>", "</tr>")
WORDS = ("Convert the document to markdown.", "Free OCR.", "text title table image [[0, 999]]")
ENCODER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


def build(folder: Path, *, seed: int = 0, end_instead_of: int | None = None, add_bos: bool = False) -> Path:
    """Write the folder.

    `end_instead_of` is a token id: wherever the model would choose it, it chooses the end of the page.  `add_bos`
    makes the tokenizer begin each text with BOS by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(folder, add_bos=add_bos)
    config = DeepseekOcr2Config.from_dict(_config(tokenizer))
    network = DeepseekOcr2ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter.normal_(std=fan_in**-0.5, generator=generator)
        if end_instead_of is not None:
            head = network.lm_head.weight
            end = tokenizer.token_to_id(EOS)
            head[[end, end_instead_of]] = head[[end_instead_of, end]]
    network.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, *, add_bos: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TABLE])
    if add_bos:
        begin = [(BOS, tokenizer.token_to_id(BOS))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=begin)
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "tokenizer_class": "LlamaTokenizerFast",  # as published
        "add_bos_token": True,  # as published; only the class named above heeds it
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    return tokenizer


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "model_type": "deepseek_ocr2",
        "image_token_id": tokenizer.token_to_id("<image>"),
        "text_config": {
            "bos_token_id": tokenizer.token_to_id(BOS),
            "eos_token_id": tokenizer.token_to_id(EOS),
            "hidden_size": 32,
            "intermediate_size": 64,
            "max_position_embeddings": 8192,
            "mlp_layer_types": ["dense", "sparse"],
            "moe_intermediate_size": 16,
            "n_group": 1,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "num_attention_heads": 2,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "topk_group": 1,
            "topk_method": "greedy",
            "vocab_size": tokenizer.get_vocab_size(),
        },
        "vision_config": {
            "sam_config": {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "output_channels": 16,
                "global_attn_indexes": [],  # attention over all 4096 patches is most of the time
                "downsample_channels": [16, ENCODER["hidden_size"]],
            },
            "encoder_config": ENCODER | {"intermediate_size": 64, "vocab_size": 1},
        },
    }
