# What one does with a checkout of blazen. Needs Linux, Python 3.11 or later with headers and venv, a C compiler, make;
# everything else is installed into .venv the first time, and found there later without the network.

PYTHON ?=
SEEDS ?= 20000
ANSWER ?= no
VENV := .venv
RUN := $(VENV)/bin/python
STUBS := $(wildcard blazen/_core/*.pyi)
C_FILES := $(wildcard csrc/*.[ch] csrc/*/*.[ch])
TYPED := blazen examples $(wildcard tests/typing)

# What a user's shell sets for other projects must not reach ours: import paths, optimisation (it removes asserts),
# and the settings of pip that install elsewhere than asked. Those that say where packages come from stay.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONSAFEPATH PYTHONWARNINGS PYTHONPLATLIBDIR
unexport VIRTUAL_ENV CONDA_PREFIX PYTEST_ADDOPTS PYTEST_PLUGINS MYPYPATH
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_DEPS PIP_DRY_RUN PIP_CONSTRAINT PIP_REQUIREMENT PIP_EDITABLE
unexport PIP_NO_BINARY PIP_ONLY_BINARY PIP_NO_BUILD_ISOLATION PIP_REQUIRE_HASHES PIP_IGNORE_INSTALLED PIP_PLATFORM
unexport PIP_PYTHON_VERSION PIP_ABI PIP_IMPLEMENTATION PIP_LOG PIP_VERBOSE PIP_QUIET PIP_UPGRADE PIP_PRE PIP_REPORT
# Not unset: a pip.conf may say the same.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0

.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv build run run-approval test test-c test-python test-other-pythons bench lint format coverage simulate \
	wheel clean distclean

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=python3.12 chooses the interpreter .venv is made with."

venv: ## .venv with everything this Makefile uses, at pinned versions
	@sh scripts/make_venv.sh "$(VENV)" requirements-dev.txt "$(PYTHON)"

build: venv ## compile the core in place
	@sh scripts/build_core.sh "$(VENV)"

run: build ## the example: a report on a folder of texts (INPUT=path for your own)
	@$(RUN) examples/text_report.py $(if $(INPUT),"$(INPUT)")

run-approval: build ## a run that asks you, is killed while it waits, and goes on (ANSWER=yes without a terminal)
	@ANSWER="$(ANSWER)" $(RUN) examples/approval.py

test: lint test-c test-python test-other-pythons ## lint, C tests with sanitizers, all tests, quick tests on every other Python

test-c: ## the C tests: plain, AddressSanitizer and UndefinedBehaviorSanitizer, ThreadSanitizer
	@$(MAKE) -C csrc check

test-python: build ## the Python tests (ARGS="-k name" for some of them)
	@$(RUN) -m pytest -q $(ARGS)

test-other-pythons: build ## the quick tests under every other supported Python installed
	@sh scripts/test_other_pythons.sh "$(VENV)"

bench: build ## benchmarks; fails where one misses its limit
	@$(RUN) -m pytest -q benchmarks --benchmark-only $(ARGS)

lint: build ## style and types of Python, Cython and C; stubs against the built modules
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy $(TYPED)
	@$(if $(STUBS),$(RUN) -m mypy.stubtest --concise --ignore-disjoint-bases --mypy-config-file pyproject.toml \
		--allowlist scripts/stubtest_allowlist.txt --ignore-unused-allowlist \
		$(patsubst blazen/_core/%.pyi,blazen._core.%,$(STUBS)))
	@PATH="$$PWD/$(VENV)/bin:$$PATH" cython-lint blazen/_core
	@$(if $(C_FILES),$(RUN) -c 'import clang_format; clang_format.clang_format()' --dry-run -Werror $(C_FILES))

format: venv ## rewrite Python and C in the project's format
	@$(RUN) -m ruff check --fix-only --quiet .
	@$(RUN) -m ruff format .
	@$(if $(C_FILES),$(RUN) -c 'import clang_format; clang_format.clang_format()' -i $(C_FILES))

coverage: venv ## lines of the core and branches of the engine reached by the tests; fails under 95 %
	@sh scripts/coverage.sh "$(VENV)"

simulate: build ## the long search: SEEDS simulated runs (20000), state machines for 500,000 steps each
	BLAZEN_HYPOTHESIS_PROFILE=long BLAZEN_SIMULATION_SEEDS=$(SEEDS) \
		$(RUN) -m pytest -q -m "simulation or property" $(ARGS)

wheel: venv ## sdist and wheel in dist/
	@$(RUN) -m build --no-isolation

clean: ## remove what was built; .venv stays
	rm -rf build dist blazen.egg-info csrc/build htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache .benchmarks
	rm -f blazen/_core/*.so blazen/_core/*.c blazen/_core/.built*
	find blazen tests benchmarks examples scripts -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## clean, and remove every .venv
	rm -rf .venv .venv-3.* .hypothesis
