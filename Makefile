# Every target does its own set-up, from nothing but Python 3.11 to 3.13: a virtual environment in .venv, made again
# when pyproject.toml changes. `make PYTHON=python3.12 test` picks the Python for a new one.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# pip makes no bytecode: most of what torch and transformers bring is never imported. What every command imports is
# compiled all the same, also where PYTHONDONTWRITEBYTECODE keeps Python from doing it: it is half of a start.
COMPILED := sqlalchemy pydantic pydantic_core typer annotated_types typing_inspection platformdirs httpx rich
COMPILE := $(PY) -m compileall -q registry adapter_registry \
  $$(ls -d $(addprefix $(VENV)/lib/python3.*/site-packages/,$(COMPILED)) 2>/dev/null)
PIP := $(PY) -m pip --disable-pip-version-check install --progress-bar off --no-compile --quiet

# One thread a test process: the processes are what runs in parallel, and tests of threads set their own number.
# And bytecode is written, whatever the shell says: hundreds of processes of the tests import the same modules.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=
PYTEST := $(TEST_ENV) $(PY) -m pytest -q -n logical --maxprocesses 8 --dist worksteal
# Narrows a run: make test ARGS='tests/tensors -k compose'
ARGS ?=
# In place of the tests of a target, one thing of those in ONLY_TEST or ONLY_LONG below: make test-long ONLY=recipes
ONLY ?=

only = $(or $($(1)_$(ONLY)),$(error $@ has no ONLY=$(ONLY), but: \
  $(or $(sort $(patsubst $(1)_%,%,$(filter $(1)_%,$(.VARIABLES)))),nothing)))

# The quick tests and the slow ones in one run, which collects them once and starts what they share once.
ONLY_TEST_all = $(PYTEST) -m 'not long and not image' $(ARGS)
# The same with the slow tests of a third of the modules, drawn by the id of the commit: what CI runs, in 25 minutes.
ONLY_TEST_third = $(PYTEST) -m 'not long and not image' --third="$$(git rev-parse HEAD)" $(ARGS)
# A few of the bugs planted by hand, and a few drawn by the syntax in what changed, by the id of the commit: of the first
# each must be caught, of the second those that no test sees are printed for a person. More are named than there is time
# for; each bug has 60 seconds at most.
ONLY_TEST_mutants = $(TEST_ENV) $(PY) -m tests.house.mutants --sample 16 --minutes 1 && \
  $(TEST_ENV) $(PY) -m tests.house.drawn --sample 24 --minutes 0.8 $(ARGS)
# All that can be drawn in the files that changed (ARGS='--since main', '--all --sample 60').
ONLY_LONG_mutants = $(TEST_ENV) $(PY) -m tests.house.drawn $(ARGS)
# All that are planted by hand, one at a time in a copy, or those named in ARGS.
ONLY_LONG_planted = $(TEST_ENV) $(PY) -m tests.house.mutants $(ARGS)
# Processes killed, raced and asked at random for half an hour: nothing may be lost.
ONLY_LONG_trials = $(TEST_ENV) $(PY) -m tests.trials $(ARGS)
# Every model type of transformers against PEFT, as a table (about half an hour).
ONLY_LONG_architectures = $(TEST_ENV) $(PY) -m tests.architectures.run $(ARGS)
# A heap that the tools themselves made, and 500 of folders without receipts, whose parents are to be found (hours; HEAPS=N for fewer).
ONLY_LONG_heaps = $(TEST_ENV) $(PY) -m tests.services.importing.team_heap && \
	$(TEST_ENV) $(PY) -m tests.services.publishing.parent_heap $(or $(HEAPS),500)
# The recipes of docs/pool.md, and trainings with TRL and MLX, in an environment of their own.
ONLY_LONG_recipes = $(TEST_ENV) $(VENV)/recipes/bin/python -m pytest -q -m 'not slow' tests/pool/test_recipes.py \
  tests/services/importing/test_sft.py tests/training/test_trl.py tests/training/test_mlx.py $(ARGS)
NEEDED_FOR_recipes := $(VENV)/recipes/.made
# The tests of clients with the two older sets of them.
ONLY_LONG_clients = CLIENTS=$(VENV)/clients-hub-1 $(PYTEST) tests/clients $(ARGS) && \
  CLIENTS=$(VENV)/clients-hub-0.36 $(PYTEST) tests/clients $(ARGS)
NEEDED_FOR_clients := $(VENV)/clients-hub-1/.made $(VENV)/clients-hub-0.36/.made
# huggingface_hub's own tests, as far as they make sense, against a service (HUB_SOURCE=FOLDER: its source).
ONLY_LONG_hub-own = OWN_TESTS_PACKAGES=$(VENV)/hub-own $(TEST_ENV) $(PY) -m tests.clients.own_tests \
  $(if $(HUB_SOURCE),--source $(HUB_SOURCE)) $(ARGS)
