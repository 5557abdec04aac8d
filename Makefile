# Every target sets up what it needs in .venv, from nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
RUN := $(VENV)/bin/python
IN_TWO := --numprocesses 2 --dist loadfile
INTO_OLDEST := $(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-oldest test-browser lab site notebooks lint setup clean

demo: setup
	$(RUN) -m pconv demo

# Two processes, each with whole files: most tests and notebooks use one core.
test: setup
	$(RUN) -m pytest $(IN_TWO)

# The unit tests on the first versions that pyproject.toml allows of torch and torchvision, in an environment of their own; but
# for those that no version of torch decides (files, checks of exercises, packaging), and for the slow export and rehearsal.
NOT_IN_OLDEST := export record_gpu packaging notebooks checks_ image_ mask_reader photos
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(IN_TWO) tests/test_*.py $(NOT_IN_OLDEST:%=--deselect tests/test_%)

# The painter and the notebooks in a real JupyterLab; wants a chromium, and is skipped where there is none.
test-browser: setup
	$(RUN) -m pytest $(IN_TWO) tests/browser

# In a container one is often root, which Jupyter refuses unless told; it listens on localhost, with a token.
lab: setup
	$(RUN) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/notebooks/01_partial_convolution.ipynb

# The course as web pages in site/, with a page on which the shipped weights run in the browser.
site: $(VENV)/site-installed build/fill.onnx build/masks.onnx
	$(RUN) docs/build_site.py

build/masks.onnx: WHAT := --mask-trace
build/fill.onnx build/masks.onnx: $(VENV)/site-installed data/pconv_small.safetensors $(wildcard pconv/*.py)
	@mkdir -p build
	$(RUN) -m pconv export $(WHAT) --output $@ --force

# Sphinx and its theme, and what the pages bring with them instead of asking another server for it.
$(VENV)/site-installed: $(VENV)/installed docs/package-lock.json
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[site]"
	$(VENV)/bin/npm ci --prefix docs --silent
	@touch $@

# Executes the notebooks anew into the form in which they are committed.
notebooks: setup
	$(RUN) notebooks/course/execute.py

lint: setup
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

setup: $(VENV)/installed

# Made again whenever pyproject.toml or constraints.txt has changed.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): PyTorch is large, this takes a few minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[course,dev]"
	@touch $@

# All else in the versions of constraints.txt; torch brings the libraries for its GPUs itself. They come one by one: all at
# once, pip would want room for their archives, too, 4 GB more.
$(OLDEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	sed -E '/^(torch|triton|nvidia|cuda)/d' constraints.txt > $(OLDEST)/constraints.txt
	$(INTO_OLDEST) --no-deps torch==2.9.0 torchvision==0.24.0
	$(OLDEST)/bin/python -c 'from importlib.metadata import requires; print(*requires("torch"), sep="\n")' | grep ^nvidia \
		| while read -r library; do $(INTO_OLDEST) --no-deps "$$library" || exit 1; done
	$(INTO_OLDEST) -c $(OLDEST)/constraints.txt -e ".[course,dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) runs build site docs/node_modules
