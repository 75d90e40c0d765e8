PYTHON ?= python3
VENV ?= .venv
JOBS ?= 4
BUDGET ?= 600
KILLS ?= 3
RUNS ?= 5
# What Python has compiled is kept, whatever this says: without it every worker of `make test`, and
# each of the hundreds of processes that it starts, compiles the package and the tests again.
unexport PYTHONDONTWRITEBYTECODE
# pytest's exit code for "no tests" is 5: none failed last time
failed_last_time = --last-failed --last-failed-no-failures none || [ $$? = 5 ]

.PHONY: help setup lab work plots publish test drills lint docs site browser lock clean

help:
	@echo "make lab      open your own copy of the lessons (work/) in JupyterLab, a Redis already running"
	@echo "                COMMITTED=1       open notebooks/ itself, to change the lessons"
	@echo "make work     only make that copy, for another editor"
	@echo "make plots    measure on this machine and draw the plots"
	@echo "                ONLY=pipelines   one experiment    REDRAW=1   draw without measuring"
	@echo "make publish  measure as plots does, several runs of each, for results to commit"
	@echo "                ONLY=pipelines   one experiment    RUNS=5     how many runs (default 5)"
	@echo "make test     unit tests, then every notebook, its outputs compared strictly"
	@echo "                UNIT=1            unit tests only     JOBS=1     one at a time"
	@echo "                UNIT=servers      those that need a server"
	@echo "                NOTEBOOKS=1       notebooks only"
	@echo "                AGAIN=1           the tests that failed last time, then the notebooks"
	@echo "make drills   long races and hundreds of kills, which make test leaves out"
	@echo "                BUDGET=600        start no further drill after so many seconds"
	@echo "                KILLS=20          kill each command so often"
	@echo "                FIGURES=file.md   write the counts to a file"
	@echo "                AGAIN=1           the drills that failed last time"
	@echo "make lint     ruff over package, tests and notebooks; mypy over the package"
	@echo "make docs     the API reference, from the docstrings: build/docs/index.html"
	@echo "make site     the lessons as a web site, with search: build/site/index.html"
	@echo "make browser  the site and JupyterLab in Chromium; pictures go to build/screenshots"
	@echo "                SITE=as-it-is     do not build the site again"
	@echo "make lock     write requirements.lock from what pyproject.toml declares"
	@echo "                UPGRADE=1         with the newest versions"
	@echo "make clean    remove what the other targets have made"
	@echo
	@echo "Each sets itself up on first use in $(VENV). Another Python: make PYTHON=python3.12 lab"

setup:
	@$(PYTHON) bootstrap.py --venv "$(VENV)"

lab: setup
	@"$(VENV)/bin/redis-lab" lab $(if $(COMMITTED),--committed)

work: setup
	@"$(VENV)/bin/redis-lab" work

plots: setup
	@"$(VENV)/bin/redis-lab" plots $(ONLY) $(if $(REDRAW),--redraw)

publish: setup
	@"$(VENV)/bin/redis-lab" publish $(ONLY) --runs $(RUNS)

test: setup
ifndef NOTEBOOKS
	"$(VENV)/bin/python" -m pytest -n $(if $(AGAIN),0,$(JOBS)) --dist worksteal \
		$(if $(filter servers,$(UNIT)),--ignore tests/unit) $(if $(AGAIN),$(failed_last_time))
endif
ifndef UNIT
	"$(VENV)/bin/redis-lab" validate $(if $(filter-out undefined file,$(origin JOBS)),--jobs $(JOBS))
endif

drills: setup
	"$(VENV)/bin/python" -m pytest -m drill -n $(if $(AGAIN),0,$(JOBS)) --dist worksteal \
		--budget-s=$(BUDGET) --kills=$(KILLS) $(if $(FIGURES),--drill-figures=$(FIGURES)) \
		$(if $(AGAIN),$(failed_last_time))

lint: setup
	"$(VENV)/bin/ruff" check redis_lab tests notebooks docs $(wildcard benchmarks) bootstrap.py
	"$(VENV)/bin/ruff" format --check redis_lab tests docs $(wildcard benchmarks) bootstrap.py
	"$(VENV)/bin/mypy" redis_lab

docs: setup
	@rm -rf build/docs
	@"$(VENV)/bin/python" docs/api.py build/docs

site: setup
	@"$(VENV)/bin/python" docs/site/build.py build/site

browser: $(if $(SITE),setup,site)
	"$(VENV)/bin/python" -m pytest -m browser tests/browser $(if $(AGAIN),$(failed_last_time))

lock:
	@$(PYTHON) bootstrap.py --venv "$(VENV)" --uv compile pyproject.toml --quiet --universal \
		--all-extras --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock

# VENV may name any folder: only what bootstrap.py has set up is removed.
clean:
	@if [ -f "$(VENV)/redis-lab-stamp" ]; then \
		find "$(VENV)" -mindepth 1 -maxdepth 1 ! -name redis-lab-stamp -exec rm -rf {} +; \
		rm -rf "$(VENV)" "$(VENV).lock"; fi
	@find data -type f \( -name '*.sqlite' -o -name '*.sqlite-*' \) -exec rm -f {} +
	@find redis_lab tests notebooks -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +
	@rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@echo "Removed: $(VENV), build/, the shop's data (*.sqlite), caches."
	@echo "Kept: notebooks/, your copies in work/, data/results/, data/plots/, data/local/."
