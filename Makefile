# One target a job. Each makes its own .venv when it is missing or stale; all it needs is make and Python >= 3.10.
#   PYTHON=python3.12   the interpreter to make .venv with
#   ARGS="..."          further arguments for test, lab, train, bench and experiments

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
NOTEBOOKS := $(wildcard chapters/*.ipynb)
INDEX := _build/html/index.html
RUN := runs/bananas

# Nobody's own settings of matplotlib or IPython change a figure or a test, and nothing is written outside the clone.
export MPLCONFIGDIR := $(CURDIR)/.venv/config/matplotlib
export IPYTHONDIR := $(CURDIR)/.venv/config/ipython

.DEFAULT_GOAL := help
.PHONY: help book test check lab notebooks train bench experiments clean venv

help: ## list what can be made
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo "PYTHON=python3.12 chooses the interpreter, ARGS=\"...\" adds arguments to test, lab, train, bench and experiments."

book: venv ## build the book from the notebooks as they are stored (seconds)
	@echo "Building the book ..."
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet >/dev/null
	@echo "The book is at file://$(CURDIR)/$(INDEX)"

test: venv ## run every test: units, doctests, notebooks, the book in a browser (minutes)
	@echo "Running every test ..."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	    --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg tests d2lmini chapters $(ARGS)

check: venv ## lint and check the format of code and notebooks (seconds)
	@echo "Checking code and notebooks with ruff ..."
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

lab: venv ## open the chapters in JupyterLab
	@echo "Opening the chapters in JupyterLab; Ctrl-C twice ends it ..."
	@$(BIN)/python -m jupyterlab chapters $(ARGS)

notebooks: venv ## run every notebook again and store its outputs (minutes)
	@echo "Running the notebooks ..."
	@$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)

train: venv ## train a detector on generated bananas, score it, draw its data (minutes)
	@echo "Training into $(RUN), or going on where an earlier run stopped ..."
	@$(BIN)/python -m d2lmini train --data bananas --out $(RUN) --resume $(ARGS)
	@$(BIN)/python -m d2lmini evaluate --data bananas --model $(RUN)/best.safetensors
	@$(BIN)/python -m d2lmini data bananas --out $(RUN)/data.png

bench: venv ## measure d2lmini beside its peers (needs the network once)
	@echo "Measuring d2lmini beside its peers ..."
	@$(BIN)/python -m benchmarks $(ARGS)

experiments: venv ## train what the experiments still lack, then write their tables (hours)
	@echo "Computing the missing rows; Ctrl-C ends it, and the next time it goes on ..."
	@OMP_NUM_THREADS=1 $(BIN)/python -m experiments run $(ARGS)
	@$(BIN)/python -m experiments tables

clean: ## remove what was built, but not .venv or runs/
	@echo "Removing _build and caches ..."
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

venv:
	@PYTHON="$(PYTHON)" sh tools/setup_venv
