"""The bars of `bench.gpu`: which of them the figures of a run miss."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Any

#: Times the recipe, and pages a second.
RATIO, RATE = 3.0, 20.0
#: Share of a trace in which a kernel runs.
BUSY = 0.9
LOOP_P999_MS = 50.0
#: At most, of what was in use at an eighth of the pages.
MEMORY_GROWTH = 1.1
LONG_DOCUMENT_S = 120.0
#: Seconds for each page more, between the two largest runs, at most so many times the least between two runs; of runs
#: in which the card is full, as another page is nearly free before.
LINEAR = 1.25
#: Runs of `scaling`, and pages from which on the card is full in the larger of two.
RUNS, FULL_PAGES = 4, 1024
#: Of the card, all that the driver counts, in MiB.
PRESETS_MIB = {"24gb": 24 * 1024, "8gb": 7.5 * 1024}
#: What a stage must have said, unless it failed.
DOCUMENTS = ("pages", "steady", "documents", "done", "attempts", "markdown", "replayed", "disagreements")
SAID = {
    "recipe": ("pages", "seconds", "alone_s"),
    "png": ("alone_s", "pages", "seconds", "replayed", "disagreements"),
    "scaling": ("alone_s", "pages", "seconds"),
    "daemon": (*DOCUMENTS, "memory_mb", "long_document_s", "loop_p999_ms", "busy"),
    "kill": (*DOCUMENTS, "engine_back_s", "first_page_s"),
}


def missed(stages: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is wrong with the figures of these stages, each a list as they were reported; empty = nothing."""
    merged = {stage: {name: value for one in found for name, value in one.items()} for stage, found in stages.items()}
    wrong = []
    for stage, figures in merged.items():
        silent = [name for name in SAID.get(stage, ()) if name not in figures]
        if "failed" in figures:
            wrong.append(f"{stage} failed")
        elif silent:
            wrong.append(f"{stage} said nothing of {', '.join(silent)}")
    wrong += [
        f"{stage}: the reference guard disagrees on {one['disagreements']} pages"
        for stage, found in stages.items()
        for one in found
        if stage != "unguarded" and one.get("disagreements")
    ]
    for stage in ("daemon", "kill"):
        if stage in merged:
            wrong += [f"{stage}: {what}" for what in _documents(merged[stage])]
    if "daemon" in merged:
        wrong += [f"daemon: {what}" for what in _service(merged["daemon"], merged.get("recipe", {}))]
    png = merged.get("png", {})
    if png.get("replayed", 0) < png.get("pages", 0):
        wrong.append(f"png: only {png.get('replayed')} answers were replayed")
    recipe_s = merged.get("recipe", {}).get("alone_s")
    for stage in ("png", "scaling"):
        ours_s = merged.get(stage, {}).get("alone_s")
        if ours_s and recipe_s and median(ours_s) > median(recipe_s):
            wrong.append(f"{stage}: a page alone takes {median(ours_s):.2f} s, the recipe's {median(recipe_s):.2f}")
    wrong += _linear([figures for figures in stages.get("scaling", []) if "pages" in figures])
    for figures in stages.get("presets", []):
        if not 0 < figures.get("most_mib", 0) <= PRESETS_MIB[figures["preset"]]:
            wrong.append(f"preset {figures['preset']}: {figures.get('most_mib', 0):,} MiB of the card were in use")
    return wrong


def _linear(runs: list[dict[str, Any]]) -> list[str]:
    """Whether a page costs as much where many are read."""
    if 0 < len(runs) < RUNS:
        return [f"scaling: {len(runs)} numbers of pages were read, and not {RUNS}"]
    costs = [
        (more.get("seconds", 0.0) - fewer.get("seconds", 0.0)) / (more["pages"] - fewer["pages"])
        for fewer, more in pairwise(runs)
        if more["pages"] >= FULL_PAGES
    ]
    if costs and costs[-1] > LINEAR * min(costs):
        return [f"scaling: a page costs {1000 * min(costs):.0f} ms, and {1000 * costs[-1]:.0f} where the most are read"]
    return []


def _documents(figures: dict[str, Any]) -> list[str]:
    """Whether each document was read, once."""
    wrong = []
    pages = figures.get("pages", 0)
    ended, done = figures.get("documents", pages), figures.get("done", pages)
    if not done == ended == pages:
        reasons = "".join(f"; of {count}: {reason}" for reason, count in figures.get("reasons", []))
        wrong.append(f"of {pages} documents {ended} ended and {done} are done{reasons}")
    if figures.get("attempts"):
        wrong.append(f"{figures['attempts']} attempts failed")
    if figures.get("markdown", pages) < pages:
        wrong.append(f"there are {figures['markdown']} files of Markdown")
    if figures.get("replayed", pages) < pages:
        wrong.append(f"only {figures['replayed']} answers were replayed")
    return wrong


def _service(figures: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """What else is asked of the daemon."""
    wrong = []
    rate = figures.get("steady", RATE)
    if rate < RATE:
        wrong.append(f"{rate:.2f} pages/s, and not {RATE}")
    if "steady" in figures and {"pages", "seconds"} <= recipe.keys():
        ratio = rate * recipe["seconds"] / recipe["pages"]
        if ratio < RATIO:
            wrong.append(f"{ratio:.2f} x the recipe, and not {RATIO}")
    if figures.get("busy", BUSY) < BUSY:
        wrong.append(f"kernels run for {figures['busy']:.1%} of the trace, and not {BUSY:.0%}")
    if figures.get("loop_p999_ms", 0.0) >= LOOP_P999_MS:
        wrong.append(f"the event loop is {figures['loop_p999_ms']:.0f} ms late at the 99.9th percentile")
    if figures.get("long_document_s", 0.0) >= LONG_DOCUMENT_S:
        wrong.append(f"the long document takes {figures['long_document_s']:.0f} s")
    # The first sample is from before any page.
    _, early, *later = [sample["all"] for _, sample in figures.get("memory_mb", [])] or (0, 0)
    if later and max(later) > MEMORY_GROWTH * early:
        wrong.append(f"its memory grew from {early:,} to {max(later):,} MB")
    return wrong
