# Every target builds what it needs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV := .venvs/uv/bin/uv
AIRFLOW := .venvs/airflow
AIRFLOW_MATRIX := 3.1 3.2 3.4
PREFECT := .venvs/prefect
PREFECT_MIN := .venvs/prefect-min
DOCS := .venvs/docs
PY := $(AIRFLOW)/bin/python
PREFECT_PY := $(PREFECT)/bin/python
# Prefect 3.9 asks for a certifi that not every index has yet; any recent one does.
PREFECT_OVERRIDES := --override <(echo 'certifi>=2025')
# What only Prefect's environment can test, and check: mypy ignores it elsewhere.
PREFECT_TESTS := tests/unit/prefect_blocks tests/wire/prefect_blocks tests/e2e/prefect
PREFECT_SOURCES := prefect_blocks $(wildcard dev/*prefect*.py example_dags/prefect) $(PREFECT_TESTS) tests/typing/prefect_steps.py
# Most tests wait most of the time: four processes keep two cores busy. One has the real Airflow, or Prefect (tests/spreading.py).
SPREAD := -n 4
# Tests and tools must not depend on what the caller's shell happens to set.
export PYTHONPATH :=
unexport TRANSACTIONLINK_ALLOWED_HOSTS
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help demo demo-prefect up test test-prefect-min soak e2e-airflow e2e-prefect check bench mutants env-airflow env-prefect env-prefect-min
.PHONY: test-airflow-matrix env-airflow-matrix
.PHONY: constraints dist clean docs env-docs screenshots

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: env-airflow ## Run an example KYC DAG on a real Airflow against the sandbox, print what happens, stop everything
	@$(PY) -m dev.demo

demo-prefect: env-prefect ## The same on a real Prefect: flow runs without a process while they wait, one cancelled
	@$(PREFECT_PY) -m dev.demo_prefect

up: env-airflow ## Leave sandbox and Airflow running for a person; Ctrl-C stops them
	@$(PY) -m dev.up

screenshots: env-airflow ## Take the pictures of the documents, of what `make up` serves in another terminal
	@$(PY) -m dev.screenshots

test: env-airflow env-prefect ## Pass all tests, real Prefect and real Airflow included
	@failed=0; $(PREFECT_PY) -m pytest $(SPREAD) $(PREFECT_TESTS) || failed=1; $(PY) -m pytest $(SPREAD) || failed=1; exit $$failed

test-airflow-matrix: env-airflow env-airflow-matrix ## Pass the Airflow tests, and smoke tests on a real one, with each supported version
	@rm -rf build/airflow-matrix
	@for series in 3.1 3.2 3.3 3.4; do echo "Airflow $$series"; python=.venvs/airflow-$$series/bin/python; [ $$series = 3.3 ] && python=$(PY); \
		$$python -m pytest -q tests/unit/airflow_provider -o junit_family=xunit1 --junitxml build/airflow-matrix/$$series-unit.xml && \
		SOAK=1 $$python -m pytest -q tests/e2e/test_airflow_versions.py -o junit_family=xunit1 --junitxml build/airflow-matrix/$$series-smoke.xml || exit 1; done
	@$(PY) -m dev.airflow_versions build/airflow-matrix

test-prefect-min: env-prefect-min ## Pass the Prefect tests that need no deployments, with the oldest Prefect
	@$(PREFECT_MIN)/bin/python -m pytest tests/unit/prefect_blocks tests/wire/prefect_blocks

soak: env-airflow env-prefect ## The same laws with full counts
	@SOAK=1 $(PREFECT_PY) -m pytest $(PREFECT_TESTS)
	@SOAK=1 $(PY) -m pytest

e2e-airflow: env-airflow ## Every end-to-end test on a real Airflow, the slow ones too
	@SOAK=1 $(PY) -m pytest tests/e2e

e2e-prefect: env-prefect ## Every end-to-end test on a real Prefect, the slow ones too
	@SOAK=1 $(PREFECT_PY) -m pytest tests/e2e/prefect

docs: env-docs ## Build the documents into build/site; a link that leads nowhere is an error
	@NO_COLOR=1 $(DOCS)/bin/mkdocs build 2>&1 | { grep -v '^INFO' || true; }; exit $${PIPESTATUS[0]}

check: env-airflow env-prefect docs ## Lint, format, types, import contracts, documents
	@$(AIRFLOW)/bin/ruff check --quiet .
	@$(AIRFLOW)/bin/ruff format --quiet --check .
	@$(AIRFLOW)/bin/mypy
	@$(PREFECT)/bin/mypy $$(find $(PREFECT_SOURCES) -name '*.py')
	@$(AIRFLOW)/bin/lint-imports --no-logo

bench: env-airflow env-prefect ## Repeatable comparisons; ratios within one run; over an hour
	@$(PREFECT_PY) -m benchmarks.prefect_imports
	@$(PY) -m benchmarks.imports
	@$(PY) -m benchmarks.watch
	@$(PY) -m benchmarks.receiver
	@$(PY) -m benchmarks.detection
	@$(PY) -m benchmarks.defer_after
	@$(PY) -m benchmarks.triggerer
	@$(PY) -m benchmarks.batch
	@$(PY) -m benchmarks.peers

mutants: env-airflow ## Mutation testing of the start protocol, ends within ten minutes; GROUP=webhooks for theirs
	@$(UV) pip install --quiet --python $(PY) -c constraints/airflow.txt --group mutants
	@$(PY) -m benchmarks.mutants $(GROUP)

dist: env-airflow ## Build wheel, source distribution and bill of materials into dist/, the same bytes for the same commit
	@$(UV) pip install --quiet --python $(PY) -c constraints/airflow.txt --group release
	@$(PY) -m dev.distribution

env-airflow: $(AIRFLOW)/.complete ## Build .venvs/airflow with everything that Airflow, tests and tools need

$(AIRFLOW)/.complete: pyproject.toml constraints/airflow.txt dev/bootstrap.sh
	@echo "building $(AIRFLOW)"
	@dev/bootstrap.sh
	@$(UV) venv --quiet --allow-existing --python python3.11 $(AIRFLOW)
	@$(UV) pip install --quiet --python $(PY) -c constraints/airflow.txt -e '.[airflow,batch,cli,sandbox,sql,webhooks]' --group dev --group bench
	@touch $@

env-airflow-matrix: $(AIRFLOW_MATRIX:%=.venvs/airflow-%/.complete) ## Build an environment for each other supported Airflow

.venvs/airflow-%/.complete: pyproject.toml constraints/airflow-%.txt dev/bootstrap.sh
	@echo "building $(@D)"
	@dev/bootstrap.sh
	@$(UV) venv --quiet --allow-existing --python python3.11 $(@D)
	@$(UV) pip install --quiet --prerelease if-necessary-or-explicit --python $(@D)/bin/python -c constraints/airflow-$*.txt -e '.[airflow,batch,cli,sandbox,sql,webhooks]' --group dev
	@touch $@

# Bytecode: every server, runner and flow run is a process, and tests write none. Without it, each takes seconds to compile Prefect.
env-prefect: $(PREFECT)/.complete ## Build .venvs/prefect: Airflow 3.3 and Prefect 3.9 cannot share an environment

$(PREFECT)/.complete: pyproject.toml constraints/prefect-3.9.txt dev/bootstrap.sh
	@echo "building $(PREFECT)"
	@dev/bootstrap.sh
	@$(UV) venv --quiet --allow-existing --python python3.11 $(PREFECT)
	@$(UV) pip install --quiet --compile-bytecode --python $(PREFECT_PY) -c constraints/prefect-3.9.txt $(PREFECT_OVERRIDES) -e '.[prefect,batch,cli,sandbox,sql,webhooks]' --group dev
	@touch $@

env-prefect-min: $(PREFECT_MIN)/.complete ## Build .venvs/prefect-min with the oldest Prefect that is supported

# Prefect 3.6.17 does not name importlib_metadata, which it imports. From fastapi 0.132 on, its server refuses subflows.
$(PREFECT_MIN)/.complete: pyproject.toml constraints/prefect-3.6.17.txt dev/bootstrap.sh
	@echo "building $(PREFECT_MIN)"
	@dev/bootstrap.sh
	@$(UV) venv --quiet --allow-existing --python python3.11 $(PREFECT_MIN)
	@$(UV) pip install --quiet --compile-bytecode --python $(PREFECT_MIN)/bin/python -c constraints/prefect-3.6.17.txt -e '.[prefect,batch,cli,sandbox,sql,webhooks]' --group dev importlib_metadata
	@touch $@

env-docs: $(DOCS)/.complete ## Build .venvs/docs

$(DOCS)/.complete: pyproject.toml constraints/docs.txt dev/bootstrap.sh
	@echo "building $(DOCS)"
	@dev/bootstrap.sh
	@$(UV) venv --quiet --allow-existing --python python3.11 $(DOCS)
	@$(UV) pip install --quiet --python $(DOCS)/bin/python -c constraints/docs.txt --group docs
	@touch $@

constraints: ## Pin the newest versions that the environments resolve to
	@dev/bootstrap.sh
	@$(UV) pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 pyproject.toml \
		--extra airflow --extra batch --extra cli --extra sandbox --extra sql --extra webhooks --group dev --group bench --group mutants --group release -c <(echo 'apache-airflow==3.3.2') -o constraints/airflow.txt
# Airflow 3.2.2 bounds neither FastAPI, cadwyn nor pydantic, and its API server does not start with later ones.
	@for version in 3.1.8 3.2.2 3.4.0b2; do $(UV) pip compile --quiet --upgrade --prerelease if-necessary-or-explicit --no-header --no-annotate --python-version 3.11 pyproject.toml \
		--extra airflow --extra batch --extra cli --extra sandbox --extra sql --extra webhooks --group dev -c <(echo "apache-airflow==$$version"; [ $$version != 3.2.2 ] || printf 'fastapi<0.137\ncadwyn<8\npydantic<2.14\n') -o constraints/airflow-$${version%.*}.txt; done
	@$(UV) pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 pyproject.toml \
		--extra prefect --extra batch --extra cli --extra sandbox --extra sql --extra webhooks --group dev -c <(echo 'prefect==3.9.1') $(PREFECT_OVERRIDES) -o constraints/prefect-3.9.txt
	@$(UV) pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 pyproject.toml <(printf 'fastapi<0.132\nimportlib_metadata\n') \
		--extra prefect --extra batch --extra cli --extra sandbox --extra sql --extra webhooks --group dev -c <(echo 'prefect==3.6.17') -o constraints/prefect-3.6.17.txt
	@$(UV) pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 --group docs -o constraints/docs.txt

clean: ## Remove environments and caches
	@rm -rf .venvs dist build .up .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
