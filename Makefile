# The two commands that matter: `make serve` and `make test`. Both build first what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.built
TOOLS := $(VENV)/.tools
SOURCES := setup.py pyproject.toml $(wildcard ext/*/*.pyx ext/*/*.pxd)
SERVE_ARGS ?=

build: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# Editable: the command runs from this checkout, and the compiled rooms lie beside their sources.
$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

# What tests, checks and benchmarks need beside it: six times as much, which nobody has to wait for who only serves.
EXTRAS := import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*sum(extras.values(), []), sep="\n")
$(TOOLS): pyproject.toml | $(STAMP)
	$(BIN)/python -c '$(EXTRAS)' | $(BIN)/pip install --quiet --requirement /dev/stdin
	touch $@

tools: build $(TOOLS)

serve: build
	$(BIN)/unbroken serve $(SERVE_ARGS)

test: tools
	$(BIN)/python -m pytest $(TEST_ARGS)

bench: tools
	$(BIN)/python -m bench.rooms $(BENCH_ARGS)

lint: tools
	$(BIN)/ruff check .

types: tools
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ext --allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist

# The browser build of the SDK in Chromium, on a page of another origin; not in `make test`, for it needs Chromium.
browser: tools
	npm install --prefix tests/sdk --no-audit --no-fund --silent
	$(BIN)/python -m tests.browser

# Address and undefined-behaviour sanitizers under the tests of the compiled rooms, in a build of its own.
sanitize:
	./tests/sanitize.sh

clean:
	rm -rf build dist *.egg-info $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f ext/*/*.c ext/*/*.so ext/*/*.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: build tools serve test bench browser lint types sanitize clean
