# Every target sets up what it needs in .venv: Python >= 3.11 and make are enough. Robots need 3.10, which tests use where it is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
OLDEST := .venv-oldest
EXTRAS := edge demo otel bfloat16 lerobot kserve record
COVERED ?= 94
TYPED ?= 100
# Two cores and two more: of two groups of tests most of the time is waiting (REAL_TIME and RAY in tests/conftest.py).
JOBS ?= 4
# The pip of Python 3.11 takes three times as long as today's. Modules are compiled when they are first imported, which few are.
MAKE_VENV = test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip; }
NEW_ENOUGH = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the server and its tests need Python >= 3.11; try make PYTHON=python3.12")'

.PHONY: demo test test-oldest coverage lint types bench bench-check bench-schedulers fuzz soak docs proto clean setup

demo: $(DEMO_READY)  ## a fleet of simulated robots, driven in real time; with ARGS='--http 8080' on the live page too
	$(BIN)/inferential demo $(ARGS)

test: lint  ## lint, types, import rules, then every test, in JOBS processes
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-oldest: $(OLDEST)/.ready  ## the tests with the oldest packages that pyproject.toml allows; Ray and the docs apart
	$(OLDEST)/bin/python -m pytest -n $(JOBS) -m 'not peer' --ignore tests/dispatch/ray --ignore tests/docs $(ARGS)

coverage: $(READY)  ## lines and branches that the tests run; fails below COVERED percent
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --sort=cover --fail-under=$(COVERED)

lint: $(READY)  ## style, types, the import table and plain words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_words.py

types: $(READY)  ## fails where less than TYPED percent of the public names have a full type, as users of the package see it
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --ignoreexternal --verifytypes inferential | tee .typed | tail -25
	$(BIN)/python -c 'import re; share = float(re.search(r"completeness score: ([\d.]+)%", open(".typed").read())[1]); raise SystemExit(share < $(TYPED) and f"{share} %, expected $(TYPED)")'

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
	$(NEW_ENOUGH)
	@echo "setting up $(VENV) with all that the tests need, for some minutes"
	$(MAKE_VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $(DEMO_READY) $@

# Of what the tests need, the demo needs a part.
$(DEMO_READY): pyproject.toml hatch_build.py src/inferential/proto/inferential.proto
	$(NEW_ENOUGH)
	@echo "setting up $(VENV) with what the demo needs, for a minute or so"
	$(MAKE_VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[demo]'
	touch $@

# The oldest versions of the packages that the extras name, with the newest tools to test them.
$(OLDEST)/.ready: pyproject.toml hatch_build.py src/inferential/proto/inferential.proto
	$(NEW_ENOUGH)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --python $(OLDEST)/bin/python $(EXTRAS:%=--extra %) pyproject.toml -o $(OLDEST)/oldest.txt
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --constraint $(OLDEST)/oldest.txt --editable '.[edge,demo,otel,bfloat16,lerobot,kserve,record,test]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-out site
	rm -f src/inferential/proto/inferential_pb2.py src/inferential/proto/inferential_pb2.pyi
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
