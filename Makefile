PYTHON ?= python3
BIN = build/venv/bin
SOURCES = setup.py pyproject.toml $(wildcard ext/* wrapper/*)
MODULES = $(wildcard caps/*.py* caps/*/*.py)
C_FILES = $(wildcard ext/*.[ch] wrapper/*.[ch] tests/support/*.c bench/*.c)
# Debian's names; on another system their equivalents must be there already.
PACKAGES = gcc libc6-dev libcap-dev libcap2-bin passwd python3-dev python3-venv util-linux
TEST_PACKAGES = acl btrfs-progs bubblewrap clang e2fsprogs fish iproute2 iputils-ping \
    libcap-ng-utils libclang-rt-dev musl-tools netbase pacman-package-manager procps \
    python3-cap-ng rpm systemd valgrind zsh
BENCH_PACKAGES = libcap-ng-utils python3-cap-ng sudo
AUDIT_PACKAGES = bpfcc-tools iproute2 iputils-ping strace tcpdump
# All tests are run by two processes, a file by one of them.
TWO = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test soak fresh kernels coverage differential bench audits lint doc install clean

help:  ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: build/installed build/wheel  ## as root: a script lists /root without being root
	@CAPS=$(CURDIR)/$(BIN)/caps examples/demo.sh

test: build/test-packages build/installed build/wheel  ## the tests; TESTS=tests/library/test_file.py takes one file
	$(BIN)/pytest $(or $(TESTS),$(TWO))

soak: build/test-packages build/installed build/wheel  ## the tests with more rounds; half an hour
	CAPS_SOAK=1 $(BIN)/pytest $(or $(TESTS),$(TWO))

fresh:  ## as root: demo and test in a minimal Debian: SUITE=trixie KIND=user, chroot or container
	.ci/fresh $(SUITE) $(KIND)

kernels:  ## as root: the tests that touch the kernel, in Debian's kernels since 5.10; half an hour
	.ci/kernels

# The instrumented extension and launchers stand in place of the others meanwhile. Scripts of other
# accounts add to the counters, too. exit(3) writes the counters, and _exit(2) would not.
coverage: build/test-packages build/installed build/wheel  ## the lines of Python and C that no test reaches
	rm -rf build/coverage
	mkdir -p build/coverage
	CFLAGS='--coverage -fprofile-update=atomic -D_exit=exit' LDFLAGS=--coverage $(BIN)/python setup.py --quiet \
	    build_ext --inplace --force --build-temp $(CURDIR)/build/coverage
	find build/coverage -type d -exec setfacl -m o::rwx,d:o::rwx {} +
	-$(BIN)/coverage run -m pytest $(TESTS)
	touch setup.py
	$(MAKE) build/installed
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/gcovr

differential: build/installed  ## the model of execve(2) against the kernel
	PYTHONPATH=tests $(BIN)/python tests/explain/test_execve.py --count 20000

bench: build/bench-venv  ## as root: the project beside its peers; ten minutes
	build/bench-venv/bin/python bench/run.py build/bench.json

audits: build/bench-venv build/audit-packages  ## as root: what caps audit and its peers say of programs; two minutes
	unshare --net --uts build/bench-venv/bin/python bench/audit.py build/audits.json
	$(BIN)/python bench/audit_report.py doc/bench/audit.txt build/audits.json

lint: build/installed  ## what tools can find: ruff, mypy, clang-format, warnings of the compiler
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	CAPS_WERROR=1 $(BIN)/python setup.py --quiet build --build-base build/lint --force

doc: build/installed man  ## the documentation, into build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder doctest doc build/doctest
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html doc build/html

man: build/installed $(MODULES) $(wildcard doc/*.rst doc/*.py)  ## caps(1) and ppy(8), into man/
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder man -d build/doctrees doc $@
	@touch $@

# The wheel is built from the sdist, away from git. auditwheel puts libcap into it.
dist: build/installed man $(SOURCES) $(MODULES) $(wildcard $(shell git ls-files 2>/dev/null))  ## sdist and wheel, into dist/
	rm -rf $@ build/dist
	$(BIN)/python -m build --quiet --no-isolation --outdir build/dist
	cd build/dist && PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --wheel-dir . *.whl
	rm build/dist/*-linux_*.whl
	$(BIN)/abi3audit --strict build/dist/*.whl
	$(BIN)/twine check --strict build/dist/*
	mv build/dist $@

# A distribution's own Python takes no packages: without PYTHON there is an environment for them.
# A copy is built, so that root leaves nothing in the checkout.
OWN = $(if $(filter file,$(origin PYTHON)),/opt/caps)
install: $(OWN:=/bin/python)  ## as root: into /opt/caps, with caps in PATH; or PYTHON=/srv/app/bin/python
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	tar --exclude=./build --exclude=./.git -cf - . | tar -xf - -C "$$copy" && \
	$(if $(OWN),$(OWN)/bin/python,$(PYTHON)) -m pip install "$$copy"
	$(if $(OWN),test -e /usr/local/bin/caps || ln -s $(OWN)/bin/caps /usr/local/bin)

# Scripts of every account run under it, so it is the system's Python where there is one.
/opt/caps/bin/python:
	$(call packages,$(PACKAGES),exit 1)
	$(firstword $(wildcard /usr/bin/python3) $(PYTHON)) -m venv /opt/caps

# $(call packages,NAMES,FAILURE): has them installed, where there is apt and root
packages = @if ! command -v apt-get >/dev/null; then \
	    echo "not a Debian: these are taken to be there: $(1)"; \
	elif ! dpkg -s $(1) >/dev/null 2>&1; then \
	    if [ "$$(id -u)" != 0 ]; then echo "missing: sudo apt-get install $(1)"; $(2); \
	    else apt-get update -qq && apt-get install -qq --no-install-recommends $(1); fi; \
	fi

build/packages: Makefile
	@mkdir -p build
	$(call packages,$(PACKAGES),exit 1)
	@touch $@

build/test-packages: Makefile
	@mkdir -p build
	$(call packages,$(TEST_PACKAGES),true)
	@touch $@

build/bench-packages: Makefile
	@mkdir -p build
	$(call packages,$(BENCH_PACKAGES),exit 1)
	@touch $@

build/audit-packages: Makefile
	@mkdir -p build
	$(call packages,$(AUDIT_PACKAGES),exit 1)
	@touch $@

# Of the system's Python, the only one that Debian builds libcap-ng's binding for.
build/bench-venv: build/bench-packages build/wheel
	/usr/bin/python3 -m venv --system-site-packages $@
	$@/bin/pip install --quiet "$$(ls build/wheel/*.whl)[bench]"
	$@/bin/pip install --quiet --force-reinstall --no-deps build/wheel/*.whl
	@touch $@

build/installed: build/packages $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv build/venv
	$(BIN)/pip install --quiet --editable '.[test,coverage,lint,doc,cli,dist]'
	@touch $@

build/wheel: build/installed $(SOURCES) $(MODULES)
	rm -rf $@ build/lib*  # where a module stays that is no more
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $@ .
	@touch $@

clean:  ## remove what was made here
	rm -rf build dist man *.egg-info caps/*.so caps/ppy caps/ppy-check
