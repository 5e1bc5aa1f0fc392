"""The transformers engine with a tiny random DeepSeek-OCR-2: the real classes on the CPU, in float32."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekOcr2Config

from deepseek_ocr.completion import PageImage
from deepseek_ocr.engine.transformers import TransformersEngine
from deepseek_ocr.engine.transformers_config import native_config
from deepseek_ocr.engine.transformers_load import Loaded, load
from deepseek_ocr.engine.transformers_process import Ask, BatchReader, Read, Row, Text, Unreadable
from deepseek_ocr.errors import EngineDeadError, EngineStartError
from deepseek_ocr.guard import NGRAM_SIZE, SHORT, WINDOW_SIZE, first_disagreement
from deepseek_ocr.prompt import Options, Task, prompt_for
from tests.test_transformers import PUBLISHED, V1
from tests.test_transformers import folder as config_folder
from tests.vllm_cpu.tiny_ocr2 import EOS, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

#: Starting the process imports torch and transformers, which takes its time on two cores that others use as well.
pytestmark = pytest.mark.timeout(120)
#: The engine is started once, on a loop that all of these share.
module_loop = pytest.mark.asyncio(loop_scope="module")

FREE = prompt_for(Options(Task.FREE))
DOCUMENT = prompt_for(Options())
TOKENS = 12


def picture(seed: int, height: int = 240, width: int = 180) -> NDArray[np.uint8]:
    """A white page with coloured patches."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 255, np.uint8)
    for _ in range(8):
        top, left = random.integers(0, height - 60), random.integers(0, width - 60)
        image[top : top + 60, left : left + 60] = random.integers(0, 255, 3)
    return image


def ask(number: int = 0, *, seed: int = 0, prompt: str = DOCUMENT, max_tokens: int = TOKENS, **size: int) -> Ask:
    """A page as the process gets it."""
    return Ask(number, picture(seed, **size), prompt, max_tokens, stream=False)


def page(seed: int = 0) -> PageImage:
    """The same as the engine gets it."""
    image = picture(seed)
    return PageImage(0, image.shape[1], image.shape[0], "px", image, ink=0.1)


def read(loaded: Loaded, *asks: Ask) -> list[Any]:
    """Read pages together; what is said of them, by their numbers."""
    said: list[Any] = []
    BatchReader(loaded, said.append).read(asks)
    return sorted((message for message in said if isinstance(message, Read | Unreadable)), key=lambda said: said.number)


