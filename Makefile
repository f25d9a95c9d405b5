# Every target sets up what it needs in .venv: Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-check bench-schedulers fuzz soak docs proto clean setup

demo: $(READY)  ## a fleet of simulated robots, driven in real time; with ARGS='--http 8080' on the live page too
	$(BIN)/inferential demo $(ARGS)

test: lint  ## lint, types, import rules, then every test
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## style, types and the import table
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## figures of this machine, written to bench/results
	$(BIN)/python -m bench $(ARGS)

bench-check: $(READY)  ## fails where this tree is slower than the committed figures by more than noise
	$(BIN)/python -m bench.check

bench-schedulers: $(READY)  ## every strategy in virtual time, against what is possible; draws docs/images/sim-*
	$(BIN)/python -m bench.schedulers --check $(ARGS)

fuzz: $(READY)  ## fuzzes what reads bytes from outside, with ARGS='--minutes 60'; a short run is part of the tests
	$(BIN)/python -m fuzz $(ARGS)

soak: $(READY)  ## mixed load with faults, by a seed: ARGS='--minutes 30 --seed 2'; the report goes to bench/results
	$(BIN)/python -m bench.soak $(ARGS)

docs: $(READY)  ## the docs site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

proto: $(READY)  ## compile the protobuf schema again
	$(BIN)/python hatch_build.py

setup: $(READY)

$(READY): pyproject.toml hatch_build.py src/inferential/proto/inferential.proto
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Inferential needs Python >= 3.11; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-out site
	rm -f src/inferential/proto/inferential_pb2.py src/inferential/proto/inferential_pb2.pyi
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
