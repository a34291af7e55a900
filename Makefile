# Every target works in a fresh clone: .venv is created when it is missing or setup.py is newer.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each, in two parts: what Paddle keeps of each program is given back in between.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
JOBS := tests/cli tests/engine tests/reliability

.PHONY: help demo test check clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: setup.py
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,demo]'
	@touch $@

demo: $(VENV)/.installed  ## train and distil small detectors on drawn handwriting, about 10 minutes
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed  ## run the whole test suite
	$(PYTEST) $(JOBS)
	$(PYTEST) $(addprefix --ignore=,$(JOBS))

check: $(VENV)/.installed  ## lint, format, types, and patterns that are often unsafe
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m bandit -q -c pyproject.toml -r slim_distill tools

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
