# ext: the extension into src/modelfmt/.  san: the kernel tests over the same under sanitizers.  lint: everything that must be clean.
PYTHON ?= python3
BIN := $(dir $(shell command -v $(PYTHON)))
CMAKE ?= $(firstword $(wildcard $(BIN)cmake) cmake)
GENERATOR ?= $(if $(shell command -v ninja),Ninja,Unix Makefiles)
CONFIGURE = $(CMAKE) -S csrc -G "$(GENERATOR)" -DPython_EXECUTABLE=$(shell command -v $(PYTHON)) -DPython_FIND_STRATEGY=LOCATION
TAG := $(shell $(PYTHON) -c 'import platform, sys; print(f"{sys.implementation.cache_tag}-{platform.machine()}")')

SAN_TESTS := $(wildcard tests/test_kernels_*.py)

.PHONY: ext san lint

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
