"""What is shipped beside the code: the locked requirements, the unit, the image, the documents."""

from __future__ import annotations

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from deepseek_ocr import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKED = sorted((ROOT / "requirements").glob("*.txt"))


def normalized(name: str) -> str:
    """A package's name as the registry compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(path: Path) -> dict[str, list[str]]:
    """The packages of a locked file, each with its hashes."""
    packages: dict[str, list[str]] = {}
    for entry in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.lstrip().startswith("#"):
            requirement, *hashes = entry.split("--hash=")
            name, _, _ = requirement.partition("==")
            packages.setdefault(normalized(name.strip()), []).extend(hashes)
    return packages


def unit() -> configparser.SectionProxy:
    """The [Service] section."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "systemd" / "ocr-daemon.service", encoding="utf-8")
    return parser["Service"]


def tracked() -> list[Path]:
    """Every file of the repository; others in the checkout, a log for one, may name the machine."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes(path: Path) -> None:
    """Whatever is installed was seen before: every package stands with its hashes."""
    packages = pinned(path)
    assert packages
    assert all(hashes and all(line.startswith("sha256:") for line in hashes) for hashes in packages.values())


def test_locks_hold_what_the_project_asks_for() -> None:
    """Who adds a dependency runs `make lock` as well."""
    groups = PROJECT["dependency-groups"]
    asked = {
        "default.txt": PROJECT["project"]["dependencies"],
        "build.txt": groups["build"],
        "dev.txt": PROJECT["project"]["dependencies"] + groups["build"] + groups["dev"],
    }
    for name, requirements in asked.items():
        names = {normalized(re.split(r"[<>=!~ \[;]", requirement)[0]) for requirement in requirements}
        assert names <= pinned(ROOT / "requirements" / name).keys()


def test_default_install_is_light() -> None:
    """A machine without a GPU gets no torch, and nobody gets the package that has our import name."""
    packages = pinned(ROOT / "requirements" / "default.txt").keys()
    assert not packages & {"torch", "vllm", "transformers", "ray", "python-daemon", "pytest", "hatchling"}


def test_every_dependency_has_its_reason() -> None:
    """A dependency without a comment beside it is one nobody can remove."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'^    "[A-Za-z0-9_.-]+[<>=~][^"]*",.*$', text, flags=re.MULTILINE)
    assert len(listed) >= len(PROJECT["project"]["dependencies"])
    assert [line for line in listed if "  #" not in line and ", # " not in line] == []


def test_no_registry_and_no_machine_in_the_repository() -> None:
    """Where packages come from is the business of the machine that installs them."""
    hosts = ("pypi.", "pythonhosted.")
    options = ("--" + "-".join(words) for words in (("index", "url"), ("extra", "index", "url"), ("find", "links")))
    telling = re.compile("|".join(map(re.escape, (*hosts, *options))) + "|/root/[a-z.]|/home/[a-z]+/")
    own = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path != own and (match := telling.search(path.read_text(encoding="utf-8", errors="ignore")))
    ]
    assert found == []


def test_unit_keeps_its_promises() -> None:
    """The directives without which a stop loses pages or a crash stops the service."""
    service = unit()
    settings = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert "78" in service["RestartPreventExitStatus"].split()
    assert "69" not in service["RestartPreventExitStatus"].split()
    assert int(service["WatchdogSec"]) >= 10
    assert int(service["TimeoutStopSec"]) >= settings["service"]["grace_s"] + 30
    assert f"/var/lib/{service['StateDirectory']}" == settings["service"]["state_dir"]


def test_unit_leaves_the_gpu_visible() -> None:
    """With these an engine chosen by "auto" would not find its card and read on the CPU."""
    assert not {"PrivateDevices", "DevicePolicy", "ProtectClock", "MemoryDenyWriteExecute"} & set(unit())


def test_unit_explains_every_directive() -> None:
    """The table in systemd/README.md is complete."""
    readme = (ROOT / "systemd" / "README.md").read_text(encoding="utf-8")
    own_business = {"ExecStart", "User", "Group", "StateDirectoryMode"}
    assert [name for name in unit() if name not in own_business and f"`{name}=" not in readme] == []


def test_image_ignores_all_but_what_it_copies() -> None:
    """A source that .dockerignore hides would break the build, and only there."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in allowed
    for source in re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, flags=re.MULTILINE):
        assert any(line.startswith(f"!{source}") for line in allowed), source
    assert "USER 10001:10001" in dockerfile
    assert "ADD " not in dockerfile


def test_readme_names_every_failure() -> None:
    """Who finds an error file can look its reason up."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    slugs = {error.slug for error in errors.DocumentError.__subclasses__()}
    assert {slug for slug in slugs if f"`{slug}`" not in readme} == set()


def test_make_targets_exist() -> None:
    """README's commands and CI's stages are targets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "systemd/README.md", ".ci/run"))
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^|stage \w+ )make ([a-z-]+)", named, flags=re.MULTILINE)) <= targets
