"""Our engine on the real vLLM with the tiny model: against vLLM as it comes, with many pages at once, and its ends."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
from PIL import ImageOps
from tokenizers import Tokenizer

from bench.dummy_model import TABLE
from deepseek_ocr import attempt
from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.vllm import CORE_STOP_S, VllmEngine
from deepseek_ocr.engine.vllm_input import PUBLISHED_IDS
from deepseek_ocr.engine.vllm_plugin import STREAM_INTERVAL
from deepseek_ocr.engine.vllm_processes import core_processes
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.guard import request_args
from deepseek_ocr.lookout import Lookout
from deepseek_ocr.loops import find_loop
from deepseek_ocr.prompt import IMAGE_TOKEN, Mode, Options, Task, prompt_for
from deepseek_ocr.tiles import tile
from tests.conftest import eventually
from tests.vllm_cpu.conftest import draw, session_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from PIL import Image

    from deepseek_ocr.completion import Completion
    from tests.vllm_cpu.conftest import Upstream

pytestmark = session_loop

#: The rule as published (vLLM recipes, DeepSeek-OCR.md), and one that forbids nothing in what is read here.
GUARD = request_args([TABLE["<td>"], TABLE["</td>"]])
NO_GUARD: dict[str, object] = {}
#: Made up, as most of this vocabulary.
SEVEN_WORDS = [*range(50_000, 50_007)]
#: Tokens of the words that stand behind the picture: this tokenizer has one for each byte, and one for <|grounding|>.
WORDS = len("\nConvert the document to markdown.") + 1
#: An answer that ends with the context, minutes later: pages that are to be broken off.
ENDLESS = Options()
#: For those who wait to hear of a dead engine, on a busy machine; vLLM itself lets them wait for ever when it hangs.
NEWS_S = 60.0


class Tapped(VllmEngine):
    """Ours, in float32 and noting the token ids of each page, which are not part of a completion."""

    def __init__(self, model: Path) -> None:
        super().__init__(str(model))
        self.guard = GUARD
        #: All that may be said; None = anything.
        self.allowed: list[int] | None = None
        self.prompt_ids: dict[int, list[int]] = {}
        self.answer_ids: dict[int, list[int]] = defaultdict(list)
        #: Called with each prompt on its way to vLLM.
        self.on_prompt: Callable[[Any], None] | None = None
        #: The warm-up page is number 0.
        self._pages = itertools.count(1)

    def engine_arguments(self) -> dict[str, Any]:
        """In bf16 the order of a batch decides between tokens; the worker takes few for many."""
        return {"dtype": "float32", "worker_extension_cls": "tests.vllm_cpu.arrays.ArraysFromThree"}

    def sampling_params(self, page: PageImage, options: Options, room: int) -> Any:
        """The recipe, with another guard where a test sets one."""
        params = super().sampling_params(page, options, room)
        assert params.extra_args == GUARD
        params.extra_args = self.guard
        params.allowed_token_ids = self.allowed
        return params

    async def _prompt(self, engine: Any, page: PageImage, options: Options) -> Any:
        prompt = await super()._prompt(engine, page, options)
        if self.on_prompt is not None:
            self.on_prompt(prompt)
        return prompt

    async def _generate(self, engine: Any, page: PageImage, options: Options) -> AsyncGenerator[Any, None]:
        async for output in super()._generate(engine, page, options):
            self.prompt_ids[page.page_index] = list(output.prompt_token_ids)
            self.answer_ids[page.page_index] += output.outputs[0].token_ids
            yield output

    def page(self, picture: Image.Image, mode: Mode = Mode.GUNDAM) -> PageImage:
        """A page as a worker process makes it, with a number of its own."""
        tiles = tile(np.asarray(picture), mode)
        return PageImage(next(self._pages), *picture.size, "px", None, 0.1, tiles=tiles)

    async def ids(
        self, picture: Image.Image, max_tokens: int, *, mode: Mode = Mode.GUNDAM, task: Task = Task.DOCUMENT
    ) -> list[int]:
        """The token ids of the answer for a picture."""
        page = self.page(picture, mode)
        done = await self.recognize(page, Options(task, max_tokens=max_tokens))
        ids = self.answer_ids[page.page_index]
        assert done.completion_tokens == len(ids)
        return ids


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def resident(model_folder: Path) -> AsyncIterator[Tapped]:
    """One engine for all tests that leave it alive, and the last."""
    engine = Tapped(model_folder)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
def engine(resident: Tapped) -> Tapped:
    """The same, with nothing in flight and the published guard."""
    assert resident.health().detail.startswith("0 pages in flight"), resident.health()
    resident.guard = GUARD
    return resident


@pytest.mark.parametrize("name", ["small", "tall", "a4"])
async def test_answers_are_those_of_vllm_as_it_comes(
    engine: Tapped, upstream: Upstream, pictures: dict[str, Image.Image], name: str
) -> None:
    """One page at a time, token by token: other pixels, prompt, model class and guard on the way, the same result."""
    # Beyond its window of 90 the guard forgets.
    count = 130 if name == "a4" else 40
    theirs = await upstream.read(pictures[name], max_tokens=count, guard=GUARD, ignore_eos=False)
    page = engine.page(pictures[name])
    done = await engine.recognize(page, Options(max_tokens=count))
    guarded = engine.answer_ids[page.page_index]
    assert guarded == theirs.ids
    assert (done.prompt_tokens, done.text) == (theirs.prompt_tokens, theirs.text)
    assert (done.completion_tokens, done.finish_reason) == (count, "length")
    if name == "a4":  # it begins with a loop, so the guard has acted in both
        assert await asyncio.gather(*(engine.ids(pictures[name], 40) for _ in range(3))) == [guarded[:40]] * 3
        engine.guard = NO_GUARD
        free = await engine.ids(pictures[name], 40)
        assert free[:30] == guarded[:30], "the first 30-gram cannot come twice before"
        assert free != guarded[:40]


#: Places of a picture in the prompt: of its view (vLLM's processor; the paper, in table 1, counts them without newlines
#: and separator), and in gundam of its crops beside it.
PLACES = {
    ("a4", Mode.TINY): 73,
    ("a4", Mode.SMALL): 111,
    ("tall", Mode.BASE): 273,
    ("a4", Mode.LARGE): 421,
    ("small", Mode.GUNDAM): 273,
    ("wide", Mode.GUNDAM): 273 + 210,
}


async def test_together_and_in_mixed_modes_is_as_alone(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """In float32 pages of all modes and many shapes get in one batch the answers that they get alone.

    Their prompts have the published lengths: BOS, the places that the model fills, the words.
    """
    pages = pictures | {"wide": draw(800, 450)}

    async def read(name: str, mode: Mode) -> tuple[int, list[int]]:
        page = engine.page(pages[name], mode)
        done = await engine.recognize(page, Options(max_tokens=8))
        assert done.prompt_tokens == len(engine.prompt_ids[page.page_index])
        return done.prompt_tokens, engine.answer_ids[page.page_index]

    alone = [await read(name, mode) for name, mode in PLACES]
    together = await asyncio.gather(*(read(name, mode) for name, mode in PLACES))
    assert together == alone
    assert [length - WORDS for length, _ in alone] == [1 + places for places in PLACES.values()]
    assert len({tuple(ids) for _, ids in alone}) > len(PLACES) // 2, "what is read depends on picture and mode"


async def test_answers_depend_on_the_picture(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """A page of the same size that looks otherwise is read otherwise; the same page is read the same way."""
    pages = [pictures["small"], ImageOps.invert(pictures["small"]), pictures["small"].copy()]
    first, dark, again = [await engine.ids(picture, 8, mode=Mode.TINY) for picture in pages]
    assert first == again != dark


PROMPTS = {
    "image": Options(Task.IMAGE, max_tokens=3),
    "free": Options(Task.FREE, max_tokens=3),
    "figure": Options(Task.FIGURE, max_tokens=3),
    "describe": Options(Task.DESCRIBE, max_tokens=3),
    "locate": Options(Task.LOCATE, text="Zwölf 東京", max_tokens=3),
    "custom": Options(Task.CUSTOM, prompt="<|grounding|>What\nis here?  ", max_tokens=3),
}


async def test_prompts_reach_the_engine(engine: Tapped, model_folder: Path, pictures: dict[str, Image.Image]) -> None:
    """Each task's words behind the picture, as the tokenizer cuts them, its tags as single tokens."""
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    for name, options in PROMPTS.items():
        page = engine.page(pictures["small"], Mode.TINY)
        done = await engine.recognize(page, options)
        words = tokenizer.encode(prompt_for(options).removeprefix(IMAGE_TOKEN), add_special_tokens=False).ids
        bos, *places, last = engine.prompt_ids[page.page_index][: -len(words)]
        assert (bos, {*places, last}) == (0, {PUBLISHED_IDS[IMAGE_TOKEN]}), name
        assert engine.prompt_ids[page.page_index][-len(words) :] == words, name
        assert (done.completion_tokens, done.finish_reason) == (3, "length"), name


