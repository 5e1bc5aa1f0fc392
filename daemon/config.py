"""Settings, a mirror of config.toml: typed, bounded and frozen; unknown keys are an error everywhere.

It judges what can be judged without touching a share: types, bounds, names and whether folders overlap.  Whether
the folders exist and can be written is for `folders` and `check`.
"""

from __future__ import annotations

import os
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from deepseek_ocr.engine.model_folder import beside
from deepseek_ocr.engine.openai_config import base_url
from deepseek_ocr.prompt import MAX_PROMPT_CHARS, MAX_TEXT_CHARS, Options, Task

#: Tokens of the longest picture and prompt, rounded up: 933 in gundam mode, and 1,120 of DeepSeek-OCR-2.
MIN_STEP_TOKENS = 2048
ENV_PREFIX = "OCR_DAEMON__"

#: Part of a file name (manifest-<instance>.jsonl) and of log lines.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
#: What can be made of a document beside Markdown, JSON and pictures.
Export = Literal["docling", "content_list", "layout"]
_Frozen = ConfigDict(extra="forbid", frozen=True)


class ConfigError(Exception):
    """The configuration is wrong; the message names the key and says what is expected."""


class Service(BaseModel):
    """The process as a whole."""

    model_config = _Frozen

    instance: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    state_dir: Path = Path("/var/lib/ocr-daemon")
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def instance_name(self) -> str:
        """`instance`, or the host name where it is empty."""
        return self.instance or socket.gethostname()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is made of a document beside its Markdown and JSON."""

    images: bool = True
    keywords: bool = True
    exports: tuple[Export, ...] = ()


class Inbox(BaseModel):
    """One inbox with its folders and what is asked of its documents."""

    model_config = _Frozen

    name: Name = "default"
    root: Path = Path("/srv/ocr")
    outbox: Path | Literal[""] = ""
    task: Task = Task.DOCUMENT
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] = ""
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] = ""
    second_pass: bool = False
    images: bool = True
    keywords: bool = True
    exports: tuple[Export, ...] = ()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    keep_done_days: Annotated[int, Field(ge=0, le=36_500)] = 0

    @property
    def outbox_path(self) -> Path:
        """`outbox`, or its place under the root."""
        return self.outbox or self.root / "outbox"

    @model_validator(mode="after")
    def _folders_can_be_named(self) -> Self:
        for path in (str(self.root), str(self.outbox)):
            if not path.isprintable():
                msg = f"a folder's path holds a character that cannot be printed: {path!r}"
                raise ValueError(msg)
        return self

    @property
    def wanted(self) -> Wanted:
        """What is made of a document beside its text."""
        return Wanted(self.images, self.keywords, self.exports)

    @property
    def options(self) -> Options:
        """What is asked of every page; raises `ValueError` for what cannot be asked."""
        return Options(self.task, self.prompt, self.text)

    @model_validator(mode="after")
    def _task_has_what_it_needs(self) -> Self:
        _ = self.options
        return self


class CpuEngineSettings(BaseModel):
    """The embedded engine."""

    model_config = _Frozen

    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    rec_model: Path | Literal[""] = ""


class VllmEngineSettings(BaseModel):
    """DeepSeek-OCR on vLLM on this machine; 0 and "" leave the choice to the engine."""

    model_config = _Frozen

    preset: Literal["auto", "24gb", "8gb"] = "auto"
    max_num_seqs: Annotated[int, Field(ge=0, le=4096)] = 0
    max_num_batched_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    gpu_memory_utilization: Annotated[float, Field(ge=0, le=1)] = 0.0
    quantization: Literal["", "none", "fp8"] = ""
    hang_s: Seconds = 60.0

    @model_validator(mode="after")
    def _a_page_fits_into_a_step(self) -> Self:
        if 0 < self.max_num_batched_tokens < MIN_STEP_TOKENS:
            msg = (
                f"max_num_batched_tokens must be 0 or at least {MIN_STEP_TOKENS}: a page's picture is read in one step"
            )
            raise ValueError(msg)
        return self


class TransformersEngineSettings(BaseModel):
    """DeepSeek-OCR-2 without vLLM."""

    model_config = _Frozen

    device: Literal["auto", "cuda", "cpu"] = "auto"
    batch_size: Annotated[int, Field(ge=0, le=64)] = 0
    hang_s: Annotated[float, Field(ge=0, le=86_400)] = 0


class OpenAIEngineSettings(BaseModel):
    """A model on other machines."""

    model_config = _Frozen

    base_urls: tuple[Annotated[str, AfterValidator(base_url)], ...] = ()
    api_key_file: Path | Literal[""] = ""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    timeout_s: Seconds = 300.0
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    vllm: bool = True


class EngineSettings(BaseModel):
    """Which engine reads, and how."""

    model_config = _Frozen

    backend: Literal["auto", "vllm", "transformers", "openai", "cpu", "textlayer"] = "auto"
    model: str = "deepseek-ai/DeepSeek-OCR"
    mode: Literal["tiny", "small", "base", "large", "gundam", "auto"] = "gundam"
    gpu: Annotated[int, Field(ge=0)] = 0
    cpu: CpuEngineSettings = CpuEngineSettings()
    vllm: VllmEngineSettings = VllmEngineSettings()
    transformers: TransformersEngineSettings = TransformersEngineSettings()
    openai: OpenAIEngineSettings = OpenAIEngineSettings()

    @model_validator(mode="after")
    def _remote_model_has_servers(self) -> Self:
        if self.backend == "openai" and not self.openai.base_urls:
            msg = 'backend = "openai" needs the addresses of servers in engine.openai.base_urls'
            raise ValueError(msg)
        return self


class Watch(BaseModel):
    """When a file counts as complete."""

    model_config = _Frozen

    settle_s: Seconds = 3.0
    settle_network_s: Seconds = 15.0
    max_settle_s: Seconds = 600
    rescan_s: Seconds = 10.0


class Limits(BaseModel):
    """What is refused, and when the intake pauses."""

    model_config = _Frozen

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    max_file_mb: PositiveInt = 500
    max_pages: PositiveInt = 5000
    max_page_px: PositiveInt = 200_000_000
    min_free_mb: Annotated[int, Field(ge=0)] = 500


class Http(BaseModel):
    """The HTTP API; inert in this version."""

    model_config = _Frozen

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8077


class Settings(BaseSettings):
    """All of config.toml."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    service: Service = Service()
    inbox: Annotated[tuple[Inbox, ...], Field(min_length=1)] = (Inbox(),)
    engine: EngineSettings = EngineSettings()
    watch: Watch = Watch()
    limits: Limits = Limits()
    http: Http = Http()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file, whose content `load` hands in as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _folders_do_not_overlap(self) -> Self:
        names = [inbox.name for inbox in self.inbox]
        if len(set(names)) != len(names):
            msg = f"inbox names must differ: {', '.join(names)}"
            raise ValueError(msg)
        overlap = _overlap(self)
        if overlap:
            raise ValueError(overlap)
        return self


