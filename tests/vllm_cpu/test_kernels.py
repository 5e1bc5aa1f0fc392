"""The kernels for a card do what plain torch does; in Triton's interpreter, as there is no card here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Where `make test-vllm` puts Triton: beside the environment, whose vLLM must not find it.
TRITON = Path(sys.prefix) / "triton"


def test_kernels_do_what_plain_torch_does() -> None:
    """The guard token by token, attention and layer norm but for rounding."""
    command = [sys.executable, "-m", "tests.vllm_cpu.kernels", str(TRITON)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["guarded otherwise"] == 0
    # A number that is none is less than nothing.
    assert all(difference < 1e-5 for difference in found["attention in float32"])
    assert all(difference < 0.01 for difference in found["attention in fp16"])
    assert found["norm in float32"] < 1e-5
    # Numbers up to 10, rounded once to 11 bits.
    assert found["norm in fp16"] < 0.005