async def test_text_grows_to_the_answer(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """What is heard meanwhile is the beginning of what is heard later, and at last the text."""
    seen: list[str] = []
    # vLLM hands over in one what came while this process did not look.
    tokens = 12 * STREAM_INTERVAL + 6
    done = await engine.recognize(engine.page(pictures["small"]), Options(max_tokens=tokens), seen.append)
    assert len(seen) >= 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert seen[-1] == done.text
    assert done.completion_tokens == tokens


async def test_a_page_given_up_leaves_the_engine_to_others(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """All places are taken by pages that would go on for minutes; those that are given up make room at once."""
    picture, places = pictures["tall"], engine.plan.max_num_seqs
    alone = await engine.ids(picture, 8, mode=Mode.TINY)
    reading = await begin(engine, picture, places)
    others = [asyncio.create_task(engine.ids(picture, 8, mode=Mode.TINY)) for _ in range(places)]
    for page in reading[1:]:
        page.cancel()
    assert await asyncio.wait_for(asyncio.gather(*others), timeout=60) == [alone] * places
    assert [page.cancelled() for page in reading] == [False, *[True] * (places - 1)]
    assert engine.health().detail.startswith("1 pages in flight")
    reading[0].cancel()
    await asyncio.wait(reading)


async def test_a_loop_is_given_up_while_it_streams(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """With a few words and no guard random weights stammer: the page comes back long before its context is full."""
    engine.guard, engine.allowed = NO_GUARD, SEVEN_WORDS
    lookout = Lookout()
    try:
        done = await attempt.recognize(engine, engine.page(pictures["small"], Mode.TINY), ENDLESS, lookout=lookout)
    finally:
        engine.guard, engine.allowed = GUARD, None
        lookout.close()
    assert done.finish_reason == "repetition"
    assert find_loop(done.text) is not None
    assert len(done.text) < 16_000  # a third of what a full context says; 4,000 unless this process is stopped for long
    assert engine.health().detail.startswith("0 pages in flight")
    assert len(await engine.ids(pictures["small"], 2)) == 2


async def test_what_vllm_refuses_is_this_pages_fault(engine: Tapped, pictures: dict[str, Image.Image]) -> None:
    """A request that cannot be is answered with vLLM's own words, and the engine reads the next."""
    engine.guard = {**GUARD, "ngram_size": 0}
    with pytest.raises(PageError, match=r"vLLM refuses this page: .*`ngram_size` has to be a strictly positive"):
        await engine.ids(pictures["small"], 2)
    engine.guard = GUARD
    with pytest.raises(PageError, match="needs the tiles of the page"):
        await engine.recognize(replace(engine.page(pictures["small"]), tiles=None), Options(max_tokens=2))
    assert len(await engine.ids(pictures["small"], 2)) == 2


async def test_the_loop_turns_between_pages_that_are_handed_over(
    engine: Tapped, pictures: dict[str, Image.Image]
) -> None:
    """All are ready at once, with nothing left for vLLM to process, and others have their turn after each."""
    turns = 0
    handed_over: list[tuple[int, str]] = []

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    pages = [engine.page(pictures["a4"], Mode.TINY) for _ in range(engine.plan.max_num_seqs)]
    engine.on_prompt = lambda prompt: handed_over.append((turns, prompt["type"]))
    turning = asyncio.create_task(turn())
    try:
        await asyncio.gather(*(engine.recognize(page, Options(max_tokens=1)) for page in pages))
    finally:
        turning.cancel()
        engine.on_prompt = None
    at = [turn for turn, _ in handed_over]
    assert len(at) == len(pages)
    assert at == sorted(set(at))
    assert {kind for _, kind in handed_over} == {"multimodal"}, "a raw prompt would be processed on the loop"


@pytest.mark.parametrize("waiting", [0, 1])
async def test_the_reader_of_answers_ends_first_where_no_page_waits(model_folder: Path, waiting: int) -> None:
    """It could take the core's end for a fault; a page that waits hears of the end by it."""

    class Stopping:
        def __init__(self) -> None:
            self.output_handler = asyncio.create_task(asyncio.Event().wait())
            self.told: list[float] = []
            self.was_ended = False

        def shutdown(self, timeout: float) -> None:
            self.told.append(timeout)
            self.was_ended = self.output_handler.cancelling() > 0

    engine, inner = Tapped(model_folder), Stopping()
    engine._engine, engine._state, engine._in_flight = inner, "ready", waiting  # noqa: SLF001 - as after a start
    await engine.stop()
    inner.output_handler.cancel()
    assert inner.told == [CORE_STOP_S]
    assert inner.was_ended == (not waiting)


async def test_a_start_that_is_given_up_leaves_nothing(model_folder: Path) -> None:
    """It is built by vLLM in a thread, which nobody can cancel; its core is ended, and the thread with it."""
    others = {process.pid for process in core_processes()}
    engine = Tapped(model_folder)
    starting = asyncio.create_task(engine.start())
    await eventually(lambda: core_processes(others) or starting.done(), timeout_s=60)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert core_processes(others) == []
    assert not engine.health().ok


@pytest.mark.last
async def test_a_dead_engine_says_so_leaves_and_starts_again(
    engine: Tapped, upstream: Upstream, pictures: dict[str, Image.Image]
) -> None:
    """Killed, or stopped in its tracks: all pages that wait hear of it, its processes go, and it can be started anew.

    The engine beside it in the same process goes on: `stop` ended the cores of all engines once.
    """
    expected = await engine.ids(pictures["small"], 8)
    errors = await die(engine, pictures["small"], lambda processes: processes[-1].kill())
    assert errors == ["vLLM's engine core died: its process ended or failed; its lines tell more"] * 3

    await engine.start()
    assert await engine.ids(pictures["small"], 8) == expected

    def freeze(processes: list[Any]) -> None:
        for process in processes:
            process.suspend()
        engine.settings = replace(engine.settings, hang_s=1.0)

    errors = await die(engine, pictures["small"], freeze)
    (error,) = set(errors)
    assert error.startswith("vLLM's engine core died: hung: no token for ")
    assert error.endswith(" s with 3 pages in flight")
    assert engine.health().detail == "stopped"
    assert len((await upstream.read(pictures["small"], max_tokens=8)).ids) == 8


async def begin(engine: Tapped, picture: Image.Image, count: int) -> list[asyncio.Task[Completion]]:
    """So many pages that go on for minutes, each with its first token."""
    pages = [engine.page(picture, Mode.TINY) for _ in range(count)]
    reading = [asyncio.create_task(engine.recognize(page, ENDLESS)) for page in pages]
    await eventually(lambda: all(engine.answer_ids[page.page_index] for page in pages), timeout_s=60)
    return reading


async def die(engine: Tapped, picture: Image.Image, strike: Callable[[list[Any]], object]) -> list[str]:
    """Strike the core while it reads; what pages heard of it.  Then nothing is left."""
    reading = await begin(engine, picture, 3)
    processes = list(engine._processes)  # noqa: SLF001 - vLLM names its processes nowhere else
    assert len(processes) == 1, "the core"
    strike(processes)
    done, _ = await asyncio.wait(reading, timeout=NEWS_S)
    errors = [page.exception() for page in done]
    assert [type(error) for error in errors] == [EngineDeadError] * len(reading), errors
    assert not engine.health().ok
    await engine.stop()
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    return [str(error) for error in errors]


async def test_a_foreign_tokenizer_is_refused(model_folder: Path, tmp_path: Path) -> None:
    """Of the published size, with two tokens in each other's place: it would read every page as nonsense."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).symlink_to(model_folder / name)
    text = (model_folder / "tokenizer.json").read_text(encoding="utf-8")
    swapped = text.replace("<|ref|>", "<||>").replace("<|det|>", "<|ref|>").replace("<||>", "<|det|>")
    (folder / "tokenizer.json").write_text(swapped, encoding="utf-8")
    with pytest.raises(EngineStartError, match=r"<\|ref\|> is 128818 instead of 128816, <\|det\|> is 128816 instead"):
        await Tapped(folder).start()
