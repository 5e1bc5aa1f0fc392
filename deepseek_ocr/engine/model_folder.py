"""Which DeepSeek-OCR a hub id or a folder holds, told without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deepseek_ocr.errors import EngineStartError

GET_AGAIN: Final = (
    "download the model again, for example with `hf download deepseek-ai/DeepSeek-OCR --local-dir FOLDER`"
)


#: The kinds of files that vLLM looks for.
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")
#: A header of safetensors begins with its length in bytes, a little-endian number of so many.
LENGTH_BYTES: Final = 8
#: No header is longer (the limit of safetensors itself).
MAX_HEADER_BYTES: Final = 100_000_000


def check_folder(model: str, *, weights: bool = True) -> None:
    """Raise `EngineStartError` for a folder that does not hold a model, whole; a hub id passes.

    vLLM finds out what is wrong with the weights in another process, half a minute later, and tells it in its log.
    """
    path = Path(model).expanduser()
    if not (path.is_absolute() or model.startswith((".", "~")) or path.is_dir()):
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
    for file in path.glob("*.safetensors"):
        try:
            is_whole = file.stat().st_size == _length(file)
        except OSError as error:
            raise EngineStartError(f"{file} cannot be read: {error.strerror}") from error
        if not is_whole:
            raise EngineStartError(f"{file} is cut off, or no safetensors file; {GET_AGAIN}")


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
        except (ValueError, LookupError, TypeError, AttributeError):
            return None


def is_version_2(model: str) -> bool:
    """Whether a folder holds, or a hub id names, DeepSeek-OCR-2."""
    path = Path(model).expanduser() / "config.json"
    try:
        architectures = json.loads(path.read_bytes()).get("architectures") or []
    except (OSError, ValueError):
        return "ocr-2" in model.lower()
    return any("OCR2" in str(name).upper().replace("_", "").replace("-", "") for name in architectures)
