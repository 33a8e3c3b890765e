# make demo: install into .venv and run the main job on an example study
# make test: install into .venv and run every test
# make studies: thousands of mutated studies, and, where there is a folder of real defective ones beside, all of those
# make check: lint, format, types (of the package as it installs)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEEDS := setup.cfg pyproject.toml constraints.txt
WORKERS ?= 2
MUTANTS ?= 8000
TORTURE ?= ../shared/torture

.PHONY: demo test studies check clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.with-demo
	$(BIN)/scanloom demo -o demo

# One thread a worker: the tests' networks are tiny, more threads only wait for each other.
test: $(VENV)/.with-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=15

studies: $(VENV)/.with-test
	$(BIN)/python tests/fuzz_studies.py --mutants $(MUTANTS)
	if [ -f $(TORTURE)/check.py ]; then $(BIN)/python $(TORTURE)/check.py --cli $(CURDIR)/$(BIN)/scanloom; fi

check: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	cd build && MYPYPATH=installed ../$(BIN)/python -m mypy --config-file ../setup.cfg \
		-p scanloom.networks -p scanloom.transforms -p scanloom.pipeline

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.with-%: $(BIN)/python $(NEEDS)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build demo
