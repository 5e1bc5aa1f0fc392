"""The guard against repetition: what a step of the engine costs its main thread and its card, beside vLLM's own.

Both processors are fed as they are by the engine, vLLM's own with float32, only that this one finds the ids of the last
step on the host, for which the engine would have waited.  The host's time is that until `apply` returns, the card's
that until it is idle again.
Run on a machine with an NVIDIA card and vLLM: `python -m bench.guard`, some seconds.
Bar: 0.3 ms of the host for 1,024 pages, and the kernels ban what the same rule in plain torch bans.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from types import SimpleNamespace

import torch
from vllm import SamplingParams
from vllm.model_executor.models.deepseek_ocr import NGramPerReqLogitsProcessor
from vllm.v1.sample.logits_processor import BatchUpdate

from deepseek_ocr.engine import vllm_guard, vllm_guard_kernels
from deepseek_ocr.engine.vllm_guard import KEPT, NoRepeatGuard, tables_of
from deepseek_ocr.guard import NGRAM_SIZE, SHORT, WIDE, WINDOW_SIZE, Rule, first_disagreement, request_args

#: DeepSeek-OCR's `<td>` and `</td>` (vLLM recipes), its vocabulary, and pages at once.
CELL = (128821, 128822)
VOCABULARY = 129_280
#: The model's, of its logits.
DTYPE = torch.bfloat16
ROWS = (1, 448, 1024)
ROUNDS = 20
RULE = (NGRAM_SIZE, WINDOW_SIZE, frozenset(CELL))
#: A page that is read again is given one of these.
OTHERS = [Rule(guard.ngram_size, guard.window_size, frozenset(CELL)) for guard in (SHORT, WIDE)]
BATCHES = 50
BAR_MS = 0.3


def answers(kind: str, rows: int) -> list[list[int]]:
    """Answers of 300 to 1,500 tokens; words are as unevenly frequent as in a text."""
    choose = random.Random(0)  # noqa: S311 - not a secret
    lengths = [choose.randrange(300, 1500) for _ in range(rows)]
    if kind == "one token":
        return [[777] * length for length in lengths]
    vocabulary = [int(100_000 * choose.random() ** 6) + 300 for _ in range(4000)]
    return [[int(choose.choice(vocabulary)) for _ in range(length)] for length in lengths]


def step_ms(
    processor: NoRepeatGuard | NGramPerReqLogitsProcessor, batch: list[list[int]], device: torch.device
) -> tuple[float, float, float]:
    """Medians over some steps: of a step for the host, of one for both, and of a batch that changes for the host."""
    asked = SamplingParams(temperature=0, extra_args=request_args(CELL))
    dtype = DTYPE if isinstance(processor, NoRepeatGuard) else torch.float32
    added = [(row, asked, None, output_ids) for row, output_ids in enumerate(batch)]
    processor.update_state(BatchUpdate(len(batch), removed=[], added=added, moved=[]))
    host, both, changes = [], [], []
    for _ in range(ROUNDS):
        logits = torch.rand(len(batch), VOCABULARY, dtype=dtype, device=device)
        torch.accelerator.synchronize()
        begun = time.perf_counter()
        processor.update_state(BatchUpdate(len(batch), removed=[], added=added[:1], moved=[]))
        changes.append(time.perf_counter() - begun)
        torch.accelerator.synchronize()
        begun = time.perf_counter()
        processor.apply(logits)
        host.append(time.perf_counter() - begun)
        torch.accelerator.synchronize()
        both.append(time.perf_counter() - begun)
        for output_ids in batch:
            output_ids.append(777)  # as vLLM does, so that the next step finds the lengths that it expects
    return 1000 * statistics.median(host), 1000 * statistics.median(both), 1000 * statistics.median(changes)


def differences(device: torch.device, batches: int = BATCHES, most_rows: int = 300) -> int:
    """In how many of some batches, which repeat themselves, the kernels do otherwise than plain torch does."""
    choose = random.Random(0)  # noqa: S311 - not a secret
    found = 0
    for _ in range(batches):
        rows = choose.randrange(1, most_rows)
        rules = [choose.choice((None, Rule(3, 20, frozenset({1})), *OTHERS, Rule(*RULE))) for _ in range(rows)]
        tables = tables_of([*rules, Rule(*RULE)], device)
        rounds = [torch.arange(KEPT) % choose.choice((1, 7, 31, 40, 61, 150)) for _ in range(rows + 1)]
        ids = torch.stack(rounds).where(torch.rand(rows + 1, KEPT) < choose.choice((0.9, 1.0)), 5).to(device)
        lengths = torch.tensor([choose.choice((0, 5, 29, 30, 90, 91, 256, 3000)) for _ in range(rows)], device=device)
        left = []
        for module in (vllm_guard, vllm_guard_kernels):
            logits = torch.zeros(rows, VOCABULARY, dtype=DTYPE, device=device)
            state = ids.clone(), lengths.clone()
            module.ban(logits, *state, *tables)
            chosen = module.remember(*state, logits.argmax(dim=-1))
            left.append((logits, *state, chosen))
        found += not all(map(torch.equal, *left))
    return found


def main() -> int:
    """Print the table; 1 if the bar is missed or the kernels ban otherwise than plain torch."""
    device = torch.device("cuda")
    wrong = differences(device)
    print(f"{wrong} of {BATCHES} batches guarded otherwise than in plain torch")
    most = 0.0
    with torch.inference_mode():
        for rows in ROWS:
            config = SimpleNamespace(
                scheduler_config=SimpleNamespace(max_num_seqs=rows), model_config=SimpleNamespace(dtype=DTYPE)
            )
            for kind in ("text", "one token"):
                batch = answers(kind, rows)
                ours, upstream = (
                    step_ms(each(config, device, is_pin_memory=True), batch, device)
                    for each in (NoRepeatGuard, NGramPerReqLogitsProcessor)
                )
                most = max(most, ours[0])
                print(
                    "{} pages of {}: host {:.2f} ms a step, both {:.2f}, a change {:.2f}; "
                    "vLLM's own {:.2f}, {:.2f}, {:.2f}".format(rows, kind, *ours, *upstream)
                )
    for length in (1000, 8000):
        answer = [token for one in answers("text", 20) for token in one][:length]
        started = time.perf_counter()
        assert first_disagreement(answer, *RULE) is None
        print(f"replay of {length} tokens: {(time.perf_counter() - started) * 1e3:.2f} ms")
    return int(most > BAR_MS or wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
