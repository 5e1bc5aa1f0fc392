"""The process of the transformers engine: it loads DeepSeek-OCR-2 and reads pages, some of them together.

Pages that wait are read as one batch, padded on the left; each is answered when it ends, the next batch starts when
all have.  What a batch cannot do for want of memory, or for a page that fails, its halves try again.
Left to others: loading (`transformers_load.py`), which tokens are banned (`guard.py`), the other end of the pipe
(`transformers.py`).
Residual risks: a page that waits for a long one in its batch's place waits for all of it; a batch of pages may differ
from the pages alone in the last bit of a logit, as padding changes the order of sums.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from deepseek_ocr.engine.transformers_load import load, out_of_memory
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.guard import PUBLISHED, Guard, banned_tokens
from deepseek_ocr.processes import tie_to_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    import numpy as np
    from numpy.typing import NDArray

    from deepseek_ocr.completion import FinishReason
    from deepseek_ocr.engine.transformers_load import Loaded

#: A page's text so far goes out so often: decoding all of it for each token would cost as much as a small model.
STREAM_S: Final = 0.25


# Towards the process


@dataclass(frozen=True, slots=True)
class Ask:
    """Read this page."""

    number: int
    #: (height_px, width_px, 3) RGB.
    pixels: NDArray[np.uint8]
    prompt: str
    #: 0 = as many as the context holds.
    max_tokens: int
    #: Whether the text so far is wanted.
    stream: bool
    guard: Guard = PUBLISHED


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody waits for this page any more."""

    number: int


# From the process


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot be loaded; the process ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Text:
    """What there is of a page."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Alive:
    """Another token, of a page whose text nobody wants yet; at most every `STREAM_S`."""


@dataclass(frozen=True, slots=True)
class Read:
    """A page."""

    number: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A page that fails, also alone."""

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Died:
    """The accelerator is at fault; the process ends."""

    message: str


class _DeviceFault(Exception):
    """Nothing more can be done in this process; the message says why."""


def serve(connection: Connection, parent_pid: int, model: str, device: str, batch_size: int) -> None:
    """The process: load, then read what is asked, until the other end closes or a fault of the accelerator."""
    tie_to_parent(parent_pid)
    # Cards are counted as `nvidia-smi` does, as the vllm engine counts them, and not the fastest first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        reader = BatchReader(load(model, device), connection.send)
    except EngineStartError as error:
        connection.send(Refused(str(error)))
        return
    connection.send(Ready())
    threading.Thread(target=_listen, args=(connection, reader), name="listen", daemon=True).start()
    try:
        while True:
            reader.read(reader.take(batch_size))
    except _DeviceFault as error:
        connection.send(Died(str(error)))