def load(path: Path, *, may_be_empty: bool = True) -> Settings:
    """The settings of a file, with the environment over it; raises `ConfigError`.

    An empty file is all defaults at a start.  At a reload it is half of what an editor does when it saves.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; give one with --config"
        raise ConfigError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}"
        raise ConfigError(msg) from error
    except (ValueError, RecursionError) as error:  # also numbers and lists beyond what the parser takes
        msg = f"{path}: not valid TOML: {error}"
        raise ConfigError(msg) from error
    settings = _absolute(_build(content, str(path)), path.resolve().parent)
    if not content and not may_be_empty:
        msg = f"{path}: the file is empty"
        raise ConfigError(msg)
    overlap = _overlap(settings)  # again: relative folders and absolute ones could not be compared before
    if overlap:
        msg = f"{path}: {overlap}"
        raise ConfigError(msg)
    return settings


def defaults() -> Settings:
    """The settings without a file, with the environment over them; raises `ConfigError`."""
    return _build({}, "the defaults")


def _build(content: dict[str, Any], origin: str) -> Settings:
    _refuse_variables()
    # Looked for here: as arguments, `_env_file` and its like would steer the library instead of being refused by it.
    unknown = [key for key in content if key not in Settings.model_fields]
    if unknown:
        msg = f"{origin}: unknown key: {', '.join(unknown)}"
        raise ConfigError(msg)
    try:
        return Settings(**content)
    except ValidationError as error:
        details = error.errors()
        if len(details) > 1:  # a table with a mistake is also one inbox too few
            details = [detail for detail in details if detail["loc"] != ("inbox",)]
        found = [(_variable_of(detail["loc"]), _explain(detail)) for detail in details]
        parts = [f"{variable} in the environment: {message}" for variable, message in found if variable]
        messages = "; ".join(message for variable, message in found if not variable)
        raise ConfigError("; ".join([f"{origin}: {messages}"] * bool(messages) + parts)) from error
    except Exception as error:  # SettingsError: a variable that is not valid JSON
        msg = f"{origin} and the {ENV_PREFIX}* variables: {error}"
        raise ConfigError(msg) from error


def _refuse_variables() -> None:
    """Raise for a variable that sets nothing: it is one that was meant to."""
    ours = [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]
    unknown = [name for name in ours if name[len(ENV_PREFIX) :].split("__")[0].lower() not in Settings.model_fields]
    if unknown:
        msg = f"unknown setting in the environment: {', '.join(sorted(unknown))}"
        raise ConfigError(msg)
    short = ENV_PREFIX[:-1]
    for name in sorted(set(os.environ) - set(ours)):
        if name.upper().startswith(short) and "__" in name:
            msg = f"unknown setting in the environment: {name}; is {ENV_PREFIX}{name[len(short) :]} meant?"
            raise ConfigError(msg)


def _variable_of(location: tuple[int | str, ...]) -> str:
    """The variable that set the value at a location in the settings, or a table around it; empty if none did."""
    names = {name.upper(): name for name in os.environ}
    keys = [str(part).upper() for part in location]
    wanted = (ENV_PREFIX + "__".join(keys[:count]) for count in range(len(keys), 0, -1))
    return next((names[name] for name in wanted if name in names), "")


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "file"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if key == "inbox":
        return "inbox: one table [[inbox]] per inbox, at least one, is expected"
    return f"{key}: {message}" if key != "file" else message


def _absolute(settings: Settings, folder: Path) -> Settings:
    """Resolve relative paths against the folder of the file, and let systemd's state folder win."""
    state_dir = Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0] or folder / settings.service.state_dir)
    rec_model, key_file = settings.engine.cpu.rec_model, settings.engine.openai.api_key_file
    model, is_name = settings.engine.model, settings.engine.backend == "openai"
    return settings.model_copy(
        update={
            "service": settings.service.model_copy(update={"state_dir": state_dir}),
            "inbox": tuple(
                inbox.model_copy(
                    update={"root": folder / inbox.root, "outbox": folder / inbox.outbox if inbox.outbox else ""}
                )
                for inbox in settings.inbox
            ),
            "engine": settings.engine.model_copy(
                update={
                    "model": model if is_name else beside(folder, model),
                    "cpu": settings.engine.cpu.model_copy(
                        update={"rec_model": folder / rec_model if rec_model else ""}
                    ),
                    "openai": settings.engine.openai.model_copy(
                        update={"api_key_file": folder / key_file if key_file else ""}
                    ),
                }
            ),
        }
    )


def _overlap(settings: Settings) -> str:
    """Which folders lie in each other, in words; empty if none do."""
    owned: list[tuple[str, Path]] = []
    for inbox in settings.inbox:
        owned += [(f"{inbox.name}: {part}", inbox.root / part) for part in ("inbox", "work", "done", "failed")]
        owned += [(f"{inbox.name}: outbox", inbox.outbox_path)]
    state_dir = settings.service.state_dir
    for index, (label, path) in enumerate(owned):
        for other_label, other in owned[index + 1 :]:
            if _is_inside(path, other) or _is_inside(other, path):
                return f"folders overlap: {label} ({path}) and {other_label} ({other})"
        if _is_inside(state_dir, path):  # the ledger would be taken for a document
            return f"folders overlap: service.state_dir ({state_dir}) lies in {label} ({path})"
    return ""


def _is_inside(one: Path, other: Path) -> bool:
    a, b = Path(os.path.normpath(one)), Path(os.path.normpath(other))
    return a == b or b in a.parents
