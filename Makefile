# make demo    set up .venv and go the whole way on synthetic faces, with nothing to download: minutes on two cores
# make test    set up .venv and run every test
# make crash-test  kill a build 200 times, wherever it is, and see that nothing is lost
# make check   the same, and lint, types and import contracts: what CI runs
# make docs    set up .venv and make these documents a site, build/site/index.html
PYTHON ?= python3
BIN := .venv/bin
# that run tests: each needs a core or more, and up to 6 GB
PROCESSES ?= 2

DEMO ?= demo
DEMO_IMAGES ?= 1200
OCCLUDED := erase-10,erase-20,erase-30,sunglasses,mask,hand,half-face,cap,second-face

.PHONY: demo test crash-test check lint types contracts docs clean

# The README's commands. What is already there is used again; interrupted, the build and the training go on.
demo: .venv/installed
	$(BIN)/orsanet-cache demo-faces --out $(DEMO)/faces --images $(DEMO_IMAGES)
	$(BIN)/orsanet-cache build $(DEMO)/faces/faces.toml --out $(DEMO)/store.zarr --segmenter demo --landmarks demo
	$(BIN)/orsanet-cache build $(DEMO)/faces/faces.toml --out $(DEMO)/store.zarr --segmenter demo --landmarks demo --views $(OCCLUDED) --splits test
	$(BIN)/orsanet-cache show $(DEMO)/store.zarr --split test -n 12 --out $(DEMO)/priors.png
	$(BIN)/orsanet-train run --store $(DEMO)/store.zarr --manifest $(DEMO)/faces/faces.toml --preset small --out $(DEMO)/run $(if $(wildcard $(DEMO)/run/run.json),--resume)
	$(BIN)/orsanet-train evaluate $(DEMO)/run --store $(DEMO)/store.zarr --manifest $(DEMO)/faces/faces.toml
	$(BIN)/orsanet-train report $(DEMO)/run
	@echo
	@echo "Look at:"
	@echo "  $(DEMO)/priors.png                                what the frozen networks say: landmarks and parts, in every view"
	@echo "  $(DEMO)/run/train_batch0.png                      pictures of a training batch with their labels"
	@echo "  $(DEMO)/run/curves.png                            loss and accuracy per epoch"
	@echo "  $(DEMO)/run/report-best/report.html               the report: open it in a browser"
	@echo "  $(DEMO)/run/evaluation-best/evaluation.json       every number of the table above"

# Small networks wait for their threads all the time; threads that sleep meanwhile leave the cores to the processes that tests start.
test: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile

crash-test: .venv/installed
	ORSANET_KILLS=200 $(BIN)/python -m pytest tests/cache/test_crash.py

check: lint types contracts test

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --write-all --builder html docs build/site
	@echo "Look at build/site/index.html"

# The marker is newer than pyproject.toml once everything in it is installed.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
