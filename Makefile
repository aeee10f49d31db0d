# Needs only make and Python 3.11 or newer. `make` alone prints what you can do.
PYTHON ?= python3
BIN := .venv/bin
CODE := $(wildcard service_kit router_service asset_service library_service gateway workers/atelier_worker \
	client/atelier_client cli/atelier_cli console/atelier_console benchmarks faults scripts tests hatch_build.py)
RELEASED := protos/released/atelier.binpb
BOOTSTRAP := $(PYTHON) scripts/bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help python install runtime stubs lint format test browser node test-clients test-engines test-gpu test-console screenshot demo up bench redis wheel breaking snapshot model mutants faketime faults clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }

install: python ## make .venv with everything for development, or bring it up to date
	@$(BOOTSTRAP) dev

runtime: python
	@$(BOOTSTRAP) runtime

stubs: python ## generate the stubs again after a change in protos/
	@$(BOOTSTRAP) stubs

lint: install ## ruff, mypy, import-linter, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/python scripts/googleapis.py build/googleapis
	$(BIN)/buf lint
	@if [ -e $(RELEASED) ]; then $(MAKE) --no-print-directory breaking; else echo "no released contracts yet: see make snapshot"; fi
	$(BIN)/lint-imports

breaking:
	$(BIN)/buf breaking protos --against $(RELEASED)

# To break a contract on purpose: say why in an ADR, remove protos/released/, then store the new one.
snapshot: install ## store the contracts as released; refuses changes that break clients
	$(BIN)/python scripts/googleapis.py build/googleapis
	@if [ -e $(RELEASED) ]; then $(MAKE) --no-print-directory breaking; fi
	@mkdir -p $(dir $(RELEASED))
	$(BIN)/buf build protos --exclude-source-info -o $(RELEASED)
	$(BIN)/python scripts/http_routes.py $(dir $(RELEASED))http_routes.json

format: install ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## run every test that needs nothing but Python
	$(BIN)/pytest -n 2 --dist loadscope

model: SEED := $(or $(SEED),$(shell date +%s))
model: install ## look longer for what breaks the rules of a job's life (make model SEED=7 repeats a run)
	@echo "to repeat this run: make model SEED=$(SEED)"
	MODEL_SEED=$(SEED) MODEL_EXAMPLES=$${MODEL_EXAMPLES:-200} $(BIN)/pytest tests/model -s

mutants: install ## break each rule in a copy of the code; some test must fail (make mutants NAMES="model storage")
	$(BIN)/python -m scripts.mutants $(NAMES)

# The page's tests need a browser, and what drives it; neither is for those who only run make test.
PLAYWRIGHT := build/playwright
$(PLAYWRIGHT): | install
	@rm -rf $@.part && $(BIN)/pip install --quiet --target $@.part playwright==1.65.2 && mv $@.part $@

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || { echo "there is no Chromium: install the package chromium" >&2; exit 1; }

test-console: browser | $(PLAYWRIGHT) ## test the page in Chromium
	PYTHONPATH=$(PLAYWRIGHT) $(BIN)/pytest tests/console

# Each client of others has an environment of its own, with its own versions; the JavaScript ones need node and npm.
CLIENTS := build/clients
node:
	@command -v node >/dev/null && command -v npm >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; } || { echo "there is no Node.js with npm: install the packages nodejs (20 or newer) and npm" >&2; exit 1; }

test-clients: install node ## test the clients of OpenAI, fal and Replicate, unmodified, each in its own environment
	$(BIN)/python -m tests.clients.environments $(CLIENTS)
	WITH_CLIENTS=1 $(BIN)/pytest tests/clients

# The engines that hold models need torch and its family: gigabytes that nothing else needs.
ENGINES := build/engines
$(ENGINES)/installed: pyproject.toml constraints.txt hatch_build.py $(wildcard protos/atelier/*/v1/*.proto) | install
	@rm -rf $(ENGINES) && $(PYTHON) -m venv $(ENGINES) && $(ENGINES)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,diffusers,transformers]' 'transformers[serving]' && touch $@

test-engines: $(ENGINES)/installed ## test the engines on the real libraries with tiny models; nothing is downloaded but packages
	WITH_ENGINES=1 $(ENGINES)/bin/pytest tests/engines

test-gpu: $(ENGINES)/installed ## test and measure the engines on a GPU; skipped where there is none
	WITH_ENGINES=1 $(ENGINES)/bin/pytest tests/gpu -s -rs -o faulthandler_timeout=900 -o timeout=870

screenshot: browser | $(PLAYWRIGHT) ## take the picture of the page that the documents show
	PYTHONPATH=$(PLAYWRIGHT):. $(BIN)/python scripts/screenshot.py docs/images/page.webp

demo: runtime ## start everything, make pictures, a video and a prompt, save one
	@$(BIN)/python scripts/demo.py

up: runtime ## start everything on the data of make demo and keep it running
	@ATELIER_DATA_DIR="$${ATELIER_DATA_DIR:-$(CURDIR)/.atelier}" $(BIN)/atelier up

# What the benchmark compares with lives in an environment of its own: its versions are not ours to choose.
PEERS := build/peers
$(PEERS)/installed: benchmarks/peers/requirements.txt | install
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS) && $(PEERS)/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@

redis:
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null; } || { echo "there is no redis-server: install the package redis-server" >&2; exit 1; }

LITELLM := build/litellm
$(LITELLM)/installed: benchmarks/peers/litellm.txt | install
	@rm -rf $(LITELLM) && $(PYTHON) -m venv $(LITELLM) && $(LITELLM)/bin/pip install --quiet --disable-pip-version-check -r $< && touch $@

bench: install redis $(PEERS)/installed $(LITELLM)/installed ## measure start, memory, speed beside others; PART=jobs for a part
	$(BIN)/python -m benchmarks $(if $(PART),--part $(PART)) $(if $(ROUNDS),--rounds $(ROUNDS))

# libfaketime steps the clock of one process; a full disk needs root, and schedules that need what is missing do not run.
faketime: install
	@$(BIN)/python -m faults.faketime || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime >/dev/null; } || echo "there is no libfaketime: schedules that step a clock will not run; install the package libfaketime" >&2

faults: install faketime ## kill, stall, pause and lie while jobs run; SEED=7 repeats one, SCHEDULES=20 runs more
	$(BIN)/python -m faults $(if $(SEED),--seed $(SEED)) $(if $(SCHEDULES),--schedules $(SCHEDULES)) $(if $(FIRST),--first $(FIRST))

wheel: install ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove the environment and everything that was built; keeps .atelier
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
