"""`ocr-daemon demo`, as `make demo` runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.service import command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_shows_where_everything_came_out(tmp_path: Path) -> None:
    """Exit 0, every document is named with its place, a Markdown file is shown, and the daemon is gone."""
    folder = tmp_path / "demo"
    result = command("demo", "--folder", str(folder), timeout_s=220)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("harbour-log-scan.pdf", "two-columns.pdf", "notice-board.jpg", "fax.tif"):
        assert f"{name}.md" in result.stdout
    for slug in ("corrupt", "encrypted", "unsupported_type"):
        assert f"failed: {slug}" in result.stdout
    assert "# A Short Guide to the Orchard" in result.stdout
    assert json.loads((folder / "state" / "status.json").read_bytes())["state"] == "stopped"
    done = {str(path.relative_to(folder / "root/done")) for path in (folder / "root/done").rglob("*") if path.is_file()}
    assert done == {"harbour-log-scan.pdf", "two-columns.pdf", "photos/notice-board.jpg", "fax.tif"}


def test_the_demo_deletes_nothing_of_others(tmp_path: Path) -> None:
    """A folder that holds something no demo made is refused and left as it is."""
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    result = command("demo", "--folder", str(tmp_path))
    assert result.returncode == 1
    assert "give another --folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
