"""What the transformers engine refuses before it needs torch; the rest is in vllm_cpu/test_transformers.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine import Choice, build
from deepseek_ocr.engine.transformers import CPU_BATCH, CUDA_BATCH, TransformersEngine
from deepseek_ocr.engine.transformers_config import V2_IDS, TransformersSettings, check_model, kind_of, native_config
from deepseek_ocr.errors import EngineDeadError, EngineStartError
from deepseek_ocr.prompt import Options, Task

if TYPE_CHECKING:
    from pathlib import Path

V1: dict[str, Any] = {"model_type": "deepseek_vl_v2", "architectures": ["DeepseekOCRForCausalLM"]}
#: config.json of deepseek-ai/DeepSeek-OCR-2, without what is said twice there.
PUBLISHED: dict[str, Any] = {
    "architectures": ["DeepseekOCR2ForCausalLM"],
    "model_type": "deepseek_vl_v2",
    "language_config": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "kv_lora_rank": None,
        "lm_head": True,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 896,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "topk_method": "greedy",
        "torch_dtype": "bfloat16",
        "use_mla": False,
        "vocab_size": 129280,
    },
    "vision_config": {
        "width": {
            "qwen2-0-5b": {"dim": 896},
            "sam_vit_b": {
                "downsample_channels": [512, 896],
                "global_attn_indexes": [2, 5, 8, 11],
                "heads": 12,
                "layers": 12,
                "width": 768,
            },
        }
    },
}


def folder(path: Path, config: object) -> str:
    """A model folder with this configuration."""
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return str(path)


def page(*, ink: float = 0.1, pixels: bool = True) -> PageImage:
    """A small page."""
    return PageImage(0, 8, 8, "px", np.zeros((8, 8, 3), np.uint8) if pixels else None, ink)


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-OCR", "deepseek-ai/deepseek-ocr/"])
async def test_first_generation_is_refused(model: str) -> None:
    """Asked for the first DeepSeek-OCR, the start says which engine loads it and which models load here."""
    engine = TransformersEngine(model=model)
    with pytest.raises(EngineStartError, match='backend = "vllm"') as caught:
        await engine.start()
    assert all(known in str(caught.value) for known in V2_IDS)
    assert not engine.health().ok


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (V1, r'no class: set backend = "vllm" under \[engine\], or model to deepseek-community/DeepSeek-OCR-2'),
        ({"model_type": "deepseek_vl_v2"}, 'backend = "vllm"'),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, r"is no DeepSeek-OCR-2 \(model_type 'llama'"),
        ({}, "is no DeepSeek-OCR-2"),
        ([], "is no DeepSeek-OCR-2"),
        ("{", r"cannot be read \(.*\): download the folder again"),
    ],
    ids=["first generation", "its model_type", "another model", "nothing", "no object", "torn"],
)
def test_folder_of_another_model_is_refused(tmp_path: Path, config: object, message: str) -> None:
    """A folder is judged by its configuration, whatever its name."""
    with pytest.raises(EngineStartError, match=message):
        check_model(folder(tmp_path / "DeepSeek-OCR-2", config))


@pytest.mark.parametrize("model", ["/no/such/folder", "./models", "~no/such", "a/b/c", "models"])
def test_missing_folder_is_named(model: str) -> None:
    """What can only be a folder, and is none, is not looked for on the hub."""
    with pytest.raises(EngineStartError, match=f"the model folder {model} does not exist: correct engine.model"):
        check_model(model)


def test_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    """A folder without config.json is told apart from a missing one."""
    with pytest.raises(EngineStartError, match=r"has no config\.json"):
        check_model(str(tmp_path))


def test_both_copies_of_the_second_generation_pass(tmp_path: Path) -> None:
    """The ids, and folders with the published or the converted configuration, are not refused."""
    for model in V2_IDS:
        check_model(model)
    check_model(folder(tmp_path / "published", PUBLISHED))
    check_model(folder(tmp_path / "native", native_config(PUBLISHED)))
    assert (kind_of(PUBLISHED, ""), kind_of(native_config(PUBLISHED), "")) == ("published", "native")


def test_published_configuration_is_translated() -> None:
    """One dense layer and eleven of experts, and the sizes of both vision towers; latent attention is left out."""
    config = native_config(PUBLISHED)
    assert config["text_config"]["mlp_layer_types"] == ["dense"] + ["sparse"] * 11
    assert (config["text_config"]["hidden_size"], config["text_config"]["n_routed_experts"]) == (1280, 64)
    assert not {"kv_lora_rank", "use_mla", "first_k_dense_replace", "torch_dtype"} & config["text_config"].keys()
    assert config["vision_config"]["sam_config"]["downsample_channels"] == [512, 896]
    assert config["vision_config"]["encoder_config"]["hidden_size"] == 896


def install(folder: Path, **packages: str) -> None:
    """Have packages look installed, as their metadata tells."""
    for name, version in packages.items():
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ({}, "needs torch and transformers; install it from the checkout, with `make install ENGINE=vllm`"),
        ({"transformers": "5.23.0"}, "needs torch; install it"),
        (
            {"torch": "2.13.0", "transformers": "4.46.3"},
            r"transformers 4\.46\.3 does not know DeepSeek-OCR-2, 5\.10\.1 is",
        ),
        ({"torch": "2.13.0", "transformers": "5.9.0"}, r"transformers 5\.9\.0 does not know"),
    ],
    ids=["none", "no torch", "of the first generation", "one too old"],
)
async def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], message: str
) -> None:
    """Without torch or a transformers that knows the model, the start says what to install."""
    install(tmp_path, **packages)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineStartError, match=message):
        await TransformersEngine(model=V2_IDS[0]).start()


async def test_page_needs_a_started_engine() -> None:
    """A page before the start meets a dead engine, a page without ink none at all, a task beyond it an error."""
    engine = TransformersEngine(model=V2_IDS[0])
    with pytest.raises(EngineDeadError, match="not started"):
        await engine.recognize(page(), Options())
    with pytest.raises(ValueError, match="needs the pixels"):
        await engine.recognize(page(pixels=False), Options())
    with pytest.raises(ValueError, match="cannot do"):
        await engine.recognize(page(), Options(Task.DESCRIBE))
    blank = await engine.recognize(page(ink=0), Options())
    assert (blank.text, blank.finish_reason) == ("", "stop")
    await engine.stop()
    await engine.stop()


@pytest.mark.parametrize(
    ("device", "gpu", "precision"), [("cpu", 0, "float32"), ("cuda", 3, "bfloat16")], ids=["processor", "card"]
)
def test_settings_choose_the_device(device: Literal["cpu", "cuda"], gpu: int, precision: str) -> None:
    """The engine is built for the device and with the pages at once that are set."""
    settings = TransformersSettings(device=device, batch_size=3)
    engine = build(Choice("transformers", "it is set"), model=V2_IDS[0], gpu=gpu, transformers=settings)
    assert (engine.info.name, engine.info.capacity) == ("transformers", 6)
    assert engine.info.model.endswith(precision)
    assert f"on {'cuda:3' if device == 'cuda' else 'cpu'}" in engine.health().detail


def test_info_tells_what_reads() -> None:
    """The model, the version and the precision are known before the start; a card gets more pages at once."""
    cpu = TransformersEngine(model=V2_IDS[0]).info
    card = TransformersEngine(model=V2_IDS[0], gpu=3).info
    assert (cpu.name, cpu.needs, cpu.mode) == ("transformers", "pixels", None)
    assert cpu.tasks == {Task.DOCUMENT, Task.FREE, Task.CUSTOM}
    assert cpu.model.startswith(f"{V2_IDS[0]} transformers-")
    assert (cpu.model.split()[-1], card.model.split()[-1]) == ("float32", "bfloat16")
    assert (cpu.capacity, card.capacity) == (2 * CPU_BATCH, 2 * CUDA_BATCH)
