PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test tables clean

demo: $(VENV)/.demo
	$(BIN)/python cli.py demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

tables: $(VENV)/.test
	$(BIN)/python -m mappings.committed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	rm -rf *.egg-info
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	rm -rf *.egg-info
	$(BIN)/python -m pip install --quiet --editable ".[all,dev]"
	touch $(VENV)/.demo $@

clean:
	rm -rf $(VENV) demo-output *.egg-info .pytest_cache .ruff_cache .mypy_cache