def _listen(connection: Connection, reader: BatchReader) -> None:
    """Take messages at once, so that giving a page up reaches it while it is read."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            if isinstance(message, Ask):
                reader.put(message)
            else:
                reader.give_up(message.number)
    os._exit(0)  # nobody is left to read for, whatever the model is doing


class BatchReader:
    """Pages that wait and the model that reads them; `put` and `give_up` may be called from another thread."""

    def __init__(self, loaded: Loaded, send: Callable[[Text | Alive | Read | Unreadable], object]) -> None:
        self._loaded = loaded
        self._send = send
        #: Guards the two below; notified when a page comes.
        self._changed = threading.Condition()
        self._waiting: list[Ask] = []
        #: Pages in work that nobody waits for any more.
        self._given_up: set[int] = set()

    def put(self, ask: Ask) -> None:
        """Let a page wait for the next batch."""
        with self._changed:
            self._waiting.append(ask)
            self._changed.notify()

    def give_up(self, number: int) -> None:
        """Forget a page: at once if it waits, at the next token if it is read."""
        with self._changed:
            waiting = [ask for ask in self._waiting if ask.number != number]
            if len(waiting) == len(self._waiting):
                self._given_up.add(number)
            self._waiting = waiting

    def take(self, batch_size: int) -> list[Ask]:
        """The next pages, as soon as there is one."""
        with self._changed:
            self._given_up.clear()  # those were of the last batch
            self._changed.wait_for(lambda: self._waiting)
            batch, self._waiting = self._waiting[:batch_size], self._waiting[batch_size:]
            return batch

    def read(self, asks: Sequence[Ask]) -> None:
        """Answer each of these pages that is not given up meanwhile; raises `_DeviceFault`."""
        batches = [list(asks)]
        while batches:
            batch = batches.pop(0)
            rows = [Row(ask) for ask in batch]
            failure = self._attempt(rows)
            left = [row.ask for row in rows if not row.over]
            if len(left) > 1:
                batches[:0] = [left[: len(left) // 2], left[len(left) // 2 :]]
            elif left and failure.out_of_memory:
                raise _DeviceFault(f"one page alone needs more memory than {self._loaded.device} has: {failure.reason}")
            elif left:
                self._send(Unreadable(left[0].number, failure.reason))

    def _attempt(self, rows: list[Row]) -> _Failure:
        """Read these pages together; what went wrong comes back, as the error itself would hold on to the memory."""
        import torch  # noqa: PLC0415

        try:
            with torch.inference_mode():
                self._generate(torch, rows)
        except Exception as error:  # noqa: BLE001 - by what is left we tell what to do
            failure = _Failure(f"{type(error).__name__}: {str(error).strip()[:500]}", out_of_memory(error))
        else:
            failure = _Failure("the model gave the page no end", out_of_memory=False)
        if self._loaded.device.startswith("cuda"):
            try:
                torch.cuda.synchronize()  # a fault of the card comes again with every call
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise _DeviceFault(f"a fault of {self._loaded.device}: {failure.reason}") from error
        return failure

    def _generate(self, torch: Any, rows: list[Row]) -> None:
        from PIL import Image  # noqa: PLC0415

        loaded = self._loaded
        bos = loaded.tokenizer.bos_token
        # The model starts with BOS (DeepSeek-OCR's infer()); not every copy of the tokenizer puts it there.
        adds_bos = loaded.tokenizer("a")["input_ids"][0] == loaded.tokenizer.bos_token_id
        inputs = loaded.processor(
            images=[Image.fromarray(row.ask.pixels) for row in rows],
            text=[row.ask.prompt if adds_bos else bos + row.ask.prompt for row in rows],
            padding=True,
            return_tensors="pt",
        )
        for row, prompt_tokens in zip(rows, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
            row.prompt_tokens = prompt_tokens
            room = loaded.context_tokens - prompt_tokens
            row.limit = min(row.ask.max_tokens or room, room)

        def guard(_input_ids: Any, scores: Any) -> Any:
            for index, row in enumerate(rows):
                size, window = row.ask.guard.ngram_size, row.ask.guard.window_size
                banned = set() if row.over else banned_tokens(row.output, size, window, loaded.exempt)
                if banned:
                    scores[index, sorted(banned)] = -torch.inf
            return scores

        def is_over(input_ids: Any, _scores: Any, **_: Any) -> Any:
            self._advance(rows, input_ids[:, -1].tolist())
            return torch.tensor([row.over for row in rows], device=input_ids.device)

        loaded.network.generate(
            **inputs.to(loaded.device, dtype=loaded.network.dtype),
            max_new_tokens=max(row.limit for row in rows),
            logits_processor=[guard],
            stopping_criteria=[is_over],
        )

    def _advance(self, rows: list[Row], tokens: list[int]) -> None:
        """Add a token to each page that is not over, and send what there is to send."""
        end = self._loaded.tokenizer.eos_token_id
        with self._changed:
            given_up = set(self._given_up)
        for row, token in zip(rows, tokens, strict=True):
            if row.over:
                continue
            row.output.append(token)
            number = row.ask.number
            if number in given_up:
                row.over = True
            elif token == end or len(row.output) >= row.limit:
                row.over = True
                text, reason = self._decode(row.output), "stop" if token == end else "length"
                self._send(Read(number, text, reason, row.prompt_tokens, len(row.output)))  # type: ignore[arg-type]
            elif time.monotonic() >= row.next_word:
                row.next_word = time.monotonic() + STREAM_S
                # The last letter may not be whole yet.
                text = self._decode(row.output).rstrip("\N{REPLACEMENT CHARACTER}") if row.ask.stream else ""
                self._send(Text(number, text) if text else Alive())

    def _decode(self, output: list[int]) -> str:
        """The text with its tags, without the token that ends it."""
        end = self._loaded.tokenizer.eos_token_id
        kept = output[:-1] if output[-1] == end else output
        text = self._loaded.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)


@dataclass(slots=True)
class Row:
    """One page of a batch, while it is read."""

    ask: Ask
    prompt_tokens: int = 0
    #: Tokens of the answer at most.
    limit: int = 0
    output: list[int] = field(default_factory=list)
    #: Whether it was answered or given up.
    over: bool = False
    #: When there may be word of it again.
    next_word: float = 0.0


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    out_of_memory: bool
