# make demo    set up .venv and go the whole way on synthetic faces, with nothing to download: minutes on two cores
# make test    set up .venv and run every test
# make quick   set up .venv and run the tests that start no process, train nothing, open no browser and are not among the longest
# make gpu-check  test and measure everything on a CUDA device, in eight minutes, with the installed packages; results in gpu-check/
# make crash-test  kill a build 200 times, wherever it is, and see that nothing is lost
# make check   the same, and lint, types and import contracts: what CI runs
# make checks  lint, types and import contracts alone, in .venv-checks, which needs no torch: what CI runs first
# make docs    set up .venv and make these documents a site, build/site/index.html
#
# .venv has exactly the versions of requirements.lock; on Linux without an NVIDIA driver, torch and torchvision are those versions'
# build without CUDA, if the package index in use offers it (docs/install.md). Other versions are tried in environments that are made anew each time:
# make lock    renew requirements.lock within the ranges of pyproject.toml; with UPGRADE= change only what no longer fits
# make newest  run every test with the newest versions that pyproject.toml allows; lists the warnings of the dependencies
# make lowest  run every test with the lowest versions that pyproject.toml allows (PYTHON=python3.11: the bounds are tried there)
PYTHON ?= python3
BIN := .venv/bin
# that run tests: each needs a core or more, and up to 6 GB
PROCESSES ?= 2
UPGRADE ?= --upgrade
# auto: see above. locked: the files of requirements.lock in any case.
TORCH ?= auto
WITHOUT_CUDA = [ "$(TORCH)" = auto ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null && [ ! -e /proc/driver/nvidia ]
# A version with "+cpu" cannot be on PyPI, which refuses such versions: it comes from an index that the user has chosen.
CPU_TORCH = $$(awk -F '[= ]+' '/^(torch|torchvision)==/ { print $$1 "==" $$2 "+cpu" }' requirements.lock)
# "==2.14.1" is answered by 2.14.1+cpu too, which is not the file of the hashes; "===" is not.
EXACTLY_TORCH = sed -E 's/^(torch|torchvision)==/&=/' requirements.lock
# The lock but for torch and what only its CUDA build needs.
BUT_TORCH = awk '/^[a-z]/ { skip = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !skip' requirements.lock

DEMO ?= demo
DEMO_IMAGES ?= 1200
OCCLUDED := erase-30,sunglasses,mask

# Tests write and delete a hundred thousand small files: in memory, where that has room (in a container it may have 64 MB), twice as fast.
SCRATCH ?= $(shell [ $$(df -Pk /dev/shm 2>/dev/null | awk 'END {print $$4 + 0}') -gt 8000000 ] && echo /dev/shm)

# Small networks wait for their threads all the time; threads that sleep meanwhile leave the cores to the processes that tests start.
# These processes find our bytecode written, also where the environment says that none is. glibc keeps the memory that torch frees:
# to get it again, page by page, takes a twentieth of the tests' time.
TESTS = OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 $(if $(SCRATCH),TMPDIR=$(SCRATCH)) $(1)/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick gpu-check crash-test check checks lint types contracts docs lock lock-check newest lowest clean

# The README's commands. What is already there is used again; interrupted, the build and the training go on.
demo: .venv/installed
	$(BIN)/orsanet-cache demo-faces --out $(DEMO)/faces --images $(DEMO_IMAGES)
	$(BIN)/orsanet-cache build $(DEMO)/faces/faces.toml --out $(DEMO)/store.zarr --segmenter demo --landmarks demo --splits train,valid
	$(BIN)/orsanet-cache build $(DEMO)/faces/faces.toml --out $(DEMO)/store.zarr --segmenter demo --landmarks demo --splits test --views clean,$(OCCLUDED)
	$(BIN)/orsanet-cache show $(DEMO)/store.zarr --split test -n 12 --out $(DEMO)/priors.png
	$(BIN)/orsanet-train run --store $(DEMO)/store.zarr --manifest $(DEMO)/faces/faces.toml --preset demo --out $(DEMO)/run $(if $(wildcard $(DEMO)/run/run.json),--resume)
	$(BIN)/orsanet-train evaluate $(DEMO)/run --store $(DEMO)/store.zarr --manifest $(DEMO)/faces/faces.toml
	$(BIN)/orsanet-train report $(DEMO)/run
	@echo
	@echo "Look at:"
	@echo "  $(DEMO)/priors.png                                what the frozen networks say: landmarks and parts, in every view"
	@echo "  $(DEMO)/run/train_batch0.png                      pictures of a training batch with their labels"
	@echo "  $(DEMO)/run/curves.png                            loss and accuracy per epoch"
	@echo "  $(DEMO)/run/report-best/report.html               the report: open it in a browser"
	@echo "  $(DEMO)/run/evaluation-best/evaluation.json       every number of the table above"

test: .venv/installed
	$(call TESTS,.venv)

quick: .venv/installed
	$(call TESTS,.venv) -m "not slow"

# With the packages of .venv, where there is one, else with those of $(PYTHON): nothing is installed. ARGUMENTS="--minutes 4 --out DIR"
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m orsanet_train.bench.gpu_check $(ARGUMENTS)

crash-test: .venv/installed
	ORSANET_KILLS=200 $(BIN)/python -m pytest tests/cache/test_crash.py

check: lint types contracts test

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy
	$(BIN)/mypy tests/consumer.py

contracts: .venv/installed
	$(BIN)/lint-imports

# Without torch's types mypy takes its classes for Any; `make types` has them.
checks: .venv-checks/installed
	.venv-checks/bin/ruff check .
	.venv-checks/bin/ruff format --check .
	.venv-checks/bin/lint-imports
	.venv-checks/bin/python -m pytest --quiet --noconftest -m "not locked" tests/test_lock.py
	.venv-checks/bin/mypy --ignore-missing-imports --allow-subclassing-any --no-warn-unused-ignores

.venv-checks/installed: requirements.lock
	$(PYTHON) -m venv --clear .venv-checks
	$(BUT_TORCH) > .venv-checks/requirements.txt
	.venv-checks/bin/python -m pip install --quiet --no-deps --require-hashes --requirement .venv-checks/requirements.txt
	touch $@

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --write-all --builder html docs build/site
	@echo "Look at build/site/index.html"

# The marker is newer than both files once the environment is whole.
.venv/installed: .venv/dependencies pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/dependencies: requirements.lock
	$(PYTHON) -m venv --clear .venv
	@if $(WITHOUT_CUDA) && $(BIN)/python -m pip install --quiet --no-deps --only-binary :all: $(CPU_TORCH) 2> /dev/null; then \
		echo "Installing the locked versions into .venv, PyTorch without CUDA: it is of the package index in use, and not checked by a hash of the lock."; \
		$(BUT_TORCH) > .venv/requirements.txt; \
	else \
		echo "Installing the locked versions into .venv: several GB, nearly all of it PyTorch; this takes minutes."; \
		$(EXACTLY_TORCH) > .venv/requirements.txt; \
	fi
	$(BIN)/python -m pip install --quiet --require-hashes --requirement .venv/requirements.txt
	touch $@

lock: .venv/installed
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --extra dev --group lock pyproject.toml --output-file requirements.lock

# Without tests/conftest.py, which imports torch: seconds.
lock-check: .venv/installed
	$(BIN)/python -m pytest --quiet --noconftest tests/test_lock.py

newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --editable '.[dev]'
	$(call TESTS,.venv-newest) -m "not locked" --list-warnings

# Of our own requirements the lowest; of theirs the newest that go with them.
lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip compile --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--extra dev pyproject.toml --output-file .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --requirement .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable .
	$(call TESTS,.venv-lowest) -m "not locked" --list-warnings

clean:
	rm -rf .venv .venv-checks .venv-newest .venv-lowest
