"""What of the vLLM engine needs no vLLM: its configuration, a package that is missing, foreign tokenizers."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from daemon.config import Settings
from daemon.engines import build_engine
from deepseek_ocr.engine.vllm import VllmEngine, vllm_version
from deepseek_ocr.engine.vllm_input import PUBLISHED_IDS, PUBLISHED_VOCABULARY, resolve_ids
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import Mode


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
        EngineStartError, match=r"vLLM is not installed; install vLLM from the checkout, .*`pip install '\.\[vllm\]'`"
    ):
        VllmEngine("deepseek-ai/DeepSeek-OCR")


def test_the_extra_asks_for_the_versions_below() -> None:
    """Another range in pyproject.toml wants another `ALLOWED_VLLM`."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["vllm"] == ["vllm>=0.25.1,!=0.26.*,!=0.27.*,<0.29"]


@pytest.mark.parametrize("version", ["0.25.1", "0.25.2+cu130", "0.25.10", "0.28", "0.28.0", "0.28.0rc1", "0.28.1+cpu"])
def test_a_vllm_of_the_extra_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Nothing is loaded for that."""
    _pretend_vllm(tmp_path, monkeypatch, version)
    assert vllm_version() == version


@pytest.mark.parametrize(
    "version", ["0.24.0", "0.25.0", "0.25.1rc1", "0.25.1.dev3", "0.26.0", "0.27.1", "0.29.0", "0.33.0", "1.0"]
)
def test_another_vllm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Its inner methods are replaced, which may go wrong unseen."""
    _pretend_vllm(tmp_path, monkeypatch, version)
    with pytest.raises(
        EngineStartError, match=rf"0\.25\.1 and 0\.28, not with the installed {version}; install vLLM from"
    ):
        VllmEngine("deepseek-ai/DeepSeek-OCR")


def _pretend_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Its metadata, which is all that is looked at before it is loaded."""
    (folder / f"vllm-{version}.dist-info").mkdir()
    (folder / f"vllm-{version}.dist-info" / "METADATA").write_text(
        f"Name: vllm\nVersion: {version}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(folder)


def test_the_configuration_reaches_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Card, mode and all of [engine.vllm]; vLLM is not loaded for that, only looked for."""
    _pretend_vllm(tmp_path, monkeypatch, "0.25.1")
    smi = tmp_path / "nvidia-smi"
    # Of other cards it knows nothing.
    smi.write_text('#!/bin/sh\n[ "$3" = --id=1 ] && echo "NVIDIA H200, 143360, 143000"\n', encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    wanted = {
        "preset": "24gb", "max_num_seqs": 33, "max_num_batched_tokens": 5000, "gpu_memory_utilization": 0.2,
        "quantization": "fp8", "hang_s": 7.0,
    }  # fmt: skip
    settings = Settings.model_validate({"engine": {"backend": "vllm", "gpu": 1, "mode": "small", "vllm": wanted}})
    _, engine = build_engine(settings)
    assert isinstance(engine, VllmEngine)
    assert asdict(engine.settings) == wanted
    assert engine.info.mode is Mode.SMALL
    assert str(engine.plan) == "33 pages at once, 5000 tokens a step, 0.200 of the card, fp8 weights"
    assert engine.health().detail == "not started"


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