def output_ids(loaded: Loaded, ask: Ask) -> list[int]:
    """The tokens of a page, the end included."""
    row = Row(ask)
    BatchReader(loaded, lambda _: None)._attempt([row])  # noqa: SLF001 - a text does not tell its tokens
    return row.output


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Here and in the processes: so small a model is faster so, above all on cores that others use as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model."""
    return build(tmp_path_factory.mktemp("ocr2") / "model")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    """The model, in this process."""
    return load(str(folder), "cpu")


def test_text_depends_on_picture_and_prompt(loaded: Loaded) -> None:
    """Another picture or another prompt is another text; the same page twice is the same."""
    asks = [ask(), ask(seed=1), ask(seed=2), ask(prompt=FREE), ask()]
    first, *others, again = [read(loaded, replace(asked, max_tokens=40))[0].text for asked in asks]
    assert len({first, *others}) == 4
    assert again == first


def test_large_page_gets_crops(loaded: Loaded) -> None:
    """A page beyond 768 pixels costs 144 tokens for each of its 6 crops more; the global view has 256 and one more."""
    small, large = read(loaded, ask(0, max_tokens=1), ask(1, max_tokens=1, height=1000, width=700))
    words = len(loaded.tokenizer(DOCUMENT)["input_ids"])  # one of them stands for the picture, BOS is not among them
    assert (small.prompt_tokens, large.prompt_tokens) == (words + 257, words + 257 + 6 * 144)


def test_batch_equals_alone(loaded: Loaded) -> None:
    """Pages of different prompts, sizes and lengths that are read together come out as each does alone."""
    asks = [
        ask(0, seed=3),
        ask(1, seed=4, prompt=FREE, max_tokens=5),
        ask(2, seed=5, height=900, width=500),
    ]
    together = read(loaded, *asks)
    assert together == [read(loaded, asked)[0] for asked in asks]
    assert [(page.finish_reason, page.completion_tokens) for page in together] == [
        ("length", TOKENS),
        ("length", 5),
        ("length", TOKENS),
    ]


def test_end_token_ends_the_page(tmp_path: Path, loaded: Loaded) -> None:
    """A page that the model ends is `stop`, and its text is what came before, without the token that ends it."""
    ids = output_ids(loaded, ask())
    token = next(token for token in reversed(ids) if ids.index(token) > 0)
    before = ids[: ids.index(token)]
    ending = load(str(build(tmp_path / "model", end_instead_of=token)), "cpu")
    (answer,) = read(ending, ask())
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", len(before) + 1)
    assert answer.text == loaded.tokenizer.decode(before)
    assert EOS not in answer.text


def test_guard_breaks_a_loop(loaded: Loaded) -> None:
    """Without the guard the model loops; with it the answer is the same up to the first banned token, and clean."""
    asked = replace(ask(), max_tokens=130)
    guarded = output_ids(loaded, asked)
    unguarded = output_ids(replace(loaded, exempt=frozenset(range(1000))), asked)
    banned = first_disagreement(unguarded, NGRAM_SIZE, WINDOW_SIZE, loaded.exempt)
    assert banned is not None
    assert guarded[:banned] == unguarded[:banned]
    assert guarded[banned] != unguarded[banned]
    assert first_disagreement(guarded, NGRAM_SIZE, WINDOW_SIZE, loaded.exempt) is None
    sooner = output_ids(loaded, replace(asked, guard=SHORT))
    assert first_disagreement(sooner, SHORT.ngram_size, SHORT.window_size, loaded.exempt) is None
    assert loaded.exempt == {loaded.tokenizer.convert_tokens_to_ids(token) for token in ("<td>", "</td>")}


def test_page_begins_with_bos_once(tmp_path: Path, loaded: Loaded) -> None:
    """A tokenizer that adds BOS by itself gives the same prompt as one that does not."""
    adding = load(str(build(tmp_path / "model", add_bos=True)), "cpu")
    assert len(adding.tokenizer("a")["input_ids"]) == len(loaded.tokenizer("a")["input_ids"]) + 1
    assert read(adding, ask()) == read(loaded, ask())


def test_page_that_fails_costs_no_other(loaded: Loaded) -> None:
    """A picture that cannot be processed fails alone; those that were read with it are read."""
    broken = Ask(1, np.zeros((0, 4, 3), np.uint8), DOCUMENT, TOKENS, stream=False)
    first, failed, last = read(loaded, ask(0), broken, ask(2, seed=1))
    assert isinstance(failed, Unreadable)
    assert (first, last) == (*read(loaded, ask(0)), *read(loaded, ask(2, seed=1)))


def test_given_up_page_ends_at_the_next_token(loaded: Loaded) -> None:
    """A page that nobody waits for any more takes no further token and gets no answer; its neighbour does."""
    said: list[Any] = []

    def give_up(message: object) -> None:
        said.append(message)
        if isinstance(message, Text):
            reader.give_up(message.number)

    reader = BatchReader(loaded, give_up)
    reader.read([replace(ask(7), stream=True, max_tokens=5000), ask(8, seed=1)])
    assert [type(message) for message in said if getattr(message, "number", None) == 7] == [Text]
    assert [message.number for message in said if isinstance(message, Read)] == [8]


@pytest.mark.parametrize(
    ("break_folder", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"neither be found .* nor downloaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "its files are damaged"),
        (lambda folder: without_tensor(folder, "view_sep"), r"lack 1 tensors, model\.view_separator among them"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded|neither be found"),
        (lambda folder: rename_token(folder, "<|grounding|>"), r"tokenizer of .* does not know <\|grounding\|>"),
    ],
    ids=["no weights", "torn weights", "tensor missing", "no tokenizer", "another tokenizer"],
)
def test_unreadable_folder_is_one_sentence(tmp_path: Path, folder: Path, break_folder: Any, message: str) -> None:
    """A folder that cannot be loaded is named, with what is wrong and what to do."""
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    break_folder(broken)
    with pytest.raises(EngineStartError, match=message) as caught:
        load(str(broken), "cpu")
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def without_tensor(folder: Path, name: str) -> None:
    """Take a tensor out of the weights."""
    tensors = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if name not in key}
    assert len(kept) == len(tensors) - 1
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def rename_token(folder: Path, token: str) -> None:
    """Give a token another name."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace(token, "<|other|>"), encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_missing_card_is_one_sentence(folder: Path) -> None:
    """A card that torch cannot use ends the start with both ways out."""
    with pytest.raises(EngineStartError, match=r'shall run on cuda:1, but torch .* set device = "cpu"'):
        load(str(folder), "cuda:1")


