# make demo    set up .venv and go the whole way on synthetic faces, with nothing to download: minutes on two cores
# make test    set up .venv and run every test
# make quick   set up .venv and run the tests that start no process, train nothing, open no browser and are not among the longest
# make gpu-check  test and measure everything on a CUDA device, in eight minutes, with the installed packages; results in gpu-check/
# make crash-test  kill a build 200 times, wherever it is, and see that nothing is lost
# make check   the same, and lint, types and import contracts: what CI runs
# make docs    set up .venv and make these documents a site, build/site/index.html
#
# .venv has exactly the versions of requirements.lock. Other versions are tried in environments that are made anew each time:
# make lock    renew requirements.lock within the ranges of pyproject.toml; with UPGRADE= change only what no longer fits
# make newest  run every test with the newest versions that pyproject.toml allows; lists the warnings of the dependencies
# make lowest  run every test with the lowest versions that pyproject.toml allows (PYTHON=python3.11: the bounds are tried there)
PYTHON ?= python3
BIN := .venv/bin
# that run tests: each needs a core or more, and up to 6 GB
PROCESSES ?= 2
UPGRADE ?= --upgrade

DEMO ?= demo
DEMO_IMAGES ?= 1200
OCCLUDED := erase-30,sunglasses,mask

# Tests write and delete a hundred thousand small files: in memory, where that has room (in a container it may have 64 MB), twice as fast.
SCRATCH ?= $(shell [ $$(df -Pk /dev/shm 2>/dev/null | awk 'END {print $$4 + 0}') -gt 8000000 ] && echo /dev/shm)

# Small networks wait for their threads all the time; threads that sleep meanwhile leave the cores to the processes that tests start.
# These processes find our bytecode written, also where the environment says that none is.
TESTS = OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE= $(if $(SCRATCH),TMPDIR=$(SCRATCH)) $(1)/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick gpu-check crash-test check lint types contracts docs lock lock-check newest lowest clean

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

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --write-all --builder html docs build/site
	@echo "Look at build/site/index.html"

# The marker is newer than both files once exactly the locked versions are installed.
.venv/installed: requirements.lock pyproject.toml
	@echo "Installing the locked versions into .venv: several GB, nearly all of it PyTorch; this takes minutes."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
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
	rm -rf .venv .venv-newest .venv-lowest
