"""Which DeepSeek-OCR a hub id or a folder holds, and whether the folder holds it whole, told without loading it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from deepseek_ocr.errors import EngineStartError

#: Files that vLLM takes weights from; those that lie elsewhere or are called otherwise it does not find.
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")
#: Which file has which tensor, where there are several; vLLM takes those that it names.
INDEX: Final = "model.safetensors.index.json"
#: A header of safetensors begins with its length in bytes, a little-endian number of so many.
LENGTH_BYTES: Final = 8
#: No header is longer (the limit of safetensors itself).
MAX_HEADER_BYTES: Final = 100_000_000
#: What is raised where a file holds no JSON, or another than is looked for.
NO_JSON: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
GET_AGAIN: Final = "download the model again, for example with `hf download ID --local-dir FOLDER`"


def is_path(model: str) -> bool:
    """Whether it can only be a folder: a hub id is `owner/name`."""
    return model.startswith(("/", ".", "~")) or model.count("/") != 1


def expanded(model: str) -> str:
    """The same with the home folder for "~"; the libraries that load a model know of none."""
    return os.path.expanduser(model)  # noqa: PTH111 - never raises


def beside(folder: Path, model: str) -> str:
    """A model's folder that is given relative to another one, absolute; all else as it is."""
    path = folder / expanded(model)
    is_there = model and os.path.isdir(path)  # noqa: PTH112 - never raises
    return str(path) if model.startswith((".", "~")) or is_there else model


def check_folder(model: str, *, weights: bool = True) -> None:
    """Raise `EngineStartError` for a folder that does not hold a model; a hub id passes.

    Of weights in safetensors, as published, also one that is missing or cut off is found; of others only that there are
    any.  vLLM finds out in another process, half a minute later.
    """
    path = Path(expanded(model))
    if not (is_path(model) or path.is_dir()):
        return
    if not (path / "config.json").is_file():
        raise EngineStartError(
            f"engine.model is the folder {path}, and there is no config.json in it; give the folder that holds the "
            f'model\'s files, or a hub id such as "deepseek-ai/DeepSeek-OCR"'
        )
    if not weights:
        return
    if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
        raise EngineStartError(
            f"engine.model is the folder {path}, and there are no weights in it ({', '.join(WEIGHTS)}); {GET_AGAIN}"
        )
    for file in _safetensors(path):
        try:
            is_whole = file.stat().st_size == _length(file)
        except OSError as error:
            raise EngineStartError(f"{file} cannot be read: {error.strerror}; {GET_AGAIN}") from error
        if not is_whole:
            raise EngineStartError(f"{file} is cut off, or no safetensors file; {GET_AGAIN}")


def _safetensors(folder: Path) -> list[Path]:
    """The files of this kind that are read; raises `EngineStartError` where the index is none."""
    index = folder / INDEX
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    try:
        return sorted(folder / name for name in set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, *NO_JSON) as error:
        raise EngineStartError(f"{index} cannot be read, or is no index of weights; {GET_AGAIN}") from error


def _length(file: Path) -> int | None:
    """How many bytes a file has, as its header says (https://huggingface.co/docs/safetensors); None = no header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:  # text, as the pointer that Git LFS leaves in the place of a file
            return None
        try:
            header: dict[str, Any] = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return LENGTH_BYTES + length + max(ends, default=0)
        except NO_JSON:
            return None


def is_version_2(model: str) -> bool:
    """Whether a folder holds, or a hub id names, DeepSeek-OCR-2."""
    path = Path(expanded(model), "config.json")
    try:
        architectures = json.loads(path.read_bytes()).get("architectures") or []
    except (OSError, ValueError):
        return "ocr-2" in model.lower()
    return any("OCR2" in str(name).upper().replace("_", "").replace("-", "") for name in architectures)
