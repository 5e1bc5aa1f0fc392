"""The benchmark on a card ends with an error where any of its bars is missed."""

from __future__ import annotations

import asyncio
import copy
import gc
from typing import Any

import pytest

from bench.fixed_length import LoopWatch
from bench.gpu_bars import SAID, missed
from bench.gpu_stages import stage_times
from tests.conftest import eventually

#: Figures as the stages report them, all of them good enough.
GOOD: dict[str, list[dict[str, Any]]] = {
    "recipe": [{"pages": 512, "seconds": 128.0, "tokens": 463_000}, {"alone_s": [2.0, 2.4, 2.5]}],
    "scaling": [
        {"alone_s": [1.9, 2.4, 3.0]}, {"pages": 64, "seconds": 5.0}, {"pages": 256, "seconds": 11.0},
        {"pages": 1024, "seconds": 38.0}, {"pages": 4096, "seconds": 150.0}, {"pages_at_once": 8, "pages_s": 2.7},
    ],
    "png": [{"alone_s": [1.9, 2.0, 2.1]}, {"pages": 1024, "seconds": 40.0}, {"replayed": 1056, "disagreements": 0}],
    "daemon": [
        {"start_s": 90.0},
        {"pages": 4416, "seconds": 170.0, "steady": 26.0,
         "memory_mb": [[0, {"all": 5000}], [560, {"all": 10_000}], [4416, {"all": 10_900}]]},
        {"long_document_s": 6.4},
        {"busy": 0.95},
        {"documents": 4416, "done": 4416, "attempts": 0, "markdown": 4417},
        {"loop_p999_ms": 40.0, "loop_max_ms": 160.0},
        {"replayed": 4435, "disagreements": 0},
    ],
    "kill": [
        {"engine_back_s": 39.0}, {"first_page_s": 42.0}, {"pages": 256, "steady": 10.0, "memory_mb": []},
        {"documents": 256, "done": 256, "attempts": 0, "markdown": 256}, {"replayed": 300, "disagreements": 0},
    ],
    "presets": [{"preset": "24gb", "most_mib": 23_613}, {"preset": "8gb", "most_mib": 7_541}],
    # The guard is off there.
    "unguarded": [{"pages": 1024, "seconds": 40.0, "disagreements": 900}],
}  # fmt: skip


def test_good_figures_miss_no_bar() -> None:
    """Nor does a run of some stages, or none."""
    assert missed(GOOD) == missed({}) == []
    for stage, figures in GOOD.items():
        assert missed({stage: figures}) == []


@pytest.mark.parametrize(
    ("stage", "worse", "words"),
    [
        ("daemon", {"steady": 19.9}, "19.90 pages/s"),
        ("recipe", {"seconds": 55.0}, "2.79 x the recipe"),
        ("daemon", {"busy": 0.83}, "kernels run for 83.0% of the trace"),
        ("daemon", {"loop_p999_ms": 50.0}, "50 ms late"),
        ("daemon", {"long_document_s": 619.0}, "long document takes 619 s"),
        ("daemon", {"memory_mb": [[0, {"all": 5000}], [560, {"all": 9000}], [4416, {"all": 9901}]]}, "grew from 9,000"),
        ("daemon", {"memory_mb": [[0, {"all": 5}], [9, {"all": 9}], [99, {"all": 20}], [999, {"all": 9}]]}, "to 20 MB"),
        ("daemon", {"done": 4415}, "4415 are done"),
        ("daemon", {"done": 9, "reasons": [["no keywords", 4407]]}, "9 are done; of 4407: no keywords"),
        ("daemon", {"documents": 4415, "done": 4415}, "of 4416 documents 4415 ended"),
        ("daemon", {"attempts": 1}, "1 attempts failed"),
        ("daemon", {"markdown": 4000}, "4000 files of Markdown"),
        ("daemon", {"replayed": 3}, "only 3 answers were replayed"),
        ("daemon", {"disagreements": 1}, "disagrees on 1 pages"),
        ("daemon", {"failed": 1, "said": "Traceback"}, "daemon failed"),
        ("kill", {"done": 3}, "3 are done"),
        ("kill", {"attempts": 99}, "99 attempts failed"),
        ("scaling", {"alone_s": [2.0, 2.41, 2.5]}, "scaling: a page alone takes 2.41 s, the recipe's 2.40"),
        ("scaling", {"pages": 16_384, "seconds": 750.0}, "scaling: a page costs 35 ms, and 49 where the most are read"),
        ("png", {"alone_s": [2.5, 2.5, 2.6]}, "png: a page alone takes 2.50 s"),
        ("png", {"disagreements": 2}, "disagrees on 2 pages"),
        ("png", {"replayed": 1023}, "only 1023 answers"),
        ("presets", {"preset": "8gb", "most_mib": 7_847}, "preset 8gb: 7,847 MiB"),
        ("presets", {"preset": "24gb", "most_mib": 24_577}, "preset 24gb: 24,577 MiB"),
        ("presets", {"preset": "8gb", "most_mib": 0}, "preset 8gb: 0 MiB"),
        ("presets", {"preset": "8gb", "most_mib": 7_000, "failed": 1}, "presets failed"),
    ],
)
def test_each_bar_is_looked_at(stage: str, worse: dict[str, Any], words: str) -> None:
    """One figure that is too bad is one complaint, which names it."""
    figures = copy.deepcopy(GOOD)
    figures[stage].append(worse)
    [complaint] = missed(figures)
    assert words in complaint


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in SAID.items() for name in names])
def test_a_figure_that_is_not_there_is_no_good_one(stage: str, name: str) -> None:
    """A stage that ended early, or says it under another name, is one complaint."""
    figures = copy.deepcopy(GOOD)
    for one in figures[stage]:
        one.pop(name, None)
    complaints = missed(figures)
    assert f"{stage} said nothing of {name}" in complaints


