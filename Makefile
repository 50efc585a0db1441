# make demo       set up, film a shipped policy beside its plans, open the report of the reference results: under a minute
# make quick      set up, and see a learner rise between floor and ceiling: a few minutes on two cores
# make run        set up, and do the main job at the scale that fits this machine: curve and table at the end
# make test       set up, and pass the tests          make test-long   what takes longer
# make margins    how much room every test of learning has, over five seeds on three instruction sets (part of test-long)
# make test-slurm what needs a SLURM cluster: brings one up on this machine (root), else says why it is skipped
# make gpu-check  in under nine minutes what only a GPU shows, into gpu-check.json: docs/gpu.md. Installs nothing
# make lint       ruff and mypy                       make setup       only the environment
#
# TORCH is any requirement that pip understands. It is installed first: without a GPU the CPU build saves gigabytes, as in the README:

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
METHOD ?= pvdr
TASK ?= reach
SEEDS ?= 5
ARGS ?=
TEST_JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export MPLBACKEND ?= Agg

.PHONY: demo quick run test test-long margins test-slurm gpu-check lint setup gl

demo: setup
	$(BIN)/pvdr-bench demo

run: setup
	$(BIN)/pvdr-bench run --plot --method $(METHOD) --task $(TASK) --seeds $(SEEDS) $(ARGS)

quick: setup
	$(BIN)/pvdr-bench run --plot --method ppo,random,scripted --task $(TASK) --seeds 2 --scale quick $(ARGS)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

test-long: setup
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -m 'long or hypothesis'

margins: setup
	$(BIN)/python -m tests.margins $(ARGS)

test-slurm: setup
	@[ "$$(id -u)" != 0 ] || slurm/sandbox/cluster.sh install || true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slurm and not long" -rs

# Without set-up: a machine with a GPU may have no package registry, and a torch of its own, which PYTHON then has.
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pvdr_bench bench gpu-check --json $(ARGS)

lint: setup
	$(BIN)/ruff check pvdr_bench tests hatch_build.py
	$(BIN)/mypy

setup: $(STAMP) gl

gl: $(STAMP)
	@scripts/gl.sh $(BIN)/python

# The stamp holds the torch requirement: another one, or a changed pyproject.toml, installs again.
$(STAMP): pyproject.toml hatch_build.py $(if $(filter-out $(strip $(shell cat $(STAMP) 2>/dev/null)),$(strip $(TORCH))),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@echo '$(strip $(TORCH))' > $@

.PHONY: FORCE
FORCE:
