"""How much of a card the vLLM engine takes, and what it refuses before it starts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_ocr.engine.vllm_plan import (
    CPU_PLAN,
    GIB,
    KV_BYTES_PER_TOKEN,
    MAX_SEQS,
    PAGE_TOKENS,
    WEIGHTS_BYTES,
    Card,
    Plan,
    VllmSettings,
    capture_sizes,
    look_at_card,
    new_pages_together,
    plan_for,
)
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.prompt import AUTO, Mode

if TYPE_CHECKING:
    from pathlib import Path

H200 = Card("0", "NVIDIA H200", int(139.8 * GIB), int(139.2 * GIB))
L4 = Card("0", "NVIDIA L4", int(22.5 * GIB), int(22.2 * GIB))
RTX_3070 = Card("0", "NVIDIA GeForce RTX 3070", 8 * GIB, int(7.5 * GIB))


@pytest.mark.parametrize(
    ("card", "settings", "plan"),
    [
        (H200, VllmSettings(), Plan(MAX_SEQS, 16384, 0.9, "", 4)),
        (H200, VllmSettings(preset="24gb"), Plan(100, 4096, 0.1545, "", 2)),
        (H200, VllmSettings(preset="8gb"), Plan(10, 2048, 0.0435, "fp8")),
        (L4, VllmSettings(), Plan(100, 4096, 0.9, "", 2)),
        (RTX_3070, VllmSettings(), Plan(10, 2048, 0.7625, "fp8")),
        (replace(H200, free=13 * GIB), VllmSettings(), Plan(32, 4096, 0.083, "", 2)),
        (replace(H200, free=9 * GIB), VllmSettings(), Plan(10, 2048, 0.0435, "fp8")),
        (H200, VllmSettings(max_num_seqs=7), Plan(7, 16384, 0.9, "", 4)),
        (H200, VllmSettings(max_num_batched_tokens=4096), Plan(MAX_SEQS, 4096, 0.9, "", 4)),
        (H200, VllmSettings(gpu_memory_utilization=0.5), Plan(512, 16384, 0.5, "", 4)),
        (H200, VllmSettings(quantization="fp8"), Plan(MAX_SEQS, 16384, 0.9, "fp8", 4)),
        (L4, VllmSettings(preset="8gb", quantization="none", gpu_memory_utilization=0.5), Plan(10, 2048, 0.5, "")),
    ],
    ids=[
        "H200", "H200 as 24gb", "H200 as 8gb", "L4", "RTX 3070", "H200 nearly taken", "H200 with room for fp8",
        "own sequences", "own tokens", "own share", "own fp8", "8gb without fp8",
    ],
)  # fmt: skip
def test_what_is_taken_of_a_card(card: Card, settings: VllmSettings, plan: Plan) -> None:
    """By its free memory, held to a preset, and each value can be set."""
    assert plan_for(card, settings) == plan


@pytest.mark.parametrize(
    ("card", "settings"),
    [
        (Card("0", "NVIDIA H200", 140 * GIB, 3 * GIB), VllmSettings()),
        (Card("0", "NVIDIA T400", 4 * GIB, 4 * GIB), VllmSettings()),
        (RTX_3070, VllmSettings(quantization="none")),
        (H200, VllmSettings(gpu_memory_utilization=0.03)),
    ],
    ids=["taken", "small", "bf16 on 8 GB", "share too small"],
)
def test_a_card_that_cannot_hold_the_model_is_refused(card: Card, settings: VllmSettings) -> None:
    """One sentence with the figures and the remedies, before a minute of loading."""
    with pytest.raises(EngineStartError, match=r"does not fit on NVIDIA .* GiB.*stop what else uses the card"):
        plan_for(card, settings)


@given(total=st.integers(6, 300), free=st.integers(1, 300), preset=st.sampled_from(["auto", "24gb", "8gb"]))
def test_a_plan_fits_into_what_is_free(total: int, free: int, preset: str) -> None:
    """Weights and every sequence of an ordinary page, in what the card has left."""
    card = Card("0", "any", total * GIB, min(free, total) * GIB)
    try:
        plan = plan_for(card, VllmSettings(preset=preset))  # type: ignore[arg-type]
    except EngineStartError:
        return
    taken = plan.gpu_memory_utilization * card.total
    assert taken <= card.free + 0.001 * card.total
    needed = WEIGHTS_BYTES[plan.quantization] + plan.max_num_seqs * PAGE_TOKENS * KV_BYTES_PER_TOKEN
    assert needed <= taken
    assert 1 <= plan.max_num_seqs <= MAX_SEQS


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the driver's command, first on the path; it answers what a test writes into `answer`."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/answer\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("gpu", "visible", "card"),
    [(0, None, "0"), (3, None, "3"), (1, "2,5", "5"), (0, "GPU-7f, 1", "GPU-7f")],
    ids=["first", "fourth", "second of those shown", "by UUID"],
)
def test_the_card_is_the_one_that_was_asked_for(
    smi: Path, monkeypatch: pytest.MonkeyPatch, gpu: int, visible: str | None, card: str
) -> None:
    """`engine.gpu` counts as the driver does, or within the cards that CUDA_VISIBLE_DEVICES leaves."""
    (smi / "answer").write_text("NVIDIA H200, 143771, 143156\n", encoding="utf-8")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert look_at_card(gpu) == Card(card, "NVIDIA H200", 143771 << 20, 143156 << 20)
    assert f"--id={card}" in (smi / "asked").read_text(encoding="utf-8")


def test_a_card_that_is_not_there_is_told_with_the_drivers_words(smi: Path) -> None:
    """The operator sees what nvidia-smi would say."""
    (smi / "answer").write_text("No devices were found\n", encoding="utf-8")
    with pytest.raises(EngineStartError, match=r"'No devices were found'; `nvidia-smi -L` lists the cards"):
        look_at_card(9)


@pytest.mark.usefixtures("smi")
def test_a_number_beyond_the_cards_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where none is: an empty CUDA_VISIBLE_DEVICES hides them all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineStartError, match=r"engine.gpu is 0, but CUDA_VISIBLE_DEVICES shows 0"):
        look_at_card(0)


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a card is told what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(EngineStartError, match='nvidia-smi is not there; install the driver, or set backend = "cpu"'):
        look_at_card(0)


def test_small_engines_do_not_wait_for_several_pages() -> None:
    """A place is a tenth of the engine there; with 896 pages at once four are awaited."""
    assert [new_pages_together(pages) for pages in (1, 10, 100, 447, 448, 896)] == [1, 1, 1, 1, 2, 4]


@given(pages=st.integers(1, 2000), tokens=st.integers(1, 20_000))
def test_captured_steps_waste_little(pages: int, tokens: int) -> None:
    """Each step up to that of the new pages beside all others has a graph at most an eighth, or 8 tokens, larger."""
    sizes = capture_sizes(Plan(pages, tokens, 0.9, ""))
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == min(tokens, pages + (new_pages_together(pages) + 1) * 960)
    for smaller, larger in itertools.pairwise(sizes):
        assert larger - smaller <= max(8, larger / 8)


def test_graphs_for_a_mode_that_is_chosen_for_each_page() -> None:
    """Where pages get base or gundam, the encoder is made ready for both, as gundam has the view of base."""
    assert CPU_PLAN.encoder(AUTO) == CPU_PLAN.encoder(Mode.GUNDAM)
    assert CPU_PLAN.encoder(AUTO) != CPU_PLAN.encoder(Mode.BASE)
