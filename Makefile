# make demo, make check, make test, make bench, make torture, make docs, make notebooks: each does all the set-up it needs, in .venv.
PYTHON ?= python3
VENV ?= .venv
# Any PyTorch from 2.9 on will do. Installed by name first, so that no larger build than this one is fetched.
TORCH ?= torch==2.13.0
# Processes that share the tests, each with one thread: two cores' worth.
WORKERS ?= 2
# Time for all rows of `make torture` together.
MINUTES ?= 60

BIN := $(abspath $(VENV))/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/*/*)

# Tests that take a minute together on two cores; each is of code that needs no training, no figure and no GPU.
FAST := base analysis models/test_losses studies/test_study training/test_checkpoint training/test_lockstep \
	training/test_metrics worlds/test_dataset worlds/test_groups \
	$(addprefix rows/test_,bad_input labels oracle streams tiles tokens) \
	$(addprefix worlds/cities/test_,world world_csv selection findings published prediction)
FAST := $(foreach test,$(FAST),$(or $(wildcard python_tests/$(test).py),python_tests/$(test)))

.PHONY: demo style check test bench torture docs notebooks clean

demo: $(VENV)/ready
	$(BIN)/worldfast demo

style: $(VENV)/ready-test
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*/*)
	$(BIN)/mypy

# What a minute can tell: format, lint, types of what a user calls, and the quick tests.
check: style
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(FAST)

test: $(VENV)/ready-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# make bench WIDTH=8: what a processor with AVX2 does, on one with AVX-512.
bench: $(VENV)/ready-peers
	$(BIN)/python benchmarks/labels.py
	$(BIN)/python benchmarks/python_tasks.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/cka.py
	$(BIN)/python benchmarks/activations.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/recurrent.py
	$(BIN)/python benchmarks/walks.py
	$(BIN)/python benchmarks/demo.py

# The table of promises, each shown by breaking things: make torture MINUTES=600 ROWS="kills damage".
torture: $(VENV)/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m torture --minutes $(MINUTES) $(ROWS)

docs: $(VENV)/ready-test
	$(BIN)/python docs/build.py build/docs

# Executes the notebooks at full size and saves what they show: after a change of their code.
notebooks: $(VENV)/ready-test
	$(BIN)/python docs/notebooks/execute.py

# What the build needs stands in the environment, not in one of its own, so that a second build compiles what changed.
# Bytecode is written as modules are imported: most of what pip would compile never is.
INSTALL := PATH="$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-compile

$(VENV)/tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) "setuptools>=77" "pybind11>=3.0" "cmake>=3.25" ninja
	touch $@

$(VENV)/torch: $(VENV)/tools
	$(INSTALL) "$(TORCH)"
	touch $@

$(VENV)/ready: $(VENV)/torch $(SOURCES)
	$(INSTALL) --no-build-isolation -e .
	touch $@

# One installation brings the package and what its tests need.
$(VENV)/ready-test: $(VENV)/torch $(SOURCES)
	$(INSTALL) --no-build-isolation -e ".[test]"
	touch $(VENV)/ready $@

$(VENV)/ready-peers: $(VENV)/torch $(SOURCES)
	$(INSTALL) --no-build-isolation -e ".[peers]"
	touch $(VENV)/ready $@

clean:
	rm -rf $(VENV) build *.egg-info worldfast/_core*.so
