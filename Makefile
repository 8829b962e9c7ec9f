# `make` alone lists the targets. Everything runs in .venv, which is made when it is first needed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
STUBS := .venv/stubs
JETSON := targets/jetson/runner/d3d_edge_runner/tensorrt_model.py

PROCESSES = $$($(BIN)/python -c 'from d3d_edge.processors import cpus; print(min(cpus() + 1, 4))')

.DEFAULT_GOAL := help
# Python keeps what it compiles, whatever the environment says: the install leaves that to the first import.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: help .venv demo test lint types arch check clean

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[.a-z]+:.*  ## / { printf "make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(READY)  ## install d3d-edge with all extras, at the tested versions

# The stamp goes first and comes back last: an install that was cut short begins again from nothing. The pip that comes
# with Python 3.11 takes longer to choose versions than a newer one to be fetched and to choose them, and compiling all
# that is installed takes as long again, most of it never imported. Two packages are compiled at once, since Python
# warns of escape sequences in them when it compiles, which is an error in tests.
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "d3d-edge needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@test -f $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(BIN)/python -m pip install --quiet -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[all,dev]'
	@cd .venv/lib/python3*/site-packages && ../../../bin/python -W ignore -m compileall -q -j 0 coremltools torchao
	@touch $@

demo: $(READY)  ## the whole way on rendered clips: train, distil, quantize, export, validate
	$(BIN)/d3d-edge demo $(ARGS)

# One thread a process, since several share the processors, and one process more than there are, since tests wait as
# well, for servers and for commands that end; whole files, since their fixtures are expensive; and in the order of
# tests/conftest.py, the files that take longest first.
test: $(READY)  ## all tests; ARGS goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) $(STUBS)  ## mypy, strict; what runs on a Jetson, against stubs of TensorRT's API
	$(BIN)/mypy
	MYPYPATH=$(STUBS):targets/jetson/runner $(BIN)/mypy --explicit-package-bases $(JETSON)

# Beside .venv's packages, not among them: the stubs ask for TensorRT itself, and make an empty `tensorrt` importable.
# Two things that are no Python are mended, an argument called `in` and one without a default behind one that has one.
$(STUBS): $(READY)
	@rm -rf $@ $@.part
	$(BIN)/python -m pip install --quiet --no-deps --target $@.part -c constraints.txt tensorrt-stubs
	@sed -i.bak -E 's/\bin: /in_: /g; s/(power: Weights = None, channel_axis: int)\)/\1 = ...)/' \
	    $@.part/tensorrt_bindings/tensorrt.pyi
	@mv $@.part $@

arch: $(READY)  ## imports go down only
	$(BIN)/lint-imports --no-logo

check: lint types arch test  ## all of the above but the demo

clean:  ## remove .venv and everything built
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find d3d_edge tests -name __pycache__ -type d -prune -exec rm -rf {} +
