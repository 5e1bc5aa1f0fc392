"""A vLLM plugin of the tests: vision towers of a few layers, for vLLM's DeepSeek-OCR, 1 and 2, and what is made of it.

vLLM finds it by the entry point in the folder beside it, which is on PYTHONPATH, and calls `register` in each of its
processes.  Everything but the number of layers is vLLM's own: widths, picture sizes, tokens, weight loader.
"""

from __future__ import annotations

import os
from functools import partial

#: Set where the towers are to be shallow.
VARIABLE = "SHALLOW_TOWERS"
#: Instead of 12 blocks, of which 4 see the whole picture, and 24 layers.
SAM_BLOCKS, SAM_GLOBAL_BLOCKS, CLIP_LAYERS = 2, (1,), 1


def register() -> None:
    """Give the model's module other builders; doing it again changes nothing."""
    if VARIABLE not in os.environ:
        return
    from transformers import CLIPVisionConfig  # noqa: PLC0415 - seconds, and only where a model is built
    from vllm.model_executor.models import deepencoder, deepseek_ocr, deepseek_ocr2  # noqa: PLC0415 - the same
    from vllm.model_executor.models.deepencoder2 import build_qwen2_decoder_as_encoder  # noqa: PLC0415 - the same

    def clip(**values: object) -> CLIPVisionConfig:
        return CLIPVisionConfig(**{**values, "num_hidden_layers": CLIP_LAYERS})

    deepseek_ocr.build_sam_vit_b = partial(deepencoder._build_sam, 768, SAM_BLOCKS, 12, list(SAM_GLOBAL_BLOCKS))  # noqa: SLF001 - what vLLM's builder calls
    deepseek_ocr.CLIPVisionConfig = clip

    def sam(**values: object) -> object:
        shallow = {"depth": SAM_BLOCKS, "global_attn_indexes": SAM_GLOBAL_BLOCKS}
        return deepencoder.ImageEncoderViT(**{**values, **shallow})

    deepseek_ocr2.ImageEncoderViT = sam
    deepseek_ocr2.build_qwen2_decoder_as_encoder = partial(build_qwen2_decoder_as_encoder, decoder_layer=CLIP_LAYERS)
