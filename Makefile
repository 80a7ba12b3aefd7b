# make demo runs the whole product; make test and make lint judge it. ARGS is passed on, PYTHON chooses the interpreter.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
ARGS :=
BIN := $(VENV)/bin
export PYTHON

# What an installation is made from: it is redone when one of these changes, and not otherwise.
BUILD_INPUTS := pyproject.toml setup.py .ci/venv .ci/python cext/_native.pyx $(wildcard cext/kernels/*)
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

.PHONY: help demo test lint bench clean

help:
	@echo 'make demo    run a real energy market on four nodes  (ARGS="--days 2 --json", see wattd demo --help)'
	@echo 'make test    run the tests, on the native kernels and on the pure-Python twin  (ARGS="-k merkle")'
	@echo 'make lint    check style, types and layers'
	@echo 'make bench   measure, beside references  (ARGS="merkle_root --json")'
	@echo 'make clean   remove what the others have made'

$(RUN_STAMP): $(BUILD_INPUTS)
	@.ci/venv $(VENV) sim >&2
	@touch $@

$(TEST_STAMP): $(BUILD_INPUTS)
	@.ci/venv $(VENV) sim,test >&2
	@touch $(RUN_STAMP) $@

demo: $(RUN_STAMP)
	@$(BIN)/wattd demo $(ARGS)

bench: $(RUN_STAMP)
	@$(BIN)/wattd bench $(ARGS)

# What computes with cext is tested on the pure twin too: first, so that the closing line of all tests is the last.
PURE_TESTS := $(wildcard tests/unit/cext tests/unit/consensus tests/unit/consensus_rules)

test: $(TEST_STAMP)
ifeq ($(strip $(ARGS)),)
	@WATTD_PURE=1 $(BIN)/python -m pytest -n 2 $(PURE_TESTS)
endif
	@$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(TEST_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf cext/_native.c cext/_native.*.so demo-data
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
