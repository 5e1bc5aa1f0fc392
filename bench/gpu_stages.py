"""The stages of `bench.gpu` and `bench.version_2`: a process each, as an engine keeps its card until its process ends.

Figures reach the one who asked as soon as the stage has them, so that a run that is cut short still tells something.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MARK = "BENCH-RESULT "
#: Pages of the steady state.
STEADY = 2048
#: A page by itself on an idle card, so many times and so long; on a shared host single ones differ by a third.
LATENCY_TRIES, LATENCY_TOKENS = 9, 905
#: Lines of a stage's output that are kept for the case that it fails.
KEPT_LINES = 20


def report(**figures: Any) -> None:
    """Hand figures to the parent."""
    print(MARK + json.dumps(figures), flush=True)


def figures_of(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Run a module as a stage: its figures, each as it comes; at last what it said where it failed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    said: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as stage:  # noqa: S603 - ourselves
        assert stage.stdout is not None
        for line in stage.stdout:
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))
            else:
                said.append(line)
    if stage.returncode:
        yield {"failed": stage.returncode, "said": "".join(said)[-2000:]}


def stage_times(figures: dict[str, Any]) -> list[str]:
    """Where the time of a run goes, as far as its figures tell; a line for each kind."""
    lines = []
    if "alone_s" in figures:
        lines.append(f"a page alone {', '.join(f'{seconds:.2f}' for seconds in figures['alone_s'])} s")
    if "load_ms" in figures:
        lines.append(f"from file to tiles {figures['load_ms']:.0f} ms, the wait for a core counted")
    if "document_s" in figures:
        lines.append(f"a document {figures['document_s']:.1f} s from its claim to its manifest, in the middle of all")
    if "kinds_ms" in figures and "steady" in figures:
        pages = figures["trace_s"] * figures["steady"]
        kinds = {"no kernel runs": 1000 * (1 - figures["busy"]) * figures["trace_s"], **figures["kinds_ms"]}
        parts = (f"{kind} {taken / pages:.1f}" for kind, taken in sorted(kinds.items(), key=lambda one: -one[1]))
        lines.append(f"ms of the card a page: {', '.join(parts)}")
    return lines


def window(count: int) -> tuple[int, int]:
    """The steady state of a run of so many pages: neither the first ones, which come together, nor the last ones."""
    if count < 2 * STEADY:
        return count // 4, count * 3 // 4
    return (count - STEADY) // 2, (count + STEADY) // 2
