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
BUILD_INPUTS := pyproject.toml setup.py .ci/venv .ci/python cext/_native.pyx cext/payments.pxi $(wildcard cext/kernels/*)
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

# The campaigns go on until these are used up. SEED repeats one; without it each prints a fresh one.
SECONDS := 120
SEEDS := 500
ROUNDS := 50
MINUTES := 10
NODES := 4
SEED :=
COUNT := 1000000

.PHONY: help demo test lint bench bench-million fuzz simulate crash soak clean

help:
	@echo 'make demo    run a real energy market on four nodes  (ARGS="--days 2 --json", see wattd demo --help)'
	@echo 'make test    run the tests, on the native kernels and on the pure-Python twin  (ARGS="-k merkle")'
	@echo 'make lint    check style, types and layers'
	@echo 'make bench   measure, beside references  (ARGS="merkle_root --json")'
	@echo 'make bench-million  send a million transactions of 765 bytes through four nodes  (COUNT=50000 ARGS=--json)'
	@echo 'make fuzz    feed mutated bytes to every decoder  (SECONDS=600 SEED=7 ARGS="--target rpc")'
	@echo 'make simulate  play faults on whole clusters in one process  (SEEDS=10000 SEED=7)'
	@echo 'make crash   kill nodes at every kind of write, cut their power, fail their disks  (ROUNDS=200 SEED=7)'
	@echo 'make soak    run nodes under payments, kills and pauses  (MINUTES=60 SEED=7 ARGS="--engine pow")'
	@echo 'make perturb  kill, stop, cut off and slow down real nodes, measure recovery  (NODES=7 MINUTES=5 SEED=7)'
	@echo 'make clean   remove what the others have made'

$(RUN_STAMP): $(BUILD_INPUTS)
	@.ci/venv $(VENV) sim >&2
	@touch $@

$(TEST_STAMP): $(BUILD_INPUTS)
	@.ci/venv $(VENV) sim,test >&2
	@touch $(RUN_STAMP) $@

demo: $(RUN_STAMP)
	@$(BIN)/wattd demo $(ARGS)

bench: $(TEST_STAMP)
	@$(BIN)/wattd bench $(ARGS)

bench-million: $(TEST_STAMP)
	@$(BIN)/python -m node.bench.million --count $(COUNT) $(ARGS)

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

fuzz: $(TEST_STAMP)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(SEED:%=--seed %) $(ARGS)

simulate: $(TEST_STAMP)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(SEED:%=--first %) $(ARGS)

crash: $(TEST_STAMP)
	@export WATTD_CRASH_ROUNDS=$(ROUNDS) WATTD_CRASH_SEED=$(or $(SEED),$$((RANDOM * 32768 + RANDOM))); \
	echo "seed $$WATTD_CRASH_SEED"; $(BIN)/python -m pytest -s tests/crash $(ARGS)

soak: $(TEST_STAMP)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(SEED:%=--seed %) $(ARGS)

perturb: $(TEST_STAMP)
	@$(BIN)/python -m tests.perturb --nodes $(NODES) --minutes $(MINUTES) $(SEED:%=--seed %) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf cext/_native.c cext/_native.*.so demo-data
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
