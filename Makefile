# The whole manual: `make up` runs Himalia on this machine, `make test` proves it.
PYTHON ?= python3
BIN := .venv/bin
#: Where tests keep what the image builder writes; the images themselves are on the Docker Engine, found by content.
TEST_HOME ?= $(HOME)/.cache/himalia-tests

.PHONY: help up down status demo check format test unit images docker browser clean

help:
	@echo "make up      run Himalia on http://himalia.localhost:8000 and say how to log in"
	@echo "make down    stop it; all data stay"
	@echo "make status  what runs, and what this machine does not offer"
	@echo "make demo    Ada saves and shares an environment, Ben runs a job in it: the whole story, by script"
	@echo "make check   format, lint, types, import layers"
	@echo "make test    every test; installs what they need"

up: .venv/.made
	@$(BIN)/himalia up

down: .venv/.made
	@$(BIN)/himalia down

status: .venv/.made
	@$(BIN)/himalia status

demo: up
	@$(BIN)/python docs/tutorial/demo.py

# A virtual environment of the pinned versions, made anew when the pins change.
.venv/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Himalia needs Python 3.11 or newer: install python3.11 and run make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv"; $(PYTHON) -m venv .venv; }
	@echo "Installing Himalia and the pinned packages it stands on into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check: .venv/.made
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.made
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docker: .venv/.made
	@$(BIN)/python -c 'from himalia_services.local import engine; engine.need(print)'

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test -n "$$HIMALIA_CHROMIUM" || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { echo "The browser tests need Chromium: install the package chromium"; exit 1; }; \
	  echo "Installing Chromium"; apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

# Built when their inputs change, never otherwise.
images: docker
	@$(BIN)/python images/build.py --home $(TEST_HOME)

unit: .venv/.made
	$(BIN)/python -m pytest tests/unit tests/service

test: images browser
	HIMALIA_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis extensions/lab/node_modules extensions/lab/dist
