"""The judgement on real raw outputs: false alarms on good ones, and what is found in the bad ones.

First the detectors of loops as the text streams, then the whole judgement of a finished page (`quality.judge`) without
a picture, with the boxes as the only hint of the page: what compares text with ink has no say here.

`python -m bench.false_alarms [FOLDER]`; the folder holds `NNNN.txt` and `INDEX.tsv` (file, source, note) and is no part
of this repository.  Bars: under 1 % false alarms of either; every loop noticed but those in `TOO_SHORT`.
Good is a whole output that is not named as a loop or garbage by the index, not mixed up by its capture (`MIXED`), no
excerpt (from `FIRST_EXCERPT` on), and not degenerate when read by eye (`DEGENERATE`, each with what it shows).
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from deepseek_ocr.attempt import reading_of
from deepseek_ocr.completion import Completion, PageImage
from deepseek_ocr.loops import Loop, LoopWatch
from deepseek_ocr.prompt import Options
from deepseek_ocr.repetition import compression_ratio, distinct_line_ratio, distinct_word_ratio

SAMPLES = Path(__file__).parent.parent.parent / "shared" / "raw_outputs"
#: Two streams interleaved in one standard output (README.txt of the samples).
MIXED = {"0022", "0023", "0024", "0025", "0053", "0054", "0055"}
FIRST_EXCERPT = "1198"
#: Loops named by the research (section 2.1).
NAMED = ("0273", "0316", "0511", "0716", "1203", "1210", "1211", "1212", "1213")
#: Found by reading the longest and the densest of the others.
DEGENERATE = {
    "0154": "one fraction with a denominator that counts, 17 kB",
    "0211": "a table of blank cells in ragged rows, 5 kB",
    "0242": "blank cells in ragged rows, 13 kB",
    "0271": "spaces of a formula in changing widths, 16 kB",
}
#: Excerpts in which the loop cannot be told from a page: what came after is left out.
TOO_SHORT = {"1210": "three tables with different numbers"}
#: Shorter texts compress little whatever they say.
MEASURED = 1000
#: Characters of a piece; an engine streams less at a time.
PIECE = 100
MOST_FALSE_ALARMS = 0.01


def streamed(text: str) -> tuple[Loop | None, int]:
    """What is found when a text comes in pieces, and how much had come."""
    watch = LoopWatch()
    for at in range(0, len(text), PIECE):
        if loop := watch.feed(text[at : at + PIECE]):
            return loop, min(at + PIECE, len(text))
    return watch.finish(), len(text)


def problem_of(text: str) -> str | None:
    """What the judgement says of a finished answer, whose page nobody has."""
    page = PageImage(0, 595, 842, "pt", None, 0.1)
    return reading_of(page, Completion(text, "stop", 1.0), Options()).verdict.problem


def sorted_out(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The texts by their number: good ones, those that loop, and excerpts and garbage that are neither."""
    notes = {}
    for line in (folder / "INDEX.tsv").read_text(encoding="utf-8").splitlines():
        file, _, note = line.split("\t", 2)
        notes[file.removesuffix(".txt")] = note.lower()
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("[0-9]*.txt"))}
    looping = {name: text for name, text in texts.items() if name in NAMED or name in DEGENERATE}
    good = {
        name: text
        for name, text in texts.items()
        if name not in looping
        and name not in MIXED
        and name < FIRST_EXCERPT
        and not any(word in notes.get(name, "") for word in ("loop", "garbage"))
    }
    others = {name: text for name, text in texts.items() if name not in good and name not in looping}
    return good, looping, others


def main() -> int:
    """Print all tables; 1 if a bar is missed or there are no samples."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    if not (folder / "INDEX.tsv").is_file():
        print(f"no samples in {folder}: nothing was measured")
        return 1
    good, looping, others = sorted_out(folder)
    started = time.process_time()
    found = {name: streamed(text)[0] for name, text in good.items()}
    seconds = time.process_time() - started
    alarms = {name: loop for name, loop in found.items() if loop}
    for name, alarm in alarms.items():
        print(f"false alarm {name}: {alarm.kind} at {alarm.start}, noticed at {alarm.noticed} of {len(good[name])}")
    chars = sum(map(len, good.values()))
    rate = len(alarms) / len(good)
    print(f"{len(alarms)} false alarms in {len(good)} good outputs ({rate:.2%}), {chars} characters")
    print(f"{seconds / chars * 1e6:.2f} s per MB, {seconds / len(good) * 1e3:.2f} ms per output, streamed by {PIECE}")
    dense = [text for text in good.values() if len(text) > MEASURED]
    print(
        f"of the good: compression at most {max(map(compression_ratio, dense)):.1f}, distinct lines at least "
        f"{min(map(distinct_line_ratio, dense)):.2f}, words {min(map(distinct_word_ratio, dense)):.2f}"
    )
    missed: list[str] = []
    delays: list[int] = []
    for name, text in looping.items():
        loop, read = streamed(text)
        if loop is None:
            missed.append(name)
            print(f"missed {name}: {TOO_SHORT.get(name, 'not expected')}")
            continue
        delays.append(read - loop.start)
        print(f"noticed {name}: {loop.kind}, {delays[-1]} characters into it, {read} of {len(text)}")
    print(f"{len(delays)} of {len(looping)} loops noticed, after {statistics.median(delays):.0f} characters (median)")
    wrong = _print_judgement(good, looping, others)
    absent = [name for name in (*NAMED, *DEGENERATE) if name not in looping]
    if absent:
        print(f"not among these samples: {', '.join(absent)}")
    return int(max(rate, wrong) >= MOST_FALSE_ALARMS or any(name not in TOO_SHORT for name in missed))


def _print_judgement(good: dict[str, str], looping: dict[str, str], others: dict[str, str]) -> float:
    """Print the whole judgement of each kind; the share of the good ones that it finds bad."""
    started = time.process_time()
    problems = {name: problem_of(text) for name, text in good.items()}
    seconds = time.process_time() - started
    alarms = {name: problem for name, problem in problems.items() if problem}
    for name, problem in alarms.items():
        print(f"judged bad, though good, {name}: {problem}")
    chars = sum(map(len, good.values()))
    rate = len(alarms) / len(good)
    print(f"{len(alarms)} of {len(good)} good outputs judged bad ({rate:.2%})")
    print(f"blocks and judgement: {seconds / chars * 1e6:.2f} s per MB, {seconds / len(good) * 1e3:.2f} ms per output")
    for kind, texts in (("loop", looping), ("excerpt or mixed up", others)):
        for name, text in texts.items():
            print(f"{kind} {name}, {len(text)} characters: {problem_of(text) or 'judged good'}")
    return rate


if __name__ == "__main__":
    sys.exit(main())
