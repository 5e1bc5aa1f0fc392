"""Pages a second against pages at once, and where a page's time goes: two pictures from the figures in `figures.json`.

`python -m bench.plots` draws `throughput.png` and `page.png` beside them.  The figures are written by
`--scaling FILE`, what `bench.gpu --stages recipe,scaling` printed, and by `--trace FOLDER --pages-s RATE`: a folder
with trace.json (`BENCH_TRACE` of `bench.gpu`) and core.txt (`py-spy record -f raw` of the engine core meanwhile).
Either wants `--conditions`, which become the title.

Residual risks: a trace cannot tell the encoder's products from the decoder's, so what `bench.encoder` measures of a
page by itself is taken off each kind of kernel; pages are not counted in a trace but reckoned from their speed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIGURES = HERE / "figures.json"
#: Kinds of `bench.trace` under the names of the picture; all others are the rest.
CARD = {
    "attention": "decoder: attention",
    "matrices": "decoder: products",
    "experts": "decoder: experts",
}
ENCODER, IDLE, REST = "encoder", "no kernel runs", "all else"
#: In each stack of the engine core's main thread.
CORE_LOOP = "run_busy_loop"
#: What that does: the first that any frame of its stack matches.
CORE = {
    "reports tokens": r"update_from_output",
    "schedules": r"Scheduler\.schedule |\.schedule \(",
    "inputs of a step": r"_prepare_inputs|update_states|_build_attention_metadata|_get_slot_mappings",
    "pictures": r"_preprocess|_execute_mm_encoder",
    "samples": r"sample_tokens",
    "waits for the card": r"get_output|AsyncOutputFuture",
}
#: Width and height in inches, and dots of each.
SIZE, DPI = (7.0, 3.8), 110


def from_scaling(printed: str, conditions: str) -> dict[str, Any]:
    """The speeds in what `bench.gpu` printed; the recipe's where it was measured as well."""
    speeds: dict[int, float] = {}
    found: dict[str, Any] = {"conditions": conditions}
    for stage, figures in re.findall(r"^(recipe|scaling): (\{.*\}) \(", printed, re.MULTILINE):
        one = json.loads(figures)
        if stage == "recipe" and "seconds" in one:
            found["recipe"] = round(one["pages"] / one["seconds"], 2)
        elif stage == "scaling" and "pages_at_once" in one:
            speeds[one["pages_at_once"]] = round(one["pages_s"], 2)
        elif stage == "scaling" and "alone_s" in one:
            speeds[1] = round(1 / one["alone_s"][len(one["alone_s"]) // 2], 2)
    return found | {"pages_s": {str(at_once): speed for at_once, speed in sorted(speeds.items())}}


def from_trace(folder: Path, pages_s: float, encoder: dict[str, float], conditions: str) -> dict[str, Any]:
    """Milliseconds of a page, on the card and of the main thread; each adds up to what a page takes at that speed."""
    trace = json.loads((folder / "trace.json").read_text())
    page_ms = 1000 / pages_s
    pages = trace["seconds"] * pages_s
    card = defaultdict(float, {ENCODER: sum(encoder.values()), IDLE: (1 - trace["busy"]) * page_ms})
    for kind, taken in trace["kinds_ms"].items():
        card[CARD.get(kind, REST)] += taken / pages - encoder.get(kind, 0.0)
    samples: dict[str, int] = defaultdict(int)
    for line in (folder / "core.txt").read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if CORE_LOOP in stack:
            samples[next((name for name, pattern in CORE.items() if re.search(pattern, stack)), REST)] += int(count)
    return {
        "conditions": conditions,
        "encoder_ms": encoder,
        "page_ms": round(page_ms, 1),
        "card_ms": {name: round(taken, 2) for name, taken in card.items()},
        "core_ms": {name: round(count / sum(samples.values()) * page_ms, 2) for name, count in samples.items()},
    }


def draw_throughput(figures: dict[str, Any], path: Path) -> None:
    """Pages a second against pages at once, with the published recipe as a line."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - what the figures become needs it alone

    speeds = {int(at_once): speed for at_once, speed in figures["pages_s"].items()}
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([*speeds], [*speeds.values()], "o-", color="tab:blue", label="ours")
    for at_once, speed in speeds.items():
        axes.annotate(f"{speed:g}", (at_once, speed), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(
        figures["recipe"], color="tab:orange", linestyle="--", label=f"published recipe: {figures['recipe']:g}"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([*speeds], [str(at_once) for at_once in speeds])
    axes.set_ylim(0, 1.15 * max(speeds.values()))
    axes.set(xlabel="pages at once", ylabel="pages/s")
    axes.set_title(figures["conditions"], fontsize=8)
    axes.legend(loc="upper left", fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def draw_page(figures: dict[str, Any], path: Path) -> None:
    """Where the time of a page goes, on the card and in the thread that feeds it."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same

    parts = {"card": figures["card_ms"], "engine core's main thread": figures["core_ms"]}
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    grid = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [len(part) for part in parts.values()]})
    for axes, (name, part), colour in zip(grid, parts.items(), ("tab:blue", "tab:green"), strict=True):
        ordered = dict(sorted(part.items(), key=lambda item: float(item[1])))
        bars = axes.barh([*ordered], [*ordered.values()], color=colour)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axes.set_title(f"{name}, {sum(part.values()):.1f} ms a page", fontsize=8, loc="left")
        axes.tick_params(labelsize=8)
        axes.margins(x=0.1)
    grid[-1].set_xlabel("ms a page")
    figure.suptitle(figures["conditions"], fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Bring the figures up to date where there are new ones, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scaling", type=Path)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--pages-s", type=float)
    parser.add_argument("--conditions")
    arguments = parser.parse_args()
    if (arguments.scaling or arguments.trace) and not arguments.conditions:
        parser.error("new figures want --conditions")
    if arguments.trace and not arguments.pages_s:
        parser.error("a trace wants --pages-s")
    figures = json.loads(FIGURES.read_text())
    if arguments.scaling:
        figures["throughput"] |= from_scaling(arguments.scaling.read_text(), arguments.conditions)
    if arguments.trace:
        encoder = figures["page"]["encoder_ms"]
        figures["page"] = from_trace(arguments.trace, arguments.pages_s, encoder, arguments.conditions)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    draw_throughput(figures["throughput"], HERE / "throughput.png")
    draw_page(figures["page"], HERE / "page.png")
    print(f"{HERE / 'throughput.png'} and {HERE / 'page.png'} are drawn")


if __name__ == "__main__":
    main()
