"""The real command on the real vLLM with the tiny model: documents go in, the engine is killed, documents come out."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.conftest import wait_until
from tests.service import REPOSITORY, Service, command
from tests.vllm_cpu.conftest import TIMEOUT_S, draw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = 16
#: Importing vLLM and loading the model, on cores that other tests keep busy.
START_S = 150
#: To be up again and to have read all documents.
READ_S = 180
#: For the processes of an engine to end.
GONE_S = 15


@pytest.fixture(scope="module")
def model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers end."""
    from tests.vllm_cpu.tiny_model import build  # noqa: PLC0415 - imports torch

    del model_folder  # it tells vLLM of tiny towers
    return build(tmp_path_factory.mktemp("ends") / "DeepSeek-OCR", ends_soon=True)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service on an empty root, without a model and not started; at the end each document lies in one folder."""
    with Service(tmp_path, backend="vllm") as service:
        yield service
        service.kill_group()
        service.root.check()


def in_flight(service: Service) -> str:
    """What its status says of the engine."""
    return str(service.status["engine"]["detail"])


def png(number: int) -> bytes:
    """A scan that is like no other."""
    file = io.BytesIO()
    draw(600 + number, 400).save(file, "PNG")
    return file.getvalue()


def engine_core(service: Service) -> Any:
    """The process in which vLLM decides what is read next, by the title that it gives itself."""
    (core,) = [child for child in psutil.Process(service.pid).children() if "EngineCore" in " ".join(child.cmdline())]
    return core


def wait_until_gone(processes: list[Any]) -> None:
    """Python's own helpers take a moment to see that nobody needs them any more.

    One whose parent was killed belongs to the first process of the machine, which may never look at its end.
    """
    wait_until(lambda: not any(map(is_alive, processes)), GONE_S, lambda: str([*filter(is_alive, processes)]))


def is_alive(process: Any) -> bool:
    """Whether it still runs."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.timeout(TIMEOUT_S + START_S + READ_S)
def test_no_document_is_lost_when_the_engine_is_killed(service: Service, model: Path) -> None:
    """READY comes after a first page; a killed engine is built anew beneath open documents; SIGTERM leaves nothing."""
    service.write_config(engine=f'model = "{model}"\nmode = "tiny"')
    service.start().ready(START_S)
    names = [event["event"] for event in service.events()]
    # Random weights read nonsense, which is said and borne.
    assert names.index("engine.misread") < names.index("engine.ready") < names.index("service.ready")
    (ready,) = service.events("engine.ready")
    assert "8 pages at once, 2048 tokens a step" in ready["detail"]
    assert service.status["engine"]["name"] == "vllm"
    processes = psutil.Process(service.pid).children(recursive=True)
    core = engine_core(service)

    for number in range(4):
        service.root.drop(f"scan-{number:02}.png", png(number))
    wait_until(lambda: len(service.events("page.recognized")) >= 3, 60, service.tail)
    core.suspend()  # so that pages are in flight for certain
    for number in range(4, DOCUMENTS):
        service.root.drop(f"scan-{number:02}.png", png(number))
    wait_until(lambda: "page" in in_flight(service) and not in_flight(service).startswith("0 "), 60, service.tail)
    core.kill()
    wait_until(lambda: "engine" in service.status.get("pauses", {}), 60, service.tail)
    assert "the engine died: vLLM's engine core died" in service.status["pauses"]["engine"]
    assert not service.status["engine"]["ok"]
    wait_until(lambda: "the engine died" in service.manager.status, 60, service.tail)
    ended = len(service.events("job.done"))
    assert ended < DOCUMENTS, "nothing was left to lose"
    wait_until(lambda: sum(service.root.ended()) == DOCUMENTS, READ_S, service.tail)

    assert service.root.ended() == (DOCUMENTS, 0)
    (died,), (revived,) = service.events("engine.died"), service.events("engine.revived")
    assert died["deaths"] == 1
    assert revived["pages"] > 0
    wait_until(lambda: len(service.events("job.done")) == DOCUMENTS, 15, service.tail)
    done = service.events("job.done")
    assert {event["status"] for event in done} <= {"done", "partial"}
    assert {event["attempts"] for event in done} == {0}
    wait_until(lambda: not service.status["pauses"], 15, service.tail)
    assert "deaths so far: 1" in service.status["engine"]["detail"]
    balance = service.audit()
    assert balance["seen"] == DOCUMENTS == balance["done"] + balance["partial"]

    processes += psutil.Process(service.pid).children(recursive=True)
    assert service.stop() == 0
    wait_until_gone(processes)


@pytest.mark.timeout(TIMEOUT_S + START_S)
def test_a_killed_service_leaves_no_engine_on_the_card(service: Service, model: Path) -> None:
    """The core does not watch its parent by itself, and would hold the memory that the next start needs."""
    service.write_config(engine=f'model = "{model}"\nmode = "tiny"')
    service.start().ready(START_S)
    processes = psutil.Process(service.pid).children(recursive=True)
    assert engine_core(service) in processes
    service.kill()
    wait_until_gone(processes)


def with_plugin() -> str:
    """The `PYTHONPATH` of a command that knows the plugin of these tests."""
    return os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])


def test_weights_of_something_else_are_named(tmp_path: Path, model: Path) -> None:
    """It is found out in vLLM's core: exit code 69, its cause and the remedy, and no result.

    vLLM logged to standard output, where programs look for JSON.
    """
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.glob("*.json"):
        (folder / path.name).symlink_to(path)
    no_tensors = b"{}"
    (folder / "model.safetensors").write_bytes(len(no_tensors).to_bytes(8, "little") + no_tensors)
    (tmp_path / "scan.png").write_bytes(png(0))
    (tmp_path / "config.toml").write_text(f'[engine]\nmodel = "{folder}"\n', encoding="utf-8")
    arguments = ("ocr", "scan.png", "--engine", "vllm", "--config", "config.toml", "--json")
    result = command(*arguments, cwd=tmp_path, timeout_s=START_S, PYTHONPATH=with_plugin())
    assert (result.returncode, result.stdout) == (69, "")
    sentence = f'Error: the model "{folder}" cannot be loaded: ValueError: Following weights were not initialized from'
    assert sentence in result.stderr
    assert result.stderr.endswith("or let this machine reach the hub once\n")


@pytest.mark.timeout(TIMEOUT_S + START_S)
def test_too_little_memory_is_told(service: Service, model: Path) -> None:
    """The core finds out: exit code 69, and one sentence with its figures and what helps."""
    service.write_config(engine=f'model = "{model}"\nmode = "tiny"')
    arguments = ("run", "--config", str(service.config))
    result = command(*arguments, timeout_s=START_S, PYTHONPATH=with_plugin(), VLLM_CPU_KVCACHE_SPACE="1000000")
    assert result.returncode == 69, result.stdout + result.stderr
    told = [line for line in (result.stdout + result.stderr).splitlines() if "too little memory for the engine" in line]
    assert "ValueError: Available memory on node" in told[0]
    assert "VLLM_CPU_KVCACHE_SPACE in the environment says" in told[0]


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_model_that_is_not_there_is_named(service: Service, name: str) -> None:
    """Exit code 69 and the sentence with the remedy, before anything is loaded."""
    missing = service.folder / "no-model"
    service.write_config(engine=f'model = "{missing}"')
    result = command(name, "--config", str(service.config))
    assert result.returncode == 69, result.stdout + result.stderr
    sentence = f"engine.model is the folder {missing}, and there is no config.json in it; give the folder that holds"
    assert sentence in result.stdout + result.stderr
