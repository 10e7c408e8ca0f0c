# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := ace,lammps,xtb,fireworks,remote,docs,dev
INSTALLED := $(VENV)/.installed
COMPILED := $(VENV)/.compiled

# Six more than there are cores, since tests of workers and servers wait now and then; one thread each
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 6)')
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
test test-long: export OMP_NUM_THREADS ?= 1

# MD and training run in processes of their own, which start four times as fast from bytecode
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-dft tutorials lint format bench docs constraints clean

demo: $(INSTALLED)
	$(BIN)/mlip-autopipec run tutorials/copper.yaml --folder demo --overwrite

test: $(COMPILED)
	$(PYTEST) -m "not long"

# The rest: further fits of half a minute and more, each with a short relative in `make test`. CI runs both
test-long: $(COMPILED)
	$(PYTEST) -m long

# Real DFT codes, where they are installed; what is skipped says which Debian package is missing
test-dft: $(INSTALLED)
	$(BIN)/python -m pytest tests/dft

# The notebooks, executed; the site then shows what they gave. A server is started for them where there can be one
tutorials: $(INSTALLED)
	$(BIN)/python tests/server/mongo.py $(BIN)/python -m pytest tests/tutorials

lint: $(INSTALLED)
	$(BIN)/ruff check src packages tests benchmarks tutorials
	$(BIN)/ruff format --check src packages tests benchmarks tutorials
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/python docs/_ext/notebooks.py
	$(BIN)/ruff check --fix src packages tests benchmarks tutorials
	$(BIN)/ruff format src packages tests benchmarks tutorials

# Every warning and every reference that leads nowhere is an error. Notebooks that `make tutorials` did not execute are
# executed now
docs: $(INSTALLED)
	$(BIN)/python tests/server/mongo.py $(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(INSTALLED)
	$(BIN)/python tests/server/mongo.py $(BIN)/python benchmarks/store_growth.py
	$(BIN)/python tests/server/mongo.py $(BIN)/python benchmarks/many_campaigns.py
	$(BIN)/python tests/server/mongo.py $(BIN)/python benchmarks/document_sizes.py --server-frames 130
	$(BIN)/python benchmarks/md_throughput.py
	$(BIN)/python benchmarks/local_scaling.py
	$(BIN)/python benchmarks/grain_boundary.py
	$(BIN)/python benchmarks/alloy_swaps.py --folder $(VENV)/alloy_swaps
	$(BIN)/python benchmarks/biased_md.py --folder $(VENV)/biased_md
	@if [ -d "$(DFT_DATA)" ]; then $(BIN)/python benchmarks/dft_tables.py $(DFT_DATA); \
		else echo "benchmarks/dft_tables.py is left out: set DFT_DATA to the folder of its data sets"; fi
	$(BIN)/python benchmarks/label_efficiency.py --folder $(VENV)/label_efficiency
	$(BIN)/python benchmarks/head_to_head.py --folder $(VENV)/head_to_head
	$(BIN)/python benchmarks/first_datasets.py --folder $(VENV)/first_datasets
	$(BIN)/python benchmarks/teacher.py --folder $(VENV)/teacher

# Everything at the versions of constraints.txt; uv honours the override in pyproject.toml that
# keeps CUDA packages out. Done once: the stamp is newer than these files.
$(INSTALLED): pyproject.toml constraints.txt packages/vasp-stand-in/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed, '$(PYTHON)' is another; set PYTHON=python3.12 or so"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[$(EXTRAS)]" -e packages/vasp-stand-in
	touch $@

# Bytecode of what tests import, made by one process: uv makes none, and all processes of the suite, which begin together,
# would each make it. An error of the collection is told by the suite itself
$(COMPILED): $(INSTALLED)
	-@$(BIN)/python -m pytest --collect-only -q > /dev/null 2>&1
	@touch $@

# Resolve anew, for all supported Python versions at once: names and versions only.
constraints: $(INSTALLED)
	echo "tensorflow>=2.16,<=2.20" > $(VENV)/overrides.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--override $(VENV)/overrides.txt --no-annotate --no-header --no-emit-index-url -o constraints.txt

clean:
	rm -rf $(VENV) demo runs docs/_build docs/notebooks
