"""The chat protocol: requests, answers, streams and errors."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepseek_ocr.chat import Answer, ChatError, Streamed, answer_of, error_message, events, request_body, retry_after_s
from deepseek_ocr.guard import SHORT
from deepseek_ocr.prompt import Options, Task
from tests.openai_server import completion_reply, stream_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PNG = b"\x89PNG\r\n\x1a\n picture"


def body(options: Options, *, vllm: bool = True, stream: bool = False) -> Any:
    """A request as a server sees it."""
    return json.loads(request_body("the-model", options, PNG, vllm=vllm, stream=stream))


def test_a_request_has_the_published_parameters() -> None:
    """Picture first, the words without the picture's place, temperature 0, special tokens kept, the guard."""
    assert body(Options()) == {
        "model": "the-model",
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()},
                    },
                    {"type": "text", "text": "<|grounding|>Convert the document to markdown."},
                ],
            }
        ],
        "temperature": 0,
        "skip_special_tokens": False,
        "vllm_xargs": {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]},
    }


def test_a_page_may_be_asked_for_with_another_guard() -> None:
    """As the recovery of a page that looped does."""
    asked = body(Options(guard=SHORT))["vllm_xargs"]
    assert asked == {"ngram_size": 20, "window_size": 50, "whitelist_token_ids": [128821, 128822]}


def test_another_server_gets_only_what_the_protocol_knows() -> None:
    """Without `vllm` no field is sent that a strict server would refuse."""
    assert body(Options(), vllm=False).keys() == {"model", "messages", "temperature"}


def test_a_limit_and_a_stream_are_asked_for_when_wanted() -> None:
    """`max_tokens` is left to the server unless set, and a stream counts its tokens."""
    asked = body(Options(max_tokens=9), stream=True)
    assert (asked["max_tokens"], asked["stream"], asked["stream_options"]) == (9, True, {"include_usage": True})
    assert not body(Options()).keys() & {"max_tokens", "stream", "stream_options"}


@given(st.text(min_size=1, max_size=50))
def test_a_prompt_cannot_take_the_place_of_the_picture(words: str) -> None:
    """Whatever the words are, they arrive as they are, and so does the picture."""
    for text in (words, f"{words}<picture>", f'"<picture>{words}'):
        assume(not any(token in text for token in ("<image>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")))  # noqa: RUF001
        first, second = body(Options(Task.CUSTOM, prompt=text))["messages"][0]["content"]
        assert base64.b64decode(first["image_url"]["url"].partition(",")[2]) == PNG
        assert second["text"] == text


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "stop"), ("length", "length"), ("repetition", "repetition"), ("abort", "abort"),
     ("error", "error"), ("content_filter", "error"), ("tool_calls", "error")],
)  # fmt: skip
def test_finish_reasons_are_ours(reason: str, expected: str) -> None:
    """What we do not know is no good end."""
    assert answer_of(completion_reply("# A\n", reason).body) == Answer("# A\n", expected, 907, 12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>gateway</html>", b"[]", b"{}", b"null", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": 3}',
     b'{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}', b"[" * 100_000,
     b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'],
    ids=lambda content: content[:60].decode(),
)  # fmt: skip
def test_what_is_no_answer_is_no_text(content: bytes) -> None:
    """Anything but a complete answer raises, with the beginning of what came."""
    with pytest.raises(ChatError) as caught:
        answer_of(content)
    assert caught.value.status == 200


@pytest.mark.parametrize(
    "usage",
    [None, {}, 3, {"prompt_tokens": None, "completion_tokens": "7"}],
    ids=["null", "empty", "a-number", "no-numbers"],
)
def test_a_server_may_count_no_tokens(usage: object) -> None:
    """The counts are then 0, and the text is good."""
    assert answer_of(completion_reply("x", usage=usage).body) == Answer("x", "stop", 0, 0)


async def in_chunks(content: bytes, size: int) -> AsyncIterator[bytes]:
    """As a socket gives it."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_is_the_text_whatever_it_holds(size: int) -> None:
    """Line ends that only Python knows (U+2028, U+0085) and characters cut in half are text like any other."""
    pieces = ["<|ref|>text", "\n\n", "a\u2028b\u0085c", "日本", "\U0001f600"]
    streamed = Streamed()
    stream = events(in_chunks(stream_reply(*pieces).body, size))
    seen = [streamed.text async for data in stream if streamed.add(data)]
    assert streamed.answer() == Answer("".join(pieces), "stop", 907, 12)
    assert seen == ["".join(pieces[: count + 1]) for count in range(len(pieces))]


async def test_comments_and_carriage_returns_in_a_stream_are_nothing() -> None:
    """Proxies keep a stream alive with comments, and end lines as they like."""
    found = [data async for data in events(in_chunks(b": ping\r\n\r\ndata:{}\r\n\r\nevent: x\ndata: [DONE]\n\n", 5))]
    assert found == [b"{}", b"[DONE]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'{"error": {"message": "too long", "code": 400}}', "too long", id="vllm-and-openai"),
        pytest.param(b'{"object": "error", "message": "too long", "code": 400}', "too long", id="vllm-of-old"),
        pytest.param(b'{"error": "model not found"}', "model not found", id="ollama"),
        pytest.param(b'{"detail": "Not Found"}', "Not Found", id="fastapi"),
        pytest.param(b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]', id="fastapi-list"),
        pytest.param(b"<html>\n<b>502\x1b[31m Bad</b>", "<html> <b>502[31m Bad</b>", id="a-proxy"),
        pytest.param(b"\xff", "\ufffd", id="no-text"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"x" * 10_000, "x" * 300 + "...", id="long"),
    ],
)
def test_a_server_says_what_is_wrong_in_many_forms(content: bytes, message: str) -> None:
    """The message is one short printable line."""
    assert error_message(content) == message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        ("", 0.0),
        ("soon", 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 12.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after_has_two_forms(value: str, seconds: float) -> None:
    """Seconds or a date; what is neither says nothing."""
    assert retry_after_s(value, 1445412468.0) == seconds
