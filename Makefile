PYTHON ?= python3
VENV = build/venv
BIN = $(VENV)/bin
SOURCES = setup.py pyproject.toml $(wildcard ext/* wrapper/*)
C_FILES = $(wildcard ext/*.[ch] wrapper/*.[ch] tests/*.c)
# Debian's names; on another system their equivalents must be there already.
PACKAGES = gcc libc6-dev libcap-dev libcap2-bin python3-dev python3-venv acl e2fsprogs

.PHONY: demo test soak lint doc dist clean

demo: build/installed build/wheel
	@CAPS=$(CURDIR)/$(BIN)/caps examples/demo.sh

test: build/installed build/wheel
	$(BIN)/pytest $(TESTS)

soak: build/installed build/wheel
	CAPS_SOAK=1 $(BIN)/pytest $(TESTS)

doc: build/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder doctest doc build/doctest
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder man doc build/man
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html doc build/html

lint: build/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	CAPS_WERROR=1 $(BIN)/python setup.py --quiet build --build-base build/lint --force

build/packages: Makefile
	@mkdir -p build
	@if ! command -v apt-get >/dev/null; then \
	    echo "not a Debian: these are taken to be there: $(PACKAGES)"; \
	elif ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	    test "$$(id -u)" = 0 || { echo "missing: sudo apt-get install $(PACKAGES)"; exit 1; }; \
	    apt-get update -qq && apt-get install -qq --no-install-recommends $(PACKAGES); \
	fi
	@touch $@

build/installed: build/packages $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,lint,doc]'
	@touch $@

build/wheel: build/packages $(SOURCES) $(wildcard caps/*.py*)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $@ .
	@touch $@

dist: build/wheel
	cp build/wheel/*.whl dist/

clean:
	rm -rf build dist *.egg-info caps/*.so caps/ppy caps/ppy-check
