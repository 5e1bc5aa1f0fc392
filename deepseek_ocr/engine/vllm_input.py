"""What goes into vLLM for a page: the special tokens of the model, and the ready prompt with its picture."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import IMAGE_TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepseek_ocr.tile_memory import StoredTiles
    from deepseek_ocr.tiles import Tiles

BOS: Final = "<｜begin▁of▁sentence｜>"  # noqa: RUF001 - as published
EOS: Final = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - as published
#: Ids of the published tokenizer (tokenizer.json of deepseek-ai/DeepSeek-OCR); what a vocabulary of the published
#: size calls otherwise is another tokenizer than the weights were trained with.
PUBLISHED_IDS: Final = {
    BOS: 0, EOS: 1, IMAGE_TOKEN: 128815, "<|ref|>": 128816, "<|/ref|>": 128817, "<|det|>": 128818, "<|/det|>": 128819,
    "<|grounding|>": 128820, "<td>": 128821, "</td>": 128822,
}  # fmt: skip
PUBLISHED_VOCABULARY: Final = 129_280


def resolve_ids(tokenizer: Any, vocabulary_size: int) -> dict[str, int]:
    """The ids of the special tokens; raises `EngineStartError` where they are not those of the weights."""
    known = tokenizer.get_vocab()
    ids = {token: known.get(token) for token in PUBLISHED_IDS}
    missing = [token for token, number in ids.items() if number is None]
    if missing:
        raise EngineStartError(
            f"the model's tokenizer does not know {', '.join(missing)}; take tokenizer.json from the same place as the "
            f"weights"
        )
    wrong = [
        f"{token} is {ids[token]} instead of {number}"
        for token, number in PUBLISHED_IDS.items()
        if vocabulary_size == PUBLISHED_VOCABULARY and ids[token] != number
    ]
    if wrong:
        raise EngineStartError(
            f"the model's tokenizer is another one than its weights were trained with: {', '.join(wrong)}; take "
            f"tokenizer.json from the same place as the weights"
        )
    return {token: number for token, number in ids.items() if number is not None}


@lru_cache(maxsize=64)
def token_ids(tokenizer: Any, words: str) -> tuple[int, ...]:
    """The tokens of the words behind a picture, which are the same for nearly all pages."""
    return tuple(tokenizer.encode(words, add_special_tokens=False))


def ready_prompt(tiles: Tiles | StoredTiles, ids: dict[str, int], prompt_ids: Sequence[int], name: str) -> Any:
    """A page as vLLM's engine takes it, nothing left to process: BOS, the picture's places, the prompt, and pixels.

    Of stored tiles only their address travels (`vllm_pixels.py`).
    """
    import torch  # noqa: PLC0415 - loaded with vLLM
    from transformers import BatchFeature  # noqa: PLC0415 - the same
    from vllm.inputs.engine import mm_input  # noqa: PLC0415 - the same
    from vllm.multimodal.inputs import (  # noqa: PLC0415 - the same
        MultiModalFieldConfig,
        MultiModalKwargsItems,
        PlaceholderRange,
    )

    from deepseek_ocr.engine.vllm_pixels import address  # noqa: PLC0415 - needs torch
    from deepseek_ocr.tile_memory import StoredTiles  # noqa: PLC0415 - a type above

    count = tiles.token_count
    # The model looks at it without waiting for the card.
    on_host = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
    # Plain numbers: each call into torch gives up the interpreter's lock, and the event loop waits to get it back.
    features: dict[str, Any] = {"images_spatial_crop": [list(tiles.grid)]}
    fields = {"images_spatial_crop": on_host}
    if isinstance(tiles, StoredTiles):
        features["pixel_addresses"] = [address(tiles)]
        fields["pixel_addresses"] = on_host
    else:
        features["pixel_values"] = torch.from_numpy(tiles.view)[None]
        features["images_crop"] = torch.from_numpy(tiles.crops)
        fields["pixel_values"] = MultiModalFieldConfig.batched("image")
        fields["images_crop"] = MultiModalFieldConfig.flat_from_sizes("image", torch.tensor([len(tiles.crops)]))
    return mm_input(
        [ids[BOS], *[ids[IMAGE_TOKEN]] * count, *prompt_ids],
        MultiModalKwargsItems.from_hf_inputs(BatchFeature(features), fields),
        # Pages do not repeat, so their number is as good as a hash of ten megabytes.
        {"image": [name]},
        {"image": [PlaceholderRange(offset=1, length=count)]},
    )
