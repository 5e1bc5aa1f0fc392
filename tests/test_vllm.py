"""What the vLLM engine refuses without vLLM: the missing package, foreign tokenizers."""

from __future__ import annotations

import pytest

from deepseek_ocr.engine.vllm import VllmEngine
from deepseek_ocr.engine.vllm_input import PUBLISHED_IDS, PUBLISHED_VOCABULARY, resolve_ids
from deepseek_ocr.errors import EngineStartError


class Tokenizer:
    """As much of a tokenizer as is looked at."""

    def __init__(self, ids: dict[str, int]) -> None:
        self._ids = ids

    def get_vocab(self) -> dict[str, int]:
        """All tokens."""
        return self._ids


def test_without_vllm_the_engine_says_how_to_get_it() -> None:
    """The package is not part of the default installation."""
    with pytest.raises(
        EngineStartError, match=r"vLLM is not installed; install it with `pip install 'ocr-daemon\[vllm\]'`"
    ):
        VllmEngine("deepseek-ai/DeepSeek-OCR")


def test_ids_of_a_published_tokenizer() -> None:
    """They are what the weights were trained with."""
    assert resolve_ids(Tokenizer(dict(PUBLISHED_IDS)), PUBLISHED_VOCABULARY) == PUBLISHED_IDS


def test_ids_that_differ_are_refused() -> None:
    """Another tokenizer beside the weights would read every page as nonsense."""
    ids = {**PUBLISHED_IDS, "<image>": 7}
    with pytest.raises(
        EngineStartError, match=r"<image> is 7 instead of 128815; take tokenizer\.json from the same place"
    ):
        resolve_ids(Tokenizer(ids), PUBLISHED_VOCABULARY)


def test_missing_tokens_are_refused() -> None:
    """The tags of the answer must be tokens of their own."""
    ids = {token: number for token, number in PUBLISHED_IDS.items() if token not in {"<|ref|>", "<td>"}}
    with pytest.raises(EngineStartError, match=r"does not know <\|ref\|>, <td>"):
        resolve_ids(Tokenizer(ids), PUBLISHED_VOCABULARY)


def test_a_model_with_a_vocabulary_of_its_own_names_its_tokens_as_it_likes() -> None:
    """A reduced model is no damaged one: the ids come from its tokenizer."""
    ids = {token: index for index, token in enumerate(PUBLISHED_IDS)}
    assert resolve_ids(Tokenizer(ids), 512) == ids
