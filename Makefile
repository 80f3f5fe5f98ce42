# `make demo` and `make test` are all the set-up there is: each installs what it needs into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Nothing here may reach the Hub: the suite and the demo use folders and a local stand-in.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: install demo test test_slow test_all test_versions browser check coverage format docs notebooks dist bench clean

install: $(VENV)/.installed

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first, by its exact pin: a range would be free to pick another build.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/videomae demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu and not browser"

test_slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m "slow and not gpu and not browser"

test_all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m "not gpu and not browser"

# The fast suite with the newest and with the oldest versions that pyproject.toml allows, each in an environment of its
# own; torch stays at its pin. The newest are looked up again at each call.
VERSIONS_PIP := pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"

test_versions:
	test -d .venv-newest || $(PYTHON) -m venv .venv-newest
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-newest/bin/$(VERSIONS_PIP) --upgrade --upgrade-strategy eager --editable ".[dev]"
	.venv-oldest/bin/pip install --quiet packaging
	.venv-oldest/bin/python tests/oldest_versions.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/$(VERSIONS_PIP) --constraint .venv-oldest/constraints.txt --editable ".[dev]"
	for age in newest oldest; do \
		.venv-$$age/bin/python -m pytest -n auto -m "not slow and not gpu and not browser" || exit 1; \
	done

# Needs Chromium, from the system or from `playwright install chromium`; without one the tests are skipped.
browser: $(VENV)/.installed-dev
	$(PIP) --editable ".[demo,browser]"
	$(BIN)/python -m pytest -m browser tests/browser

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# The lines of the package that the fast suite does not run. pytest-cov is installed for it alone.
coverage: $(VENV)/.installed-dev
	$(PIP) pytest-cov
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu and not browser" --cov --cov-report=term-missing:skip-covered

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation site, in build/site; it needs no network and asks for none when it is read.
docs: $(VENV)/.installed-dev
	$(PIP) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The notebooks and the pictures of the documents, made again from the guides and the package.
notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/make.py
	$(BIN)/python docs/pictures/make.py

# What an index would get, in dist/, built and checked.
dist: $(VENV)/.installed-dev
	$(BIN)/python docs/distribution.py

# Under 20 minutes. Peers (decord, torchcodec) are used where BENCH_PYTHON has them; they are not installed for it.
BENCH_PYTHON ?= $(BIN)/python
bench: $(VENV)/.installed-dev
	$(BENCH_PYTHON) -m benchmarks $(or $(NAME),cpu)

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest build dist src/*.egg-info
