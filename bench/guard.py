"""The guard against repetition: its cost per step of the engine, against vLLM's own processor on the same batch.

Runs where vLLM is installed, no GPU needed: `python -m bench.guard`.  Both processors are fed as vLLM feeds them; on
a GPU vLLM's own pays a launch and a wait for each page in a loop besides, so the ratio here is the smaller one.
Bar: a fifth of the cost on ordinary text.
"""

from __future__ import annotations

import random
import sys
import time
from types import SimpleNamespace

import torch
from vllm import SamplingParams
from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor
from vllm.v1.sample.logits_processor import BatchUpdate

from deepseek_ocr.engine.vllm_guard import NoRepeatGuard
from deepseek_ocr.guard import NGRAM_SIZE, WINDOW_SIZE, first_disagreement, request_args

#: DeepSeek-OCR's `<td>` and `</td>` (vLLM recipes), and rows of the batch: the recipe's, and what a large card holds.
CELL = (128821, 128822)
ROWS = (256, 448)
#: Columns of the logits; a ban writes one number however wide a row is.
COLUMNS = 2**17
ROUNDS = 20
BAR = 5.0


def answers(kind: str, rows: int) -> list[list[int]]:
    """Answers of 300 to 1,500 tokens; words are as unevenly frequent as in a text."""
    choose = random.Random(0)  # noqa: S311 - not a secret
    lengths = [choose.randrange(300, 1500) for _ in range(rows)]
    if kind == "empty table":
        return [[CELL[at % 2] for at in range(length)] for length in lengths]
    if kind == "one token":
        return [[777] * length for length in lengths]
    vocabulary = [int(100_000 * choose.random() ** 6) + 300 for _ in range(4000)]
    return [[int(choose.choice(vocabulary)) for _ in range(length)] for length in lengths]


def step_s(processor: NoRepeatGuard | NGramPerReqLogitsProcessor, batch: list[list[int]]) -> float:
    """Seconds of one step over this batch, the best of some."""
    asked = SamplingParams(temperature=0, extra_args=request_args(CELL))
    added = [(row, asked, None, output_ids) for row, output_ids in enumerate(batch)]
    processor.update_state(BatchUpdate(len(batch), removed=[], added=added, moved=[]))
    logits = torch.empty(len(batch), COLUMNS)  # touched only where something is banned
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        processor.apply(logits)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> int:
    """Print the table; 1 if ordinary text misses the bar."""
    worst = float("inf")
    for kind in ("text", "empty table", "one token"):
        for rows in ROWS:
            batch = answers(kind, rows)
            kinds = (NoRepeatGuard, NGramPerReqLogitsProcessor)
            device = torch.device("cpu")
            ours, upstream = (step_s(each(SimpleNamespace(), device, is_pin_memory=False), batch) for each in kinds)
            if kind == "text":
                worst = min(worst, upstream / ours)
            print(
                f"{upstream / ours:.1f} x  {kind}, {rows} pages: "
                f"{ours * 1e3:.2f} ms a step, {ours / rows * 1e6:.1f} us a page; "
                f"vLLM's own {upstream * 1e3:.2f} ms, {upstream / rows * 1e6:.1f} us"
            )
    rule = (NGRAM_SIZE, WINDOW_SIZE, frozenset(CELL))
    for length in (1000, 8000):
        answer = [token for one in answers("text", 20) for token in one][:length]
        started = time.perf_counter()
        assert first_disagreement(answer, *rule) is None
        print(f"replay of {length} tokens: {(time.perf_counter() - started) * 1e3:.2f} ms")
    return int(worst < BAR)


if __name__ == "__main__":
    sys.exit(main())
