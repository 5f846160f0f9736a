# Everything is installed into .venv; a stamp there says that it is done, and with what.
# PIP_FLAGS are more options for pip.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt
STAMPED := pyproject.toml constraints.txt

.PHONY: demo test test-lava lint bench fuzz docs clean

SAMPLE := $(CURDIR)/graphs/flow_cytometry/sample.truth.csv

demo: .venv/demo.stamp
	mkdir -p out
	cd out && ../$(BIN)/streamflow run flow_cytometry --report report.json \
	  --set score.truth=$(SAMPLE) --set score_linear.truth=$(SAMPLE) --set page.truth=$(SAMPLE)

# JOBS test files at a time; many tests wait for processes and sockets, not for the processor.
JOBS ?= 2
test: .venv/test.stamp
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# Lava needs Python 3.10 and says numpy < 2; with numpy 2.2 it gives the same numbers, so it is
# installed without its own list, and what it uses of that beside it.
LAVA_PYTHON ?= python3.10
LAVA_PIP := .venv-lava/bin/python -m pip install -q $(PIP_FLAGS)

test-lava: .venv-lava/lava.stamp
	.venv-lava/bin/python -m pytest -q tests/lava

.venv-lava/lava.stamp: pyproject.toml
	$(LAVA_PYTHON) -m venv .venv-lava
	$(LAVA_PIP) -e . 'numpy<2.3' scipy networkx asteval scikit-learn pytest pytest-timeout hypothesis
	$(LAVA_PIP) --no-deps lava-nc==0.10.0
	touch $@

lint: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/test.stamp
	@for script in $(filter-out benchmarks/fuzz.py,$(wildcard benchmarks/[!_]*.py)); do \
	  echo "== $$script"; NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; \
	done

# MINUTES for all readers together; a finding is kept in out/fuzz.
MINUTES ?= 10
fuzz: .venv/test.stamp
	$(INSTALL) -e '.[fuzz]'
	NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES)

# What is generated from the code and committed; tests compare.
docs: .venv/test.stamp
	$(BIN)/streamflow nodes --package streamflow_nodes --schema > docs/graph.schema.json
	$(BIN)/streamflow nodes --package streamflow_nodes --markdown > docs/yaml-reference.md

clean:
	rm -rf .venv .venv-lava build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: $(STAMPED) | .venv/bin/python
	$(INSTALL) -e '.[events,cytometry,audio]'
	touch $@

.venv/test.stamp: $(STAMPED) | .venv/bin/python
	$(INSTALL) -e '.[events,cytometry,audio,scores,files,devices,hosts,norse,train,dev]'
	touch $@ .venv/demo.stamp
