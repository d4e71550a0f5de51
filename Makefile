# Every target sets up what it needs in .venv. Another interpreter: make test PYTHON=/path/to/python3
VENV ?= .venv
BIN := $(VENV)/bin
USABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: demo test test-quick test-slurm lint bench bench-cuda clean
.DELETE_ON_ERROR:

demo: $(VENV)/.has-demo
	$(BIN)/hpv demo $(ARGS)

test: $(VENV)/.has-test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

# What needs no process, server, cluster or model of its own. Compiled kernels stay until one of their sources changes.
test-quick: export HPV_TEST_CACHE = $(abspath $(VENV))/kernels
test-quick: export NUMBA_CACHE_DIR = $(HPV_TEST_CACHE)
test-quick: $(VENV)/.has-test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile -m "not slow" $(ARGS)

# Installs and starts a SLURM on this machine: Debian, as root.
test-slurm: $(VENV)/.has-test-slurm
	$(BIN)/python -m pytest tests/slurm/check_slurm.py $(ARGS)

lint: $(VENV)/.has-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.has-bench
	$(BIN)/python -m benchmarks $(ARGS)

# On a machine with a GPU, and its figures in cuda.json. HOST=user@machine: there, by ssh, in a folder hpv-bench.
# CUDA=cuda12 for a driver of CUDA 12.
CUDA ?= cuda
FIGURES ?= cuda.json
ifdef HOST
bench-cuda:
	tar -cf - --exclude=__pycache__ Makefile README.md LICENSE pyproject.toml benchmarks hpv kernels | \
	ssh $(HOST) 'mkdir -p hpv-bench && cd hpv-bench && rm -rf benchmarks hpv kernels && tar -xf - && \
	make bench-cuda CUDA=$(CUDA) ARGS="$(ARGS)" >&2 && cat cuda.json' > $(FIGURES) || { rm -f $(FIGURES); exit 1; }
else
bench-cuda: $(VENV)/.has-bench-$(CUDA)
	$(BIN)/python -m benchmarks cuda --json $(FIGURES) $(ARGS)
endif

# Without constraints.txt, whose torch may be one for CPUs.
$(VENV)/.has-bench-cuda $(VENV)/.has-bench-cuda12: $(VENV)/.has-bench-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,$*]'
	@touch $@

$(VENV)/.has-%: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/python:
	@'$(PYTHON)' -c '$(USABLE)' 2>/dev/null || { \
	echo 'hpv needs Python 3.11 or newer with its venv and ensurepip modules (on Debian and Ubuntu: python3-venv).'; \
	echo 'Found: $(or $(PYTHON),none on PATH). Install it, or name it: make PYTHON=/path/to/python3'; exit 2; } >&2
	'$(PYTHON)' -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist hpv.egg-info hpv-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find editable hpv kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