def test_published_folder_is_understood(folder: Path) -> None:
    """The tensors bear their published names, and the published configuration becomes the full-size model."""
    names = load_file(folder / "model.safetensors").keys()
    assert {"model.view_seperator", "model.sam_model.blocks.0.attn.qkv.weight", "model.projector.layers.weight"} <= {
        *names
    }
    config = DeepseekOcr2Config.from_dict(native_config(PUBLISHED))
    text, encoder = config.text_config, config.vision_config.encoder_config
    assert (text.head_dim, text.mlp_layer_types[:2], text.rope_parameters["rope_theta"]) == (
        128,
        ["dense", "sparse"],
        10_000.0,
    )
    assert (encoder.num_hidden_layers, encoder.rope_parameters["rope_theta"]) == (24, 1_000_000.0)
    assert config.image_token_id == 128815


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(folder: Path) -> AsyncIterator[TransformersEngine]:
    """A started engine that reads pages two by two."""
    engine = TransformersEngine(model=str(folder), batch_size=2)
    await engine.start()
    yield engine
    await engine.stop()


@module_loop
async def test_pages_asked_for_at_once(engine: TransformersEngine, loaded: Loaded) -> None:
    """Three pages at once come back as each reads alone, with their counts; the text so far grows into the text."""
    heard: list[str] = []
    options = Options(max_tokens=TOKENS)
    completions = await asyncio.gather(
        engine.recognize(page(0), options, heard.append), *(engine.recognize(page(n), options) for n in (1, 2))
    )
    for seed, completion in enumerate(completions):
        (alone,) = read(loaded, ask(seed=seed))
        assert (completion.text, completion.finish_reason) == (alone.text, "length")
        assert (completion.prompt_tokens, completion.completion_tokens) == (alone.prompt_tokens, TOKENS)
    assert heard
    assert all(completions[0].text.startswith(text) for text in heard)
    assert engine.health().ok


@module_loop
async def test_cancelled_page_frees_the_model(engine: TransformersEngine) -> None:
    """A page of thousands of tokens that is cancelled gives way to the next; the process stays."""
    pids = engine.pids()
    begun = asyncio.Event()
    reading = asyncio.create_task(engine.recognize(page(), Options(), lambda _: begun.set()))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    completion = await engine.recognize(page(1), Options(max_tokens=3))
    assert completion.completion_tokens == 3
    assert engine.pids() == pids != []


@module_loop
async def test_killed_process_is_a_dead_engine(folder: Path) -> None:
    """A process killed over its pages fails them as the engine's death; started again, the engine reads."""
    engine = TransformersEngine(model=str(folder), batch_size=2)
    await engine.start()
    begun = asyncio.Event()
    reading = [asyncio.create_task(engine.recognize(page(n), Options(), lambda _: begun.set())) for n in range(3)]
    await begun.wait()
    (pid,) = engine.pids()
    os.kill(pid, signal.SIGKILL)
    for answer in await asyncio.gather(*reading, return_exceptions=True):
        assert isinstance(answer, EngineDeadError)
        assert "killed by SIGKILL" in str(answer)
    assert not engine.health().ok
    await engine.stop()
    await engine.start()
    assert (await engine.recognize(page(), Options(max_tokens=3))).completion_tokens == 3
    await engine.stop()


@module_loop
async def test_silent_process_is_a_dead_engine(folder: Path) -> None:
    """A process that says nothing while a page is in flight is killed, and that is the engine's death."""
    engine = TransformersEngine(model=str(folder), hang_s=0.2)
    await engine.start()
    (pid,) = engine.pids()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineDeadError, match=r"no token for .* with 1 pages in flight"):
        await engine.recognize(page(), Options())
    assert not engine.health().ok
    await engine.stop()
    assert engine.pids() == []


@module_loop
async def test_refusal_of_the_process_is_that_of_the_start(tmp_path: Path) -> None:
    """What the process cannot load is the sentence with which the start fails; nothing is left running."""
    model = config_folder(tmp_path / "model", native_config(PUBLISHED))
    engine = TransformersEngine(model=model)
    with pytest.raises(EngineStartError, match=r"neither be found|cannot be loaded"):
        await engine.start()
    assert engine.pids() == []
    with pytest.raises(EngineStartError, match='backend = "vllm"'):
        await TransformersEngine(model=config_folder(tmp_path / "v1", V1)).start()
