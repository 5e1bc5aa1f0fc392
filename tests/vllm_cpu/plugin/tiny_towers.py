"""A vLLM plugin of the tests: tiny vision towers, for vLLM's DeepSeek-OCR, 1 and 2, and what is made of it.

vLLM finds it by the entry point in the folder beside it, which is on PYTHONPATH, and calls `register` in each of its
processes.  SAM has few layers and heads (at its full width a page took two cores 15 s), CLIP one layer; all else is
vLLM's own: picture sizes, tokens, what SAM hands on, weight loader.
"""

from __future__ import annotations

import os
from functools import partial

#: Set where the towers are to be tiny.
VARIABLE = "TINY_TOWERS"
#: Instead of 12 blocks, of which 4 see the whole picture, and 24 layers.
SAM_BLOCKS, SAM_GLOBAL_BLOCKS, CLIP_LAYERS = 2, (1,), 1
#: Instead of 12 heads, each of the same 64 dimensions.
SAM_HEADS, SAM_WIDTH = 2, 128


def register() -> None:
    """Give the model's module other builders; doing it again changes nothing."""
    if VARIABLE not in os.environ:
        return
    from transformers import CLIPVisionConfig  # noqa: PLC0415 - seconds, and only where a model is built
    from vllm.model_executor.models import deepencoder, deepseek_ocr, deepseek_ocr2  # noqa: PLC0415 - the same
    from vllm.model_executor.models.deepencoder2 import build_qwen2_decoder_as_encoder  # noqa: PLC0415 - the same

    def clip(**values: object) -> CLIPVisionConfig:
        return CLIPVisionConfig(**{**values, "num_hidden_layers": CLIP_LAYERS})

    deepseek_ocr.build_sam_vit_b = partial(
        deepencoder._build_sam,  # noqa: SLF001 - what vLLM's builder calls
        SAM_WIDTH, SAM_BLOCKS, SAM_HEADS, list(SAM_GLOBAL_BLOCKS),
    )  # fmt: skip
    deepseek_ocr.CLIPVisionConfig = clip

    def sam(**values: object) -> object:
        tiny = {"depth": SAM_BLOCKS, "global_attn_indexes": SAM_GLOBAL_BLOCKS}
        return deepencoder.ImageEncoderViT(**{**values, **tiny, "embed_dim": SAM_WIDTH, "num_heads": SAM_HEADS})

    deepseek_ocr2.ImageEncoderViT = sam
    deepseek_ocr2.build_qwen2_decoder_as_encoder = partial(build_qwen2_decoder_as_encoder, decoder_layer=CLIP_LAYERS)