NEEDED_FOR_hub-own := $(VENV)/hub-own/.made
# @huggingface/hub, the Hub's client for JavaScript (needs node 18 and npm).
ONLY_LONG_javascript = CLIENTS_JS=$(VENV)/clients-js $(TEST_ENV) $(PY) -m pytest -q tests/clients/test_javascript.py $(ARGS)
NEEDED_FOR_javascript := $(VENV)/clients-js/.made

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-long image lint format docs screenshots bench dist clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## See the main job on real weights: a tree of adapters, trained, composed, merged and checked.
	$(VENV)/bin/registry demo

# The longest of these tests takes 10 s, where pyproject.toml allows 600 s to any: one that hangs fails after 300 s.
test: $(VENV)/.dev ## Run the tests (6 to 11 minutes on 2 cores, set-up included); ONLY=all: the slow ones, too; ONLY=third: a third of them; ONLY=mutants: see that they catch a few bugs.
	$(if $(ONLY),$(call only,ONLY_TEST),$(PYTEST) -o faulthandler_timeout=300 -m 'not slow and not image' $(ARGS))

test-slow: $(VENV)/.dev ## Run the tests that take minutes.
	$(if $(ONLY),$(call only,ONLY_SLOW),$(PYTEST) -m 'slow and not long and not image' $(ARGS))

test-long: $(VENV)/.dev $(NEEDED_FOR_$(ONLY)) ## Run the tests that are not in CI; ONLY=mutants, planted, clients, hub-own, javascript, recipes, trials, heaps, architectures: these.
	$(if $(ONLY),$(call only,ONLY_LONG),$(PYTEST) -m 'long and not image' $(ARGS))

image: $(VENV)/.dev ## Take the steps of the Dockerfile in a clean root, with downloads, and ask the service whether it is healthy.
	$(TEST_ENV) $(PY) -m pytest -q -m image $(ARGS)

lint: $(VENV)/.dev ## Check format, style, types and the direction of imports.
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev ## Format the code, apply the safe fixes, and write the lists in docs/ that come from it.
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(PY) -m tests.house.module_map
	$(PY) -m tests.house.route_table
	$(PY) -m tests.house.python_page
	$(PY) -m tests.house.indexes

docs: $(VENV)/.docs ## Build the pages of docs/ into site/, with search; they open without a server and load nothing from elsewhere.
	$(PY) -m tests.house.docs_site site

screenshots: $(VENV)/.dev ## Write pictures of every web page into screenshots/: light and dark, wide and narrow (needs Chromium).
	$(TEST_ENV) $(PY) -m tests.web.screenshots screenshots $(ARGS)

bench: $(VENV)/.dev $(VENV)/peers/.made ## Measure beside the peers and write one table (two hours, 35 GB in the temp folder; ARGS='hub --runs 3' for a part).
	$(PY) -m benchmarks $(ARGS)

dist: $(VENV)/.dev ## Build wheels and source distributions into dist/: of all, and of the client alone.
	rm -rf dist
	$(PY) -m build --no-isolation --outdir dist .
	$(PY) -m build --no-isolation --outdir dist client

clean: ## Remove what the targets made: .venv, caches, build output, results.
	rm -rf $(VENV) build dist client/dist demo-registry screenshots site benchmarks/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find registry adapter_registry tests benchmarks alembic migrations -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else "Python 3.11 to 3.13 is needed, this is %d.%d: name another with make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(PY)
	@echo 'Installing what the demo needs into $(VENV), once (torch is large: a minute or more).'
	$(PIP) -e '.[demo]'
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(PY)
	@echo 'Installing what tests and lint need into $(VENV), once (torch is large: a minute or more).'
	$(PIP) -e '.[demo,test,lint]'
	@$(COMPILE)
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(PY)
	@echo 'Installing what builds the pages into $(VENV), once.'
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/clients-%/.made: tests/clients/%.txt | $(PY)
	@echo 'Installing the clients of $< into $(@D), once (torch is large: a minute or more).'
	$(PY) -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --progress-bar off --no-compile --quiet -r $<
	@touch $@

$(VENV)/hub-own/.made: | $(VENV)/.dev
	$(PIP) --no-deps --target $(@D) pytest-mock
	@touch $@

$(VENV)/clients-js/.made: tests/clients/javascript/package.json | $(PY)
	@echo 'Installing @huggingface/hub into $(@D) by npm, once.'
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $< $(@D)
	npm install --prefix $(@D) --no-audit --no-fund --no-package-lock --ignore-scripts --silent
	@touch $@

$(VENV)/recipes/.made: tests/pool/recipes.txt pyproject.toml | $(PY)
	@echo 'Installing what the recipes of docs/pool.md and docs/training.md use into $(@D), once (torch is large: a minute or more).'
	$(PY) -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --progress-bar off --no-compile --quiet -e '.[demo,test]' -r $<
	@touch $@

$(VENV)/peers/.made: benchmarks/peers.txt | $(PY)
	@echo 'Installing MLflow, granian and boto3 with CRT into $(VENV)/peers, once: apart, so that they change nothing for us.'
	$(PY) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip --disable-pip-version-check install --progress-bar off --quiet -r benchmarks/peers.txt
	@touch $@
