# Each target does all its own set-up: an environment in .venv, by uv where it is installed, else by venv and pip.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: demo test test-core test-slow check lock clean

demo: .set-up
	@$(BIN)/nightlab demo

test: .set-up-dev
	@$(BIN)/pytest -m "not slow"

test-core: .set-up-dev
	@$(BIN)/pytest tests/core

test-slow: .set-up-dev
	@$(BIN)/pytest -m slow

check: .set-up-dev
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy

.set-up: pyproject.toml requirements.lock
	@./set-up "$(PYTHON)" plots
	@touch $@

.set-up-dev: pyproject.toml requirements.lock
	@./set-up "$(PYTHON)" plots,agents,mcp,dev
	@touch $@ .set-up

# The lock holds versions and no addresses, so that it serves pip and uv on any index.
lock: .set-up-dev
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --extra plots --extra agents --extra mcp --extra dev --universal --no-emit-index-url \
	  --no-header --no-annotate -q -o requirements.lock

clean:
	rm -rf .venv .set-up .set-up-dev
