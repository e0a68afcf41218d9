# Each target does all its own set-up: an environment in .venv, by uv where it is installed, else by venv and pip.
PYTHON ?= python3
BIN := .venv/bin
AGENTS := .agents
MIRRORS := .mirrors
RAY := .ray
WHOLE := tests/night tests/crash tests/adversarial tests/test_agent_nights.py
.PHONY: demo test test-core test-slow test-agents test-mirrors test-ray test-slurm bench-peers fuzz check docs screenshots lock clean

demo: .set-up
	@$(BIN)/nightlab demo

test: .set-up-dev
	@$(BIN)/pytest -n 3 --dist worksteal -m "not slow"

test-core: .set-up-dev
	@$(BIN)/pytest tests/core

# Two at a time, but for those that keep every core busy themselves.
test-slow: .set-up-dev
	@$(BIN)/pytest -n 2 --dist worksteal -m slow $(addprefix --ignore=,$(WHOLE))
	@$(BIN)/pytest -m slow $(WHOLE)

# Seven coding agents, installed for real (2 GB), each in the jail against a scripted model; no key is needed.
test-agents: .set-up-dev $(AGENTS)/.set-up
	@NIGHTLAB_AGENTS=$(AGENTS) $(BIN)/pytest -n 2 --dist worksteal -m agents tests/agents

$(AGENTS)/.set-up: tests/agents/installed/package.json tests/agents/installed/package-lock.json tests/agents/installed/aider.txt
	@mkdir -p $(AGENTS) && cp tests/agents/installed/package*.json $(AGENTS)/
	cd $(AGENTS) && npm install --no-audit --no-fund --loglevel=error
	$(PYTHON) -m venv $(AGENTS)/aider && $(AGENTS)/aider/bin/pip install -q -r tests/agents/installed/aider.txt
	@touch $@

# What is said of all inputs, tried on inputs that were never tried before.
fuzz: .set-up-dev
	@NIGHTLAB_PROPERTIES=fuzz $(BIN)/pytest -n 2 -m hypothesis

# The clients of W&B, MLflow (its server too) and trackio, and pyarrow: 0.8 GB in an environment of their own. trackio
# wants an older pillow than the lock has.
test-mirrors: $(MIRRORS)/.set-up
	@NIGHTLAB_MIRRORS=1 $(MIRRORS)/bin/pytest -n 2 tests/mirrors

$(MIRRORS)/.set-up: pyproject.toml requirements.lock tests/mirrors/installed.txt
	$(PYTHON) -m venv $(MIRRORS)
	grep -v '^pillow' requirements.lock > $(MIRRORS)/constraints.txt
	$(MIRRORS)/bin/pip install -q --disable-pip-version-check -c $(MIRRORS)/constraints.txt \
	  -r tests/mirrors/installed.txt -e .
	@touch $@

# A real Ray cluster on this machine, its machines lost one by one: 0.4 GB in an environment of its own.
test-ray: $(RAY)/.set-up
	@NIGHTLAB_RAY=1 $(RAY)/bin/pytest -m ray tests/executors

$(RAY)/.set-up: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install -q --disable-pip-version-check -c requirements.lock -e ".[ray,dev]"
	@touch $@

# A real Slurm cluster on this machine, from Debian's packages slurm-wlm and munge; as root, as Slurm's daemons are.
test-slurm: .set-up-dev
	@NIGHTLAB_SLURM=1 $(BIN)/pytest -m slurm tests/executors

# The same work to other systems, each from the package index into .peers (1 GB), and the tables of docs/benchmarks.md;
# two hours, most of it for constants. Not part of any test.
bench-peers: .set-up-dev
	@$(BIN)/nightlab bench peers --cache .peers --write docs/benchmarks.md

# Every view of the page, desk and phone, light and dark: of the demo, or of another study by STUDY=folder.
STUDY ?= nightlab-demo
screenshots: .set-up-dev
	@$(BIN)/python docs/screenshots.py $(STUDY) docs/pictures

check: .set-up-dev
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy

.set-up: pyproject.toml requirements.lock
	@./set-up "$(PYTHON)" plots
	@touch $@

.set-up-dev: pyproject.toml requirements.lock
	@./set-up "$(PYTHON)" plots,agents,mcp,notify,swarm,live,dev
	@touch $@ .set-up

# The pages that are read off the code: every key of the task file, every command.
docs: .set-up-dev
	@$(BIN)/python docs/reference.py

# The lock holds versions and no addresses, so that it serves pip and uv on any index.
lock: .set-up-dev
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --extra plots --extra agents --extra mcp --extra notify --extra swarm --extra live --extra dev --universal --no-emit-index-url \
	  --no-header --no-annotate -q -o requirements.lock

clean:
	rm -rf .venv .set-up .set-up-dev $(AGENTS) $(MIRRORS) $(RAY)
