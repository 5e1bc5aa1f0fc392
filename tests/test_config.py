"""Settings: the shipped file is the defaults, the environment overrides, and what is wrong is refused by name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from daemon.config import ConfigError, Settings, defaults, load
from deepseek_ocr.prompt import AUTO, Mode, Task, mode_choice

SHIPPED = Path(__file__).parent.parent / "config.toml"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def config(folder: Path, text: str) -> Path:
    """A configuration file."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


# The manual


def test_the_shipped_file_is_the_defaults() -> None:
    """Loading the shipped config.toml gives exactly what an empty one gives."""
    assert load(SHIPPED) == Settings()


def test_the_shipped_file_names_every_key() -> None:
    """Every setting stands in config.toml, which is its manual."""
    content = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert _keys(content) == _fields(Settings())


def _keys(content: dict[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in content.items():
        if isinstance(value, list) and value:
            value = value[0]  # noqa: PLW2901 - the one inbox
        keys |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return keys


def _fields(model: BaseModel, prefix: str = "") -> set[str]:
    keys = set()
    for key in type(model).model_fields:
        value = getattr(model, key)
        if isinstance(value, tuple) and value:
            value = value[0]
        keys |= _fields(value, f"{prefix}{key}.") if isinstance(value, BaseModel) else {prefix + key}
    return keys


@pytest.mark.parametrize("key", sorted(_fields(Settings())))
def test_every_key_has_its_reason_beside_it(key: str) -> None:
    """Above every key of the shipped file, or above its neighbour in the same paragraph, stands a comment."""
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    table = key.rpartition(".")[0]
    start = next(number for number, line in enumerate(lines) if line in {f"[{table}]", f"[[{table}]]"})
    name = key.rpartition(".")[2]
    at = next(number for number in range(start, len(lines)) if re.match(rf"{name}\s*=", lines[number]))
    while lines[at - 1].strip() and not lines[at - 1].startswith(("#", "[")):
        at -= 1
    assert lines[at - 1].startswith("#")


# What is refused

REFUSED = {
    "typing mistake": ("[watch]\nsetle_s = 3", "watch.setle_s: unknown key"),
    "unknown table": ("[whatch]\nsettle_s = 3", "unknown key: whatch"),
    "unknown key in an inbox": ('[[inbox]]\nfolder = "/x"', "inbox.0.folder: unknown key"),
    "unknown key below a table": ("[engine.cpu]\nthreads = 2", "engine.cpu.threads: unknown key"),
    "argument of the settings library": ('_env_file = "secrets"', "unknown key: _env_file"),
    "switch of the settings library": ("_cli_parse_args = true", "unknown key: _cli_parse_args"),
    "no TOML": ("[watch\n", "not valid TOML"),
    "a step too small for a page": (
        "[engine.vllm]\nmax_num_batched_tokens = 2047",
        "max_num_batched_tokens must be 0 or at least 2048: a page's",
    ),
    "settle_s zero": ("[watch]\nsettle_s = 0", "watch.settle_s: "),
    "settle_s not a number": ("[watch]\nsettle_s = nan", "watch.settle_s: "),
    "rescan_s without end": ("[watch]\nrescan_s = inf", "watch.rescan_s: "),
    "grace_s negative": ("[service]\ngrace_s = -1", "service.grace_s: "),
    "max_attempts zero": ("[limits]\nmax_attempts = 0", "limits.max_attempts: "),
    "max_pages zero": ("[limits]\nmax_pages = 0", "limits.max_pages: "),
    "max_file_mb a fraction": ("[limits]\nmax_file_mb = 0.5", "limits.max_file_mb: "),
    "port too high": ("[http]\nport = 65536", "http.port: "),
    "backend unknown": ('[engine]\nbackend = "tesseract"', "engine.backend: "),
    "openai without a server": ('[engine]\nbackend = "openai"', "needs the addresses of servers in engine.openai.base"),
    "server without http": (
        '[engine.openai]\nbase_urls = ["gpu1:8000/v1"]',
        "engine.openai.base_urls.0: 'gpu1:8000/v1'",
    ),
    "server with a password": ('[engine.openai]\nbase_urls = ["http://a:b@gpu1/v1"]', "must hold no user or password"),
    "no page in flight": ("[engine.openai]\nconcurrency = 0", "engine.openai.concurrency: "),
    "mode unknown": ('[engine]\nmode = "huge"', "engine.mode: "),
    "log level unknown": ('[service]\nlog_level = "loud"', "service.log_level: "),
    "instance with a slash": ('[service]\ninstance = "a/b"', "service.instance: "),
    "inbox name empty": ('[[inbox]]\nname = ""', "inbox.0.name: "),
    "inbox name with a space": ('[[inbox]]\nname = "my inbox"', "inbox.0.name: "),
    "one table instead of a list": ('[inbox]\nname = "a"', "one table [[inbox]] per inbox"),
    "no inbox": ("inbox = []", "one table [[inbox]] per inbox"),
    "custom without a prompt": ('[[inbox]]\ntask = "custom"', "inbox.0: task = "),
    "prompt without custom": ('[[inbox]]\nprompt = "Read."', "inbox.0: task = "),
    "locate without a text": ('[[inbox]]\ntask = "locate"', "inbox.0: task = "),
    "text without locate": ('[[inbox]]\ntext = "total"', "inbox.0: task = "),
    "two inboxes of one name": ('[[inbox]]\nroot = "/a"\n[[inbox]]\nroot = "/b"', "inbox names must differ: default"),
    "two inboxes of one root": ('[[inbox]]\nname = "a"\n[[inbox]]\nname = "b"', "folders overlap: a: inbox "),
    "a root in the inbox of another": (
        '[[inbox]]\nname = "a"\nroot = "/x"\n[[inbox]]\nname = "b"\nroot = "/x/inbox/y"',
        "folders overlap: a: inbox (/x/inbox) and b: ",
    ),
    "outbox in the inbox": ('[[inbox]]\nroot = "/x"\noutbox = "/x/inbox/out"', "folders overlap: default: inbox "),
    "outbox by a detour in the inbox": ('[[inbox]]\nroot = "/x"\noutbox = "/y/../x/inbox"', "folders overlap"),
    "outbox is the root": ('[[inbox]]\nroot = "/x"\noutbox = "/x"', "folders overlap"),
    "two inboxes of one outbox": (
        '[[inbox]]\nname = "a"\nroot = "/a"\noutbox = "/o"\n[[inbox]]\nname = "b"\nroot = "/b"\noutbox = "/o"',
        "folders overlap: a: outbox (/o) and b: outbox (/o)",
    ),
    "a relative root and the same absolute one": (
        '[[inbox]]\nname = "a"\nroot = "r"\n[[inbox]]\nname = "b"\nroot = "HERE/r"',
        "folders overlap: a: inbox ",
    ),
    "state folder in an outbox": (
        '[service]\nstate_dir = "/x/outbox/state"\n[[inbox]]\nroot = "/x"',
        "folders overlap: service.state_dir (/x/outbox/state) lies in default: outbox",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    """A wrong file is refused with a message that names the file, the key and what is the matter."""
    path = config(tmp_path, text.replace("HERE", str(tmp_path)))
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        load(path)
    assert str(path) in str(refusal.value)


def test_a_mistake_in_an_inbox_is_told_once(tmp_path: Path) -> None:
    """An inbox with an unknown export is not told to be missing besides."""
    path = config(tmp_path, '[[inbox]]\nexports = ["docing"]')
    with pytest.raises(ConfigError) as refusal:
        load(path)
    message = "inbox.0.exports.0: Input should be 'docling', 'content_list' or 'layout'"
    assert str(refusal.value) == f"{path}: {message}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Two mistakes are both in the message."""
    with pytest.raises(ConfigError, match=r"watch\.settle_s: .*; http\.port: "):
        load(config(tmp_path, "[watch]\nsettle_s = 0\n[http]\nport = -1"))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A path that leads nowhere is refused, not taken for an empty file."""
    with pytest.raises(ConfigError, match="no such file; give one with --config"):
        load(tmp_path / "absent.toml")


UNREADABLE = {"folder": None, "no UTF-8": b'[service]\ninstance = "\xe4"'}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """A folder, or bytes that are no UTF-8, in the file's place are refused in words."""
    path = tmp_path / "config.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        load(path)


# The environment


OVERRIDES = {
    "a key": ("OCR_DAEMON__ENGINE__BACKEND", "textlayer", "engine.backend", "textlayer"),
    "in small letters": ("ocr_daemon__engine__backend", "textlayer", "engine.backend", "textlayer"),
    "below a table": ("OCR_DAEMON__ENGINE__CPU__WORKERS", "3", "engine.cpu.workers", 3),
    "a number": ("OCR_DAEMON__WATCH__SETTLE_S", "0.5", "watch.settle_s", 0.5),
    "a table as JSON": ("OCR_DAEMON__LIMITS", '{"max_pages": 7}', "limits.max_pages", 7),
}


@pytest.mark.parametrize(("variable", "value", "key", "expected"), OVERRIDES.values(), ids=OVERRIDES)
def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str, expected: object
) -> None:
    """A variable wins over its key in the file and leaves the other keys of its table as the file has them."""
    monkeypatch.setenv(variable, value)
    settings = load(config(tmp_path, '[engine]\nbackend = "cpu"\nmode = "tiny"\n[limits]\nmax_file_mb = 5'))
    found: Any = settings
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected
    assert settings.engine.mode == "tiny"
    assert settings.limits.max_file_mb == 5


def test_inboxes_come_from_the_environment_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of inboxes in the environment replaces those of the file."""
    monkeypatch.setenv("OCR_DAEMON__INBOX", '[{"name": "scans", "root": "/scans", "task": "free"}]')
    settings = load(config(tmp_path, '[[inbox]]\nname = "a"\nroot = "/a"'))
    assert [(inbox.name, inbox.root, inbox.task) for inbox in settings.inbox] == [("scans", Path("/scans"), Task.FREE)]


REFUSED_VARIABLES = {
    "unknown table": ("OCR_DAEMON__WHATCH__SETTLE_S", "3", "OCR_DAEMON__WHATCH__SETTLE_S"),
    "unknown table in small letters": ("ocr_daemon__whatch__settle_s", "3", "ocr_daemon__whatch__settle_s"),
    "one underscore": (
        "OCR_DAEMON_ENGINE__BACKEND",
        "cpu",
        "OCR_DAEMON_ENGINE__BACKEND; is OCR_DAEMON__ENGINE__BACKEND meant?",
    ),
    "one underscore in small letters": ("ocr_daemon_watch__settle_s", "3", "OCR_DAEMON__watch__settle_s meant?"),
    "unknown key": (
        "OCR_DAEMON__WATCH__SETLE_S",
        "3",
        "OCR_DAEMON__WATCH__SETLE_S in the environment: watch.setle_s: unknown key",
    ),
    "out of bounds": ("OCR_DAEMON__HTTP__PORT", "70000", "OCR_DAEMON__HTTP__PORT in the environment: http.port: "),
    "in a list": ("OCR_DAEMON__INBOX", '[{"name": ""}]', "OCR_DAEMON__INBOX in the environment: inbox.0.name: "),
    "in a table": ("OCR_DAEMON__HTTP", '{"port": -1}', "OCR_DAEMON__HTTP in the environment: http.port: "),
    "no JSON": ("OCR_DAEMON__INBOX", '[{"name": ', "OCR_DAEMON__* variables"),
    "table as a word": ("OCR_DAEMON__ENGINE", "cpu", "OCR_DAEMON__* variables"),
    "empty": ("OCR_DAEMON__HTTP__ENABLED", "", "http.enabled: "),
}


@pytest.mark.parametrize(("variable", "value", "message"), REFUSED_VARIABLES.values(), ids=REFUSED_VARIABLES)
def test_a_wrong_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """A mistake in the environment is refused as one in the file is."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(config(tmp_path, ""))
    with pytest.raises(ConfigError, match=re.escape(message)):
        defaults()


def test_mistakes_of_file_and_environment_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not named for what a variable did, though both are wrong."""
    monkeypatch.setenv("OCR_DAEMON__HTTP__PORT", "70000")
    path = config(tmp_path, "[watch]\nsettle_s = 0\n[http]\nport = 1")
    with pytest.raises(ConfigError) as refusal:
        load(path)
    file_part, _, variable_part = str(refusal.value).partition("; ")
    assert file_part.startswith(f"{path}: watch.settle_s: ")
    assert variable_part.startswith("OCR_DAEMON__HTTP__PORT in the environment: http.port: ")


def test_other_variables_are_nobodys_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the configuration, and what only begins with our name."""
    monkeypatch.setenv("OCR_DAEMON_CONFIG", "x")
    monkeypatch.setenv("OCR_DAEMON_HOME", "/opt")
    assert load(config(tmp_path, "[service]")).watch == defaults().watch


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/run/state", "/run/state"), ("/run/state:/run/other", "/run/state"), ("", "/elsewhere")],
    ids=["one", "the first of several", "empty"],
)
def test_the_state_folder_of_systemd_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    """STATE_DIRECTORY, which systemd sets from StateDirectory=, wins over service.state_dir."""
    monkeypatch.setenv("STATE_DIRECTORY", value)
    assert load(config(tmp_path, '[service]\nstate_dir = "/elsewhere"')).service.state_dir == Path(expected)


# Paths


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Every relative path is resolved against the folder of the file, wherever the command was started."""
    settings = load(
        config(
            tmp_path,
            '[service]\nstate_dir = "state"\n[[inbox]]\nroot = "drop"\noutbox = "out"\n'
            '[engine.cpu]\nrec_model = "m.onnx"\n[engine.openai]\napi_key_file = "key"',
        )
    )
    assert settings.service.state_dir == tmp_path / "state"
    assert settings.inbox[0].root == tmp_path / "drop"
    assert settings.inbox[0].outbox_path == tmp_path / "out"
    assert settings.engine.cpu.rec_model == tmp_path / "m.onnx"
    assert settings.engine.openai.api_key_file == tmp_path / "key"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ('model = "./weights"', "{folder}/weights"),
        ('model = "models/ocr"', "{folder}/models/ocr"),
        ('model = "~/weights"', "/srv/op/weights"),
        ('model = "/srv/weights"', "/srv/weights"),
        ('model = "deepseek-ai/DeepSeek-OCR"', "deepseek-ai/DeepSeek-OCR"),
        ('model = ""', ""),
        ('model = "models/ocr"\nbackend = "openai"\n[engine.openai]\nbase_urls = ["http://x/v1"]', "models/ocr"),
    ],
    ids=["beside the file", "there", "at home", "absolute", "a hub id", "none", "a server's name for it"],
)
def test_a_models_folder_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, expected: str
) -> None:
    """A hub id has a slash, too, so a name without a dot is a folder where there is one."""
    monkeypatch.setenv("HOME", "/srv/op")
    (tmp_path / "models" / "ocr").mkdir(parents=True)
    assert load(config(tmp_path, f"[engine]\n{engine}")).engine.model == expected.format(folder=tmp_path)


def test_an_empty_path_stays_empty(tmp_path: Path) -> None:
    """An empty outbox is the one under the root, an empty file none at all; neither is the folder itself."""
    settings = load(config(tmp_path, '[[inbox]]\nroot = "drop"\noutbox = ""\n[engine.cpu]\nrec_model = ""'))
    assert settings.inbox[0].outbox_path == tmp_path / "drop" / "outbox"
    assert settings.engine.cpu.rec_model == ""
    assert settings.engine.openai.api_key_file == ""


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen, all the way down."""
    settings = Settings()
    for model, name in ((settings, "watch"), (settings.watch, "settle_s"), (settings.inbox[0], "name")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(model, name, None)


def test_the_instance_has_a_name_of_its_own_or_the_hosts() -> None:
    """An empty instance is the host name, which is part of file names."""
    assert Settings().service.instance_name
    assert Settings(service={"instance": "north"}).service.instance_name == "north"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("# nothing\n", "the file is empty", id="emptied by an editor"),
        pytest.param("x = " + "[" * 20_000, "not valid TOML", id="nested without end"),
        pytest.param("x = " + "9" * 5_000, "not valid TOML", id="endless number"),
        pytest.param('[[inbox]]\nroot = "/srv/o\\u0000cr"', "cannot be printed", id="null byte in a path"),
    ],
)
def test_a_file_that_is_no_configuration(text: str, words: str, tmp_path: Path) -> None:
    """What a parser chokes on, or an editor leaves half written, is refused like any other mistake."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(config(tmp_path, text), may_be_empty=False)


def test_modes_are_those_of_the_model_and_auto(tmp_path: Path) -> None:
    """Each mode of the model may be set, and the choice between two of them."""
    for word in (*Mode, AUTO):
        settings = load(config(tmp_path, f'[engine]\nmode = "{word}"'))
        assert mode_choice(settings.engine.mode) == word
