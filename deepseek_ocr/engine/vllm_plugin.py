"""Tells vLLM of our model class; vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).

The class has an architecture name of its own, asked for by `hf_overrides={"architectures": [ARCHITECTURE]}`, so that
vLLM's own DeepSeek-OCR in the same environment stays what it is.  It is named by a string: importing this costs
nothing, and nothing of vLLM's models is loaded for those who run another one.
The call is also where an engine core is tied to the service that started it: vLLM leaves a core of its own alone on
the card when its parent is killed.  And where a core learns to say why it did not start, which vLLM only logs.
Left to others: the class (`vllm_model.py`).
Residual risk: where `VLLM_PLUGINS` is set and does not name `ocr_daemon`, vLLM does not call us; with
`VLLM_CONFIGURE_LOGGING=0` and no logging of one's own, the core's exceptions are no longer printed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Final

from deepseek_ocr.engine.vllm_processes import CORE_NAME
from deepseek_ocr.processes import die_with_parent

#: Tokens between two signs of life of a page, at which it is looked over for loops.  The watch looks every 256
#: characters, some 85 tokens; all its looks at a page of 3 kB take 0.7 ms (bench/false_alarms.py), in a thread.
STREAM_INTERVAL: Final = 32
#: In the environment of a service: its process id, with which its engine cores end.
PARENT_VARIABLE: Final = "OCR_DAEMON_ENGINE_PARENT"
#: The same, while an engine is built: a file for what its core fails of.
CAUSE_VARIABLE: Final = "OCR_DAEMON_ENGINE_CAUSE"
#: By this logger a core tells it (v1/engine/core.py, the same in 0.25.1 and 0.28.0).
CORE_LOGGER: Final = "vllm.v1.engine.core"
#: What config.json's `architectures` is overridden with.
ARCHITECTURE: Final = "ResidentDeepseekOCR"
_CLASS: Final = "deepseek_ocr.engine.vllm_model:ResidentDeepseekOCR"
#: Our scheduler as vLLM loads it, for a card and for the CPU.
SCHEDULER: Final = "deepseek_ocr.engine.vllm_scheduler.PageScheduler"
STEPWISE_SCHEDULER: Final = "deepseek_ocr.engine.vllm_scheduler.StepwisePageScheduler"
#: The guard against repetition as vLLM loads it, and what its worker can do beside its own.
GUARD: Final = "deepseek_ocr.engine.vllm_guard:NoRepeatGuard"
WORKER: Final = "deepseek_ocr.engine.vllm_worker.PageWorker"
#: vLLM's own way to run a model on one card.  Asked for "uni" on the CPU it starts another process instead, to bind its
#: threads to cores; by this name it does not, and OMP_NUM_THREADS says how many there are.
ONE_PROCESS: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class CauseHandler(logging.Handler):
    """Writes an exception that is logged into a file; raises `OSError` where it is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._file = path.open("r+b", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        """The last one counts."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            # Whatever goes wrong here, vLLM's own line stands in its log.
            with contextlib.suppress(Exception):
                self._file.truncate(0)
                self._file.seek(0)
                self._file.write(f"{type(error).__name__}: {error}".encode(errors="replace"))

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()
        super().close()


def register() -> None:
    """Make the architecture known to vLLM in this process; doing it again changes nothing."""
    from vllm import ModelRegistry  # noqa: PLC0415 - vLLM is there when it calls us, and not before

    # Whoever else starts a vLLM with this environment has children of its own.
    is_ours = os.environ.get(PARENT_VARIABLE) == str(os.getppid())
    if is_ours and multiprocessing.current_process().name.startswith(CORE_NAME):
        die_with_parent(os.getppid())
        if cause := os.environ.get(CAUSE_VARIABLE):
            logger = logging.getLogger(CORE_LOGGER)
            if not logger.isEnabledFor(logging.ERROR):  # VLLM_LOGGING_LEVEL
                logger.setLevel(logging.ERROR)
            with contextlib.suppress(OSError):
                logger.addHandler(CauseHandler(Path(cause)))
    if ARCHITECTURE not in ModelRegistry.models:
        ModelRegistry.register_model(ARCHITECTURE, _CLASS)