def test_stage_times_are_those_of_a_page() -> None:
    """A trace of 5 s at 20 pages/s has a hundred pages; where a figure is not there nothing is said."""
    assert stage_times({"pages": 512, "seconds": 128.0}) == []
    times = stage_times(
        {"steady": 20.0, "trace_s": 5.0, "busy": 0.98, "kinds_ms": {"experts": 900.0, "attention": 4000.0}}
        | {"alone_s": [1.6, 1.7], "load_ms": 849.6, "document_s": 36.69}
    )
    assert times == [
        "a page alone 1.60, 1.70 s",
        "from file to tiles 850 ms, the wait for a core counted",
        "a document 36.7 s from its claim to its manifest, in the middle of all",
        "ms of the card a page: attention 40.0, experts 9.0, no kernel runs 1.0",
    ]


def test_growth_of_cost_needs_all_runs_and_a_full_card() -> None:
    """Of fewer runs nothing is told; while the card is not full another page is nearly free."""
    runs = [figures for figures in GOOD["scaling"] if "pages" in figures]
    [complaint] = missed({"scaling": [{"alone_s": [1.9]}, *runs[:3]]})
    assert complaint == "scaling: 3 numbers of pages were read, and not 4"
    few = [{"pages": pages, "seconds": seconds} for pages, seconds in ((4, 4.2), (16, 4.1), (64, 5.1), (256, 10.9))]
    assert missed({"scaling": [{"alone_s": [1.9]}, *few]}) == []


def test_a_stop_of_the_event_loop_is_late_for_all_its_beats() -> None:
    """One stop, a late beat for each 10 ms of it, the longest first."""
    watch = LoopWatch()
    watch.due = 100.0
    for now in (100.001, 100.162, 100.165, 100.171):
        watch.note_awake(now)
    assert watch.stops == [(100.0, 1.0), (100.01, 152.0), (100.17, 1.0)]
    assert [ms for _, ms in watch.late] == pytest.approx([1.0, *range(152, 0, -10), 1.0])
    assert watch.due == pytest.approx(100.18)


async def test_the_watch_beats_in_a_loop_that_runs_and_sees_the_collector() -> None:
    """Also one that is never late has a figure for each beat."""
    watch = LoopWatch()
    gc.callbacks.append(watch.note_look)
    watching = asyncio.create_task(watch.run())
    try:
        await eventually(lambda: len(watch.late) > 3)
        gc.collect()
    finally:
        watching.cancel()
        gc.callbacks.remove(watch.note_look)
    beats = [beat for beat, _ in watch.late]
    assert beats == sorted(set(beats))
    assert watch.looks[-1][1] > 0
