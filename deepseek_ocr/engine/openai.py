"""A remote engine: one or several `vllm serve` processes, or any server that speaks OpenAI's chat protocol.

Left to others: the words on the wire (`chat.py`), which server is next (`servers.py`).  The resolution mode is the
server's (vLLM's own DeepSeek-OCR class always reads as gundam): `Options.mode` is ignored.
Residual risks: a page over which a server always fails (5xx) looks like a server that is ill, so it ends as
`EngineDeadError`; the time a page waits inside a server counts against `timeout_s`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

import httpx2

from deepseek_ocr.chat import ChatError, Streamed, answer_of, error_message, events, request_body, retry_after_s
from deepseek_ocr.completion import LONGEST_PAGE_S, Completion, EngineInfo, Health
from deepseek_ocr.engine.openai_config import base_url
from deepseek_ocr.errors import EngineDeadError, EngineStartError, PageError
from deepseek_ocr.prompt import Task
from deepseek_ocr.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deepseek_ocr.chat import Answer
    from deepseek_ocr.completion import PageImage
    from deepseek_ocr.engine.openai_config import OpenAISettings
    from deepseek_ocr.prompt import Options
    from deepseek_ocr.servers import Server

#: Where the key is looked for without a file.  Not OPENAI_API_KEY: that one is for api.openai.com, and would go to
#: whatever server stands in the configuration.
KEY_VARIABLE: Final = "OCR_DAEMON_API_KEY"
#: Seconds to a connection, and to the list of models at the start.
CONNECT_TIMEOUT_S: Final = 10.0
#: An idle connection is closed before uvicorn does it (after 5 s, vLLM's VLLM_HTTP_TIMEOUT_KEEP_ALIVE), or a request
#: could meet the server's farewell.
KEEP_ALIVE_S: Final = 3.0
#: The wait before the first retry; it doubles with each further one, up to the second figure.
BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
#: A server's Retry-After is heeded up to here.
MAX_RETRY_AFTER_S: Final = 120.0
#: Answers about this page alone: it is too large, or not what the server takes.
PAGE_STATUS: Final = frozenset({400, 413, 415, 422})
#: Besides 5xx: what may be well a moment later.
RETRY_STATUS: Final = frozenset({408, 409, 425, 429})


class _Failure(Exception):
    """One attempt failed, through no fault of the page; `is_final` = the same server would answer the same again."""

    def __init__(self, message: str, *, is_final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.is_final = is_final
        self.retry_after_s = retry_after_s


class OpenAIEngine:
    """Reads pages on remote servers."""

    def __init__(
        self,
        settings: OpenAISettings,
        *,
        model: str = "deepseek-ai/DeepSeek-OCR",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        """Raises `EngineStartError` for addresses that are none.  `model` is the name under which it is served."""
        if not settings.base_urls:
            raise EngineStartError(
                "the openai engine has no server to ask: list them under [engine.openai], "
                'such as base_urls = ["http://127.0.0.1:8000/v1"]'
            )
        try:
            self._servers = Servers([base_url(url) for url in settings.base_urls])
        except ValueError as error:
            raise EngineStartError(f"engine.openai.base_urls: {error}") from error
        self._settings = settings
        self._model = model
        self._key = ""
        self._clock = clock
        self._sleep = sleep
        self._keep_alive_s = keep_alive_s
        self._client: httpx2.AsyncClient | None = None
        capacity = settings.concurrency * len(settings.base_urls)
        #: Pages beyond the capacity wait here, before their time runs.
        self._slots = asyncio.Semaphore(capacity)
        #: `model` is what the servers serve once `start` has asked them.
        self.info = EngineInfo(
            name="openai", model=model, tasks=frozenset(Task), needs="png", capacity=capacity,
            longest_page_s=LONGEST_PAGE_S + (settings.retries + 1) * (settings.timeout_s + MAX_RETRY_AFTER_S),
            prompted=True, guarded=settings.vllm,
        )  # fmt: skip

    async def start(self) -> None:
        """Ask each server what it serves; one that does not answer is tolerated if another does.

        Raises `EngineStartError`.
        """
        await self.stop()
        self._key = self._read_key()
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(self._settings.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx2.Limits(
                max_connections=self.info.capacity,
                max_keepalive_connections=self.info.capacity,
                keepalive_expiry=self._keep_alive_s,
            ),
        )
        try:
            self._model = await self._served_model(self._client)
        except BaseException:
            await self.stop()
            raise
        self.info = replace(self.info, model=self._model)

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Read one page; raises `PageError` if a server refuses it, `EngineDeadError` when all retries are used up."""
        started = time.perf_counter()
        if page.ink == 0:
            return Completion("", "stop", seconds=time.perf_counter() - started)
        if not page.png:
            raise ValueError("the openai engine needs the page as PNG")
        async with self._slots:
            started = time.perf_counter()
            body = request_body(self._model, options, page.png, vllm=self._settings.vllm, stream=on_text is not None)
            answer = await self._ask(body, on_text)
        return Completion(
            answer.text,
            answer.finish_reason,
            seconds=time.perf_counter() - started,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )

    async def stop(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def health(self) -> Health:
        """How many servers answered when they were last asked, and what is wrong with the others."""
        if self._client is None:
            return Health(ok=False, detail="not started")
        bad = [f"{server.url}: {server.problem}" for server in self._servers.all if server.failures]
        count = len(self._servers.all)
        words = [f"{count - len(bad)} of {count} servers answer", *bad]
        return Health(ok=len(bad) < count, detail="; ".join(words))

    # -- one page

    async def _ask(self, body: bytes, on_text: Callable[[str], None] | None) -> Answer:
        """The answer of the first server that gives one."""
        tries = 0
        while True:
            server = self._servers.take(self._clock())
            began = self._clock()
            try:
                answer = await self._attempt(server.url, body, on_text)
            except _Failure as failure:
                self._failed(server, failure, began)
                last = failure
            except PageError:
                self._servers.answered(server)
                raise
            else:
                self._servers.answered(server)
                return answer
            finally:
                server.in_flight -= 1
            tries += 1
            if tries > self._settings.retries:
                raise EngineDeadError(f"{server.url}: {last.message} ({tries} attempts)")
            if self._servers.any_well(self._clock()):
                continue
            if last.is_final:
                raise EngineDeadError(f"{server.url}: {last.message}")
            backoff_s = min(BACKOFF_S * 2 ** (tries - 1), MAX_BACKOFF_S) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            await self._sleep(max(last.retry_after_s, backoff_s))

    async def _attempt(self, url: str, body: bytes, on_text: Callable[[str], None] | None) -> Answer:
        """Ask one server once; raises `_Failure` or `PageError`."""
        if self._client is None:
            raise EngineDeadError("the openai engine is not running")
        request = self._client.build_request(
            "POST", f"{url}/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._client.send(request, stream=True)
                try:
                    return await _read(response, on_text)
                except ChatError as error:
                    self._raise(error, response.headers.get("Retry-After", ""))
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise _Failure(f"no answer within {self._settings.timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise _Failure(_words(error)) from error

    def _raise(self, error: ChatError, retry_after: str) -> NoReturn:
        """The reaction to each status, in one place."""
        status, message = error.status, self._without_key(error.message)
        if status == httpx2.codes.OK:
            raise _Failure(message) from error
        if status in PAGE_STATUS:
            raise PageError(f"the server refuses this page ({status}: {message})") from error
        if status in RETRY_STATUS or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            wait_s = min(retry_after_s(retry_after, time.time()), MAX_RETRY_AFTER_S)
            raise _Failure(f"{status}: {message}", retry_after_s=wait_s) from error
        raise _Failure(_refusal(status, message, self._model), is_final=True) from error

    def _failed(self, server: Server, failure: _Failure, began: float) -> None:
        self._servers.failed(server, failure.message, began=began, now=self._clock(), avoid_s=failure.retry_after_s)

    # -- start

    def _read_key(self) -> str:
        """The key from its file or the environment, empty for none; no message shows it."""
        if self._settings.api_key_file is None:
            key, origin = os.environ.get(KEY_VARIABLE, "").strip(), f"the variable {KEY_VARIABLE}"
        else:
            origin = f"engine.openai.api_key_file ({self._settings.api_key_file})"
            try:
                key = self._settings.api_key_file.read_text(encoding="utf-8", errors="replace").strip()
            except OSError as error:
                raise EngineStartError(f"{origin} cannot be read: {error.strerror}") from error
            if not key:
                raise EngineStartError(f"{origin} is empty: put the server's key into it, or remove the setting")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EngineStartError(f"{origin} holds no key: a key is one word of ASCII characters")
        return key

    async def _served_model(self, client: httpx2.AsyncClient) -> str:
        """The name of the model that all servers which answer serve; raises `EngineStartError`."""
        found = await asyncio.gather(*(self._models(client, server) for server in self._servers.all))
        answered = [
            (server, names) for server, names in zip(self._servers.all, found, strict=True) if names is not None
        ]
        if not answered:
            problems = "; ".join(f"{server.url}: {server.problem}" for server in self._servers.all)
            raise EngineStartError(f"no server answers ({problems}): start it, or correct engine.openai.base_urls")
        chosen = {}
        for server, names in answered:
            if self._model not in names and len(names) != 1:
                served = f"serves {', '.join(names)}" if names else "serves no model"
                raise EngineStartError(
                    f"{server.url} {served}, not {self._model}: set engine.model to one that it serves"
                )
            chosen[self._model if self._model in names else names[0]] = server.url
        if len(chosen) > 1:
            models = ", ".join(f"{url}: {model}" for model, url in chosen.items())
            raise EngineStartError(f"the servers serve different models ({models}): list only servers of one model")
        return next(iter(chosen))

    async def _models(self, client: httpx2.AsyncClient, server: Server) -> list[str] | None:
        """What a server serves, None if it does not answer; raises `EngineStartError` for an answer that is final."""
        began = self._clock()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                response = await client.get(f"{server.url}/models")
            names = _names(response)
        except TimeoutError:
            self._failed(server, _Failure(f"no answer within {CONNECT_TIMEOUT_S:g} s"), began)
        except httpx2.HTTPError as error:
            self._failed(server, _Failure(_words(error)), began)
        except (ValueError, LookupError, TypeError) as error:
            raise EngineStartError(
                f"{server.url}/models is no list of models: engine.openai.base_urls should end where "
                f"/chat/completions begins, mostly with /v1"
            ) from error
        except ChatError as error:
            message = self._without_key(error.message)
            if error.status in RETRY_STATUS or error.status >= httpx2.codes.INTERNAL_SERVER_ERROR:
                self._failed(server, _Failure(f"{error.status}: {message}"), began)
            elif error.status == httpx2.codes.NOT_FOUND:
                raise EngineStartError(
                    f"{server.url}/models does not exist (404): engine.openai.base_urls should end where "
                    f"/chat/completions begins, mostly with /v1"
                ) from error
            else:
                raise EngineStartError(f"{server.url}: {_refusal(error.status, message, self._model)}") from error
        else:
            self._servers.answered(server)
            return names
        return None

    def _without_key(self, message: str) -> str:
        """A server's message as it may be shown: some repeat the key they refuse."""
        return message.replace(self._key, "***") if self._key else message


async def _read(response: httpx2.Response, on_text: Callable[[str], None] | None) -> Answer:
    """The answer, with `on_text` called on all of it so far at each new piece; raises `ChatError`."""
    if response.status_code != httpx2.codes.OK:
        raise ChatError(error_message(await response.aread()), response.status_code)
    # A server that cannot stream answers as if it had not been asked to.
    if on_text is None or response.headers.get("Content-Type", "").startswith("application/json"):
        return answer_of(await response.aread())
    streamed = Streamed()
    async for data in events(response.aiter_bytes()):
        if streamed.add(data):
            on_text(streamed.text)
    return streamed.answer()


def _names(response: httpx2.Response) -> list[str]:
    """The models in a list of them; raises `ChatError` for another status, and what parsing raises."""
    if response.status_code != httpx2.codes.OK:
        raise ChatError(error_message(response.content), response.status_code)
    return [str(model["id"]) for model in response.json()["data"]]


def _refusal(status: int, message: str, model: str) -> str:
    """What to do about an answer that stays the same however often it is asked for."""
    if status in {401, 403}:  # some repeat a part of the key in their message
        return f"the key is refused ({status}): put the right one into engine.openai.api_key_file or {KEY_VARIABLE}"
    if status == httpx2.codes.NOT_FOUND:
        return f"it does not serve {model} ({status}: {message}): correct engine.model or engine.openai.base_urls"
    return f"it cannot be used ({status}: {message}): correct engine.openai.base_urls"


def _words(error: httpx2.HTTPError) -> str:
    """A fault of the connection; many of them have no words of their own."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
