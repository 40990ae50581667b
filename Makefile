# SPDX-License-Identifier: Apache-2.0
#
# Everything happens in .venv and build/: nothing else on the machine is changed. Needed: Python
# 3.11 or later, a C++20 compiler, make. CMake and Ninja come from pip.

PYTHON ?= python3
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# The directory of tools goes first in PATH, so that every CMake here is the one from pip.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export CMAKE_GENERATOR := Ninja

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
comma := ,
# scikit-build-core also puts the folder above the clone on the import path, where any folder that is
# called like a module would be taken for it. The redirecting import hook is all that is needed.
define install_editable
@$(PIP) --no-build-isolation --editable $(1)
@sed -i '/^import /!d' $(VENV)/lib/python3*/site-packages/_editable_skbc_enginery.pth
endef
CORE_SOURCES := CMakeLists.txt $(shell find runtime triton_backend/native -name '*.cc' -o -name '*.h')
CXX_FILES = $(shell find runtime tests examples triton_backend plugins \
              \( -name '*.cc' -o -name '*.h' -o -name '*.c' \) 2>/dev/null)
# A name that does not exist yet (benchmarks/, examples/) is left out.
PYTHON_FILES = typings/enginery $(wildcard tests benchmarks examples)

.PHONY: help demo install test test-cpp test-python lint format sanitize fuzz clean
.DEFAULT_GOAL := help
.NOTPARALLEL:  # pip and CMake run in parallel themselves; two pips in one environment must not

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(STAMPS)/serve $(STAMPS)/core  ## build the demo engine, serve it, stream a completion
	@$(BIN)/python examples/demo.py

install: $(STAMPS)/dev $(STAMPS)/serve $(STAMPS)/core  ## install for development (editable, all that tests need)

test: test-cpp test-python  ## run all C++ and Python tests that need no GPU

test-cpp: $(STAMPS)/tools
	@echo "==> building the C++ tests"
	@cmake -S . -B build/tests --log-level=WARNING -DENGINERY_BUILD_TESTS=ON -DENGINERY_BUILD_FUZZERS=ON
	@cmake --build build/tests -- --quiet
	@ctest --test-dir build/tests --output-on-failure

test-python: install
	@echo "==> running the Python tests"
	@$(BIN)/python -m pytest

lint: $(STAMPS)/dev  ## check style and types of Python and C++
	@echo "==> ruff"
	@ruff check .
	@ruff format --check .
	@echo "==> mypy"
	@mypy $(PYTHON_FILES)
	@echo "==> clang-format"
	@clang-format --dry-run -Werror $(CXX_FILES)

format: $(STAMPS)/dev  ## rewrite Python and C++ in the project's style
	@ruff check --fix --quiet . || true
	@ruff format --quiet .
	@clang-format -i $(CXX_FILES)

sanitize: $(STAMPS)/tools  ## run the C++ tests and the fuzz corpus under ASan and UBSan
	@echo "==> building the C++ tests with sanitizers"
	@cmake -S . -B build/sanitize --log-level=WARNING -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DENGINERY_BUILD_TESTS=ON -DENGINERY_BUILD_FUZZERS=ON -DENGINERY_SANITIZE=address,undefined
	@cmake --build build/sanitize -- --quiet
	@ctest --test-dir build/sanitize --output-on-failure

fuzz: sanitize  ## fuzz each target for FUZZ_SECONDS (60), under ASan and UBSan
	@for corpus in tests/cpp/fuzz/corpus/*/; do name=$$(basename $$corpus); echo "==> $$name"; \
	  build/sanitize/tests/cpp/$$name -max_total_time=$(FUZZ_SECONDS) -seed=$(FUZZ_SEED) $$corpus || exit 1; done

clean:  ## remove what was built (not .venv)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# ---- The virtual environment: one stamp per step, made again when what it depends on changes ----
$(STAMPS)/venv:
	@echo "==> making the virtual environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/tools: $(STAMPS)/venv
	@echo "==> installing the build tools"
	@$(PIP) 'cmake>=3.22' ninja 'scikit-build-core>=1.0'
	@touch $@

$(STAMPS)/serve: pyproject.toml | $(STAMPS)/tools
	@echo "==> installing enginery[serve] (builds the C++ core)"
	$(call install_editable,'.[serve]')
	@touch $@ $(STAMPS)/core

# torch goes first: what depends on it must find it there and not choose another.
$(STAMPS)/dev: pyproject.toml | $(STAMPS)/tools
	@echo "==> installing torch, the tests' reference"
	@$(PIP) torch==2.13.0 'numpy<2'
	@echo "==> installing enginery[dev,serve] (builds the C++ core)"
	$(call install_editable,'.[dev$(comma)serve]')
	@touch $@ $(STAMPS)/serve $(STAMPS)/core

# Python is used in place; the library is built again after a change in C++.
$(STAMPS)/core: $(CORE_SOURCES) | $(STAMPS)/tools
	@echo "==> building the C++ core"
	$(call install_editable,. --no-deps)
	@touch $@
