# make reproduce   every notebook, headless, in the `tiny` profile -> figures/
# make test        every test: the package's, then the notebooks'
# make site        the lessons as they ran, as pages to read -> figures/site/ (`make reproduce` ends with it)
# Both make .venv first, once, with the tested pins. Also: install, cheatsheet, bench, lint, golden, colab-test, checksums, notebooks-strip, clean.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A machine without a GPU can save 2 GB: make install TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
PROFILE ?= tiny
# One thread per notebook: at TinySD's size a second notebook gains more than a second thread.
# (GNU nproc counts by OMP_NUM_THREADS, where that is set.)
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1)
# `make reproduce ARGS="--only 01,03"`
ARGS ?=
# Keeps what the notebooks under test write, their cache included, out of the checkout and out of the user's cache.
NBVAL := build/nbval
NBVAL_ENV := OMP_NUM_THREADS=1 TQDM_DISABLE=1 DIFFINV_PROFILE=smoke DIFFINV_HEADLESS=1 DIFFINV_CACHE=$(abspath $(NBVAL))/cache
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
NBVAL_FLAGS := $(PARALLEL) --nbval-current-env --nbval-cell-timeout 300 -p no:cacheprovider

.PHONY: install reproduce site cheatsheet test test-package test-notebooks test-golden bench lint notebooks-strip golden colab-test checksums clean

install: $(STAMP)

# torch first: it has builds of its own per accelerator, and everything else builds on whichever is there.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "diffinv needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: $(STAMP)
	$(BIN)/diffinv reproduce --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

site: $(STAMP)
	$(BIN)/diffinv reproduce --site $(ARGS)

# The method's equations beside the lines of code: after a change of either.
cheatsheet: $(STAMP)
	$(BIN)/python -m diffinv.lessons.cheat_sheet docs

test: test-package test-notebooks test-golden

test-package: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests $(PARALLEL)

# Every cell of every notebook runs without an exception; their asserts say what must hold.
test-notebooks: $(STAMP)
	rm -rf $(NBVAL) && mkdir -p $(NBVAL) && cp notebooks/*.ipynb $(NBVAL)/
	$(NBVAL_ENV) $(BIN)/python -m pytest --nbval-lax $(NBVAL_FLAGS) $(NBVAL)

# What a cell prints is what it printed when the golden copy was made.
test-golden: $(STAMP)
	rm -rf $(NBVAL)/golden && mkdir -p $(NBVAL)/golden && cp tests/golden/*.ipynb $(NBVAL)/golden/
	$(NBVAL_ENV) $(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg $(NBVAL_FLAGS) $(NBVAL)/golden

golden: $(STAMP)
	$(BIN)/python tests/make_golden.py

# Lesson 00 from the wheel, with Google Colab's Python and versions: some gigabytes, and minutes.
colab-test: $(STAMP)
	$(BIN)/python tests/run_as_colab.py

# After a change of what is embedded: `diffinv doctor` and a test compare against these.
checksums:
	cd diffinv/assets && find . -type f ! -name SHA256SUMS ! -name '.*' | sed 's|^\./||' | LC_ALL=C sort | \
	xargs -d '\n' sha256sum > .SHA256SUMS && mv .SHA256SUMS SHA256SUMS

bench: $(STAMP)
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.evaluation_card
	$(BIN)/python -m benchmarks.engines

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks-strip: $(STAMP)
	$(BIN)/nbstripout --keep-id --extra-keys "metadata.widgets metadata.papermill cell.metadata.papermill \
	cell.metadata.execution metadata.language_info.version" notebooks/*.ipynb

clean:
	rm -rf build figures/executed figures/site
