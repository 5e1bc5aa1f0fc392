"""What the vLLM engine refuses without vLLM: the missing package, folders that hold no model, foreign tokenizers."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.engine.model_folder import check_folder, is_version_2
from deepseek_ocr.engine.vllm import VllmEngine
from deepseek_ocr.engine.vllm_input import PUBLISHED_IDS, PUBLISHED_VOCABULARY, resolve_ids
from deepseek_ocr.errors import EngineStartError

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("model", ["{folder}", "{folder}/missing", "./missing", "~/missing"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, model: str) -> None:
    """A path is told from a hub id, and the sentence names the file that is missing."""
    with pytest.raises(EngineStartError, match=r"is the folder .*there is no config.json in it"):
        check_folder(model.format(folder=tmp_path))


def safetensors(tensors: dict[str, int]) -> bytes:
    """A file with tensors of so many bytes each."""
    ends = [*accumulate(tensors.values())]
    header = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [end - size, end]}
        for (name, size), end in zip(tensors.items(), ends, strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(ends[-1])


def test_a_model_folder_and_a_hub_id_pass(tmp_path: Path) -> None:
    """A hub id is vLLM's to find; weights may be in several files, and benchmarks have none."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    check_folder(str(tmp_path), weights=False)
    for number in range(2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(safetensors({"a": 40, "b": 7}))
    check_folder(str(tmp_path))
    check_folder("deepseek-ai/DeepSeek-OCR")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """The sentence says what is missing, and how to get it."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        EngineStartError, match=r"there are no weights in it \(\*.safetensors, .*; download the model again"
    ):
        check_folder(str(tmp_path))


WHOLE = safetensors({"a": 40, "b": 7})
BROKEN = {
    "cut off": WHOLE[:-1],
    "cut off in its header": WHOLE[:30],
    "empty": b"",
    "longer": WHOLE + b"x",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 6672547120\n",
    "no header": (2).to_bytes(8, "little") + b"[]",
    "no number": (32).to_bytes(8, "little") + b'{"a": {"data_offsets": [0, "7"]}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_weights_that_did_not_arrive_whole_are_refused(tmp_path: Path, content: bytes) -> None:
    """Before anything is loaded, and with the file's name."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model-1.safetensors").write_bytes(WHOLE)
    (tmp_path / "model-2.safetensors").write_bytes(content)
    with pytest.raises(EngineStartError, match=r"model-2\.safetensors is cut off, or no safetensors file; download"):
        check_folder(str(tmp_path))


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """The folder of a hub's cache holds links, whose files may have been removed."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(EngineStartError, match=r"model\.safetensors cannot be read: No such file or directory"):
        check_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("architectures", "second"),
    [(["DeepseekOCRForCausalLM"], False), (["DeepseekOCR2ForCausalLM"], True), (["DeepseekOcr2ForConditional"], True),
     (None, False)],
    ids=["1", "2", "2 of transformers", "none"],
)  # fmt: skip
def test_versions_of_folders(tmp_path: Path, architectures: list[str] | None, *, second: bool) -> None:
    """By the architecture in config.json, whatever the folder is called."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}), encoding="utf-8")
    assert is_version_2(str(tmp_path)) is second


def test_versions_of_hub_ids() -> None:
    """By the name, as nothing has been fetched yet."""
    assert is_version_2("deepseek-ai/DeepSeek-OCR-2")
    assert not is_version_2("deepseek-ai/DeepSeek-OCR")


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
