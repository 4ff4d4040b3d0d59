# make demo, make test, make bench: each does all the set-up it needs, in .venv.
PYTHON ?= python3
VENV ?= .venv
# Any PyTorch from 2.9 on will do. Installed by name first, so that no larger build than this one is fetched.
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/*)

.PHONY: demo test bench clean

demo: $(VENV)/ready
	$(BIN)/worldfast demo

test: $(VENV)/ready-test
	$(BIN)/python -m pytest

bench: $(VENV)/ready
	$(BIN)/python benchmarks/labels.py

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/ready: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/ready-test: $(VENV)/ready
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info worldfast/_core*.so
