"""Which DeepSeek-OCR a hub id or a folder holds, told without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from deepseek_ocr.errors import EngineStartError


def check_folder(model: str) -> None:
    """Raise `EngineStartError` for a folder that does not hold a model; a hub id passes."""
    path = Path(model).expanduser()
    if not (path.is_absolute() or model.startswith((".", "~")) or path.is_dir()):
        return
    if not (path / "config.json").is_file():
        raise EngineStartError(
            f"engine.model is the folder {path}, and there is no config.json in it; give the folder that holds the "
            f'model\'s files, or a hub id such as "deepseek-ai/DeepSeek-OCR"'
        )


def is_version_2(model: str) -> bool:
    """Whether a folder holds, or a hub id names, DeepSeek-OCR-2."""
    path = Path(model).expanduser() / "config.json"
    try:
        architectures = json.loads(path.read_bytes()).get("architectures") or []
    except (OSError, ValueError):
        return "ocr-2" in model.lower()
    return any("OCR2" in str(name).upper().replace("_", "").replace("-", "") for name in architectures)
