# make demo: build a family of models on handwritten digits.  make test: run the tests.  make slow: those that take long.
# make faults: break things often.  All install first, in .venv.
PYTHON ?= python3
BIN := .venv/bin
# Tests at a time: many of them wait for servers and for processes that are killed (tests/parallel.py).
TESTS ?= 3
# uv reads its own variable; this passes on what pip was told about folders with packages.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

faults: .venv/installed
	EFFNET_FAULTS=full $(BIN)/python -m pytest tests/faults --timeout 5000

# Every picture and sample output of README and docs, from one run of the demo; needs Chromium, and a quiet machine.
pictures: .venv/installed
	$(BIN)/python docs/pictures.py

# The documentation as a site, in .site/: open index.html. Fails if a link leads nowhere.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

.PHONY: audit docs faults pictures demo newest test slow lint format clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/effnet family configs/mnist.yaml

test: .venv/installed
	$(BIN)/python -m pytest tests -m "not slow" --numprocesses $(TESTS) --no-loadscope-reorder

# The slow tests: all of them, or SAMPLE of them, others at each commit.
slow: .venv/installed
	EFFNET_SAMPLE=$(SAMPLE) $(BIN)/python -m pytest tests -m slow --numprocesses $(TESTS) --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known holes in the locked packages; says so, and goes on, where the advisories cannot be reached.
audit: .venv/installed
	$(BIN)/python .ci/audit.py

# Once a week: what pip installs without constraints.txt must work, or be bounded. The build of torch that was tested stays,
# because the newest one brings gigabytes (NEWEST_TORCH= to try it as well).
NEWEST_TORCH ?= torch==$(shell sed -n 's/^torch==//p' constraints.txt)
newest: .venv/installed
	rm -rf .venv-newest
	$(BIN)/uv venv --quiet --python $(BIN)/python .venv-newest
	$(BIN)/uv pip install --quiet --python .venv-newest/bin/python . $(NEWEST_TORCH)
	.venv-newest/bin/python .ci/newest.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-newest .site .effnet build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
