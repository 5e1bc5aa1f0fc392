"""Which model a folder holds, and whether it holds it whole."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest

from deepseek_ocr.engine.model_folder import check_folder, is_version_2
from deepseek_ocr.errors import EngineStartError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("model", ["{folder}", "{folder}/missing", "./missing", "~/missing", "a/b/c"])
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
    "nested too deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
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


def test_weights_that_the_index_names_are_looked_for(tmp_path: Path) -> None:
    """One that did not arrive is named; one that the index does not know is nobody's."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}), encoding="utf-8")
    (tmp_path / "1.safetensors").write_bytes(WHOLE)
    (tmp_path / "other.safetensors").write_bytes(WHOLE[:-1])
    check_folder(str(tmp_path))
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}), encoding="utf-8")
    with pytest.raises(EngineStartError, match=r"2\.safetensors cannot be read: No such file"):
        check_folder(str(tmp_path))
    index.write_text("[]", encoding="utf-8")
    with pytest.raises(EngineStartError, match=r"index\.json cannot be read, or is no index of weights"):
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
