"""The order of the modules: each imports only modules of rows above it, and none grows over its size."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400

#: The rows of each package, top to bottom.
ROWS = {
    "deepseek_ocr": [
        "errors",
        "guard",
        "prompt",
        "tiles",
        "tile_memory",
        "completion",
        "view",
        "processes",
        "columns",
        "rows",
        "titles",
        "tables",
        "grids",
        "aligned",
        "layout",
        "ink",
        "sizes",
        "density",
        "pages_image",
        "scans",
        "rendering",
        "pages_pdf",
        "pages",
        "boxes",
        "raw_blocks",
        "grounding",
        "scripts",
        "detection",
        "ruling",
        "lettering",
        "letters",
        "recognition",
        "document",
        "repetition",
        "loops",
        "lookout",
        "quality",
        "mending",
        "captions",
        "blocks",
        "headings",
        "markup",
        "markdown",
        "layout_pdf",
        "figures",
        "prose",
        "keywords",
        "exports",
        "content_list",
        "docling_items",
        "docling",
        "servers",
        "chat",
        "engine",
        "attempt",
        "halves",
        "recovery",
        "reader",
    ],
    "daemon": [
        "config",
        "log",
        "metrics",
        "systemd",
        "durable",
        "job",
        "settle",
        "threads",
        "roots",
        "names",
        "folders",
        "faults",
        "ledger",
        "fair",
        "scan",
        "watcher",
        "outputs",
        "checkpoints",
        "share",
        "assembly",
        "passes",
        "worker",
        "intake",
        "http",
        "web",
        "status",
        "audit",
        "retry",
        "warmup",
        "engines",
        "shares",
        "supervisor",
        "check",
        "oneshot",
        "samples",
        "demo",
        "cli",
        "__main__",
    ],
}
#: The same within `deepseek_ocr/engine`.
ENGINES = [
    "model_folder",
    "textlayer",
    "cpu",
    "openai_config",
    "openai",
    "transformers_config",
    "transformers_load",
    "transformers_process",
    "transformers",
    "vllm_plan",
    "vllm_processes",
    "vllm_plugin",
    "vllm_start",
    "vllm_guard_kernels",
    "vllm_guard",
    "vllm_sam_attention",
    "vllm_sam",
    "vllm_attention",
    "vllm_encoder",
    "vllm_pixels",
    "vllm_model",
    "vllm_scheduler",
    "vllm_worker",
    "vllm_input",
    "detokenizer",
    "vllm",
    "reviving",
]
MODULES = sorted(path for package in ROWS for path in (ROOT / package).rglob("*.py"))
ALL_MODULES = sorted(path for folder in (*ROWS, "tests", "bench") for path in (ROOT / folder).rglob("*.py"))


def rank(dotted: str) -> tuple[int, int, int]:
    """Where a module stands: package, row, and place among the engines, `engine/__init__.py` below them all."""
    package, _, inner = dotted.partition(".")
    row, _, engine = inner.partition(".")
    if row and row not in ROWS[package]:
        pytest.fail(f"{dotted} has no row: add it to ROWS, below what it needs")
    if engine and engine not in ENGINES:
        pytest.fail(f"{dotted} has no place: add it to ENGINES, below what it needs")
    # A package's own `__init__` passes on what its modules offer, so it stands below them all.
    place = ENGINES.index(engine) if engine else len(ENGINES)
    return list(ROWS).index(package), ROWS[package].index(row) if row else len(ROWS[package]), place


def imported(path: Path) -> set[str]:
    """Dotted names of our own modules that a file imports, also those it needs only for types."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write the package's name, not dots"
            module = str(node.module)
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return {name for name in names if name.partition(".")[0] in ROWS}


def dotted_name(path: Path) -> str:
    """The import name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_imports_point_up(path: Path) -> None:
    """A module imports only what stands above it, so the tree can be read top to bottom."""
    own = rank(dotted_name(path))
    wrong = [name for name in imported(path) if rank(name) >= own]
    assert not wrong, f"{dotted_name(path)} may not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", ALL_MODULES, ids=dotted_name)
def test_modules_stay_small(path: Path) -> None:
    """Over this size a module does two jobs: split it."""
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES
