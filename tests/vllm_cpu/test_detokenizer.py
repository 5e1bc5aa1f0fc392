"""The text of bundles of tokens against vLLM's own incremental detokenizer, which takes one at a time."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

from bench.dummy_model import write_tokenizer
from deepseek_ocr.engine.detokenizer import REPLACEMENT, Detokenizer
from deepseek_ocr.engine.vllm_input import EOS
from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL
from deepseek_ocr.prompt import IMAGE_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

#: Characters of one to four bytes, the sign for bytes that are no character, and tokens that are words of their own.
TEXT = (
    "<|ref|>title<|/ref|> Grüße, naïve — 表紙 \N{MATHEMATICAL FRAKTUR CAPITAL U}\U0001f642 \N{REPLACEMENT CHARACTER}"
    f"{IMAGE_TOKEN}<td>1</td>\n"
)
#: Each bundle in turn: all that are sent at once, none, and few, as the first and the last of an answer.
BUNDLES = (1, STREAM_INTERVAL, 0, 2, 3, 5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token for each byte, as any tokenizer of bytes has, and the published special ones."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def theirs(tokenizer: Any, ids: list[int]) -> str:
    """What vLLM makes of an answer that ended by itself."""
    params = SamplingParams(skip_special_tokens=False)
    request: Any = SimpleNamespace(sampling_params=params, prompt_token_ids=[0, 5, 6], request_id="page")
    detokenizer = FastIncrementalDetokenizer(tokenizer, request)
    detokenizer.update(list(ids), stop_terminated=True)
    return str(detokenizer.get_next_output_text(finished=True, delta=False))


def ours(tokenizer: Any, ids: list[int]) -> tuple[str, list[tuple[int, str]]]:
    """The text, and what there was of it after so many tokens."""
    detokenizer = Detokenizer(tokenizer, tokenizer.convert_tokens_to_ids(EOS))
    text, told = "", []
    position = turn = 0
    while position < len(ids):
        count = BUNDLES[turn % len(BUNDLES)]
        text += detokenizer.feed(ids[position : position + count])
        position += count
        told.append((position, text))
        turn += 1
    return text + detokenizer.finish(), told


def test_the_text_is_that_of_vllm(tokenizer: Any) -> None:
    """Wherever a bundle ends, also within a character; and all but an unfinished character comes at once."""
    eos = tokenizer.convert_tokens_to_ids(EOS)
    for start in range(sum(BUNDLES)):
        ids = [*tokenizer.encode("x" * start + TEXT * 3, add_special_tokens=False), eos]
        text, told = ours(tokenizer, ids)
        assert text == theirs(tokenizer, ids) == "x" * start + TEXT * 3
        for count, so_far in told:
            whole = tokenizer.decode(ids[:count], skip_special_tokens=False).removesuffix(EOS)
            assert so_far == whole.rstrip(REPLACEMENT)


def test_bytes_that_are_no_text_are_those_of_vllm(tokenizer: Any) -> None:
    """What a model stammers, and an answer that was cut off within a character."""
    chosen = random.Random(1)  # noqa: S311 - bytes, not secrets
    alphabet = tokenizer.encode("\N{MATHEMATICAL FRAKTUR CAPITAL U}表ü", add_special_tokens=False)
    eos = tokenizer.convert_tokens_to_ids(EOS)
    told = 0
    for _ in range(500):
        ids = [*chosen.choices([*alphabet, *tokenizer.encode("ab")], k=chosen.randint(1, 90)), eos]
        text, _ = ours(tokenizer, ids)
        assert text == theirs(tokenizer, ids)
        told += len(text)
    assert told > 500


def test_the_token_that_ends_answers_is_a_word_within_a_bundle(tokenizer: Any) -> None:
    """Where a benchmark lets the model go on, it is text like any other."""
    eos = tokenizer.convert_tokens_to_ids(EOS)
    a, b = tokenizer.encode("ab", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, eos)
    assert detokenizer.feed([a, eos, b, eos]) == f"a{EOS}b"
    assert not detokenizer.finish()
