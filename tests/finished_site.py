"""A service that has done its work, for tests of the commands that look at it, and how they are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import samples
from tests.conftest import wait_until
from tests.documents import scanned_pdf, text_pdf
from tests.service import LIMIT_S, Service, command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

ETC = Path("/etc/ocr-daemon/config.toml")
CONTENTS = {
    "letter.pdf": text_pdf(2, words="letter"),
    "mail/letter.pdf": text_pdf(1, words="another letter"),
    "scan.pdf": scanned_pdf(1, pixels=(300, 400)),
    "broken.pdf": samples.corrupt_pdf(),
    "mail/broken.pdf": samples.corrupt_pdf() + b"\n",
    "locked.pdf": samples.encrypted_pdf(),
}


@pytest.fixture(name="finished", scope="module")
def finished_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service that has done its work: two done, one partial, three failed."""
    folder = tmp_path_factory.mktemp("finished")
    with Service(folder, inboxes='[[inbox]]\nname = "default"\nroot = "root"\n') as service:
        for name, content in CONTENTS.items():
            service.root.drop(name, content)
        service.start().ready()
        wait_until(lambda: service.root.ended() == (3, 3), LIMIT_S, service.tail)
        assert service.stop() == 0
    return folder


@pytest.fixture(name="site")
def site_fixture(finished: Path, tmp_path: Path) -> Iterator[Service]:
    """A copy of it, not running."""
    shutil.copytree(finished, tmp_path / "site")
    with Service(tmp_path / "site", inboxes='[[inbox]]\nname = "default"\nroot = "root"\n') as service:
        yield service


def run(site: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command on the site's configuration."""
    return command(*arguments, "--config", str(site.config))


def run_json(site: Service, *arguments: str, code: int = 0) -> Any:
    """The same with --json."""
    result = run(site, *arguments, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    return json.loads(result.stdout)
