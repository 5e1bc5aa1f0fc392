"""Execute the Dockerfile without a container engine: its steps run by chroot in fresh Debian roots.

    sudo .venv/bin/python tests/docker_steps.py FOLDER

Needs root, mmdebstrap and the network; FOLDER must not exist and is left behind with the image in it (1.5 GB).  It
understands the instructions that our Dockerfile uses and refuses others.  Then it uses the image as an engine would:
`demo`, and the service itself with the entry point, command, user, health check and stop signal of the image, on a
file dropped from outside.

Left out: layers, limits, networks, volumes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SUITES = {"debian:12-slim": "bookworm"}
#: Where a machine whose network has a proxy with its own certificate keeps the bundle that knows it.
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SERVICE_START_S = 120


@dataclass(frozen=True, slots=True)
class Image:
    """A root folder and what the instructions said about running in it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": CHROOT_PATH})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program in the image as its user."""
        wrapper = [
            "/usr/sbin/chroot",
            f"--userspec={self.user}",
            "--groups=",
            str(self.root),
            "/usr/bin/env",
            "-C",
            self.workdir,
        ]
        return subprocess.Popen([*wrapper, *argv], env=self.env)

    def run(self, *argv: str) -> None:
        """Run a program in the image as its user; a failure ends the build."""
        process = self.start(*argv)
        if process.wait():
            sys.exit(f"exit code {process.returncode}: {shlex.join(argv)}")


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), comments and line breaks taken out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def fresh_root(root: Path, base: str) -> Image:
    """A Debian root like the base image, able to reach the network."""
    slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", *slim, SUITES[base], root], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    subprocess.run(["mount", "--rbind", "/dev", root / "dev"], check=True)
    return Image(root)


def copy(image: Image, origin: Path, source: str, target: str) -> None:
    """COPY, of one file or of the content of one folder."""
    path = origin / source.lstrip("/")
    goal = image.root / Path(image.workdir, target).relative_to("/")
    if path.is_dir():
        shutil.copytree(path, goal, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        goal = goal / path.name if target.endswith("/") else goal
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal)


def configure(image: Image, word: str, rest: str) -> Image:
    """The instructions that only say how to run what is there."""
    match word:
        case "ENV":
            image = replace(image, env=image.env | dict(pair.split("=", 1) for pair in shlex.split(rest)))
        case "WORKDIR":
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            image = replace(image, workdir=rest)
        case "USER":
            image = replace(image, user=rest)
        case "STOPSIGNAL":
            image = replace(image, stop_signal=signal.Signals[rest])
        case "HEALTHCHECK":
            image = replace(image, healthcheck=tuple(json.loads(rest.partition("CMD ")[2])))
        case "ENTRYPOINT":
            image = replace(image, entrypoint=tuple(json.loads(rest)))
        case "CMD":
            image = replace(image, command=tuple(json.loads(rest)))
        case "VOLUME":
            pass
        case _:
            sys.exit(f"no idea how to execute {word}")
    return image


def build(folder: Path) -> Image:
    """Execute every instruction; the last stage is the image."""
    stages: dict[str, Path] = {}
    image = Image(folder)
    for word, rest in instructions((REPOSITORY / "Dockerfile").read_text(encoding="utf-8")):
        print(f"--- {word} {rest}", flush=True)
        match word:
            case "FROM":
                base, _, stage = rest.partition(" AS ")
                image = fresh_root(folder / (stage or "image"), base)
                stages[stage] = image.root
            case "COPY":
                *flags, source, target = rest.split()
                origin = stages[flags[0].removeprefix("--from=")] if flags else REPOSITORY
                copy(image, origin, source, target)
            case "RUN":
                image.run("/bin/sh", "-c", rest)
                trust_proxy(image.root)
            case _:
                image = configure(image, word, rest)
    return image


def trust_proxy(root: Path) -> None:
    """Let the network of this machine work inside, as a container engine's administrator would."""
    bundle = root / CERTIFICATES
    if bundle.exists():
        shutil.copy(Path("/") / CERTIFICATES, bundle)


def use(image: Image) -> None:
    """Run the image: the demo, then the service, its health check, a document and its stop signal."""
    compilers = [name for name in ("usr/bin/gcc", "usr/bin/cc", "usr/bin/pip", "uv") if (image.root / name).exists()]
    if compilers:
        sys.exit(f"tools of the build are left in the image: {compilers}")
    image.run(*image.entrypoint, "demo")
    service = image.start(*image.entrypoint, *image.command)
    try:
        deadline = time.monotonic() + SERVICE_START_S
        while image.start(*image.healthcheck).wait():
            if service.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not come up (exit code {service.returncode})")
            time.sleep(1)
        share = image.root / "srv/ocr"
        (share / "inbox" / "empty.pdf.part").touch()  # never a document
        dropped = share / "inbox" / "not a document.pdf"
        dropped.write_text("no PDF", encoding="utf-8")
        dropped.chmod(0o664)
        while not (share / "failed" / f"{dropped.name}.error.txt").exists():
            if time.monotonic() > deadline:
                sys.exit("the dropped file went nowhere")
            time.sleep(0.2)
    finally:
        service.send_signal(image.stop_signal)
        code = service.wait()
    if code:
        sys.exit(f"stopped with exit code {code}")
    print("the image builds, runs its demo, serves a document and stops cleanly")


def main() -> None:
    """Build and use in a mount namespace of its own, so that nothing stays mounted."""
    if "UNSHARED" not in os.environ:
        wrapper = ["unshare", "--mount", sys.executable, *sys.argv]
        sys.exit(subprocess.run(wrapper, env=os.environ | {"UNSHARED": "1"}, check=False).returncode)
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir()
    use(build(folder))


if __name__ == "__main__":
    main()
