# make run     the app on http://127.0.0.1:8501
# make test    the whole suite (browser tests where a Chromium is found: CHROMIUM=/path, or on PATH)
# make check   lint, format, types, imports
# make bench   how fast the pages answer, measured in a real browser

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check bench clean

run: .venv/run
	$(BIN)/streamlit run serve.py --server.address 127.0.0.1 --server.port 8501

# Bytecode is kept even where the environment says otherwise: many processes import the same files.
test: .venv/dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	$(BIN)/python -m benchmarks.interaction

# torch first and alone: asked for together with others, pip may look for a newer build of it.
.venv/run: requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt $$(grep '^torch==' requirements.txt | cut -d' ' -f1)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv
