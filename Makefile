# Targets that people and CI share. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels

.DEFAULT_GOAL := help
.PHONY: help setup setup-vision setup-peers ticket test test-unit test-vision sanitize lint format docs results benchmarks benchmarks-inference api package clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ -/' | sort

setup: $(STAMP) $(KERNELS)  ## set up .venv with pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ticketry needs Python 3.11 or newer; this is %d.%d. Try: make setup PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) (torch is large: minutes) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,onnx,report,tags,docs,dev]'
	@# Of the path file keep the path, not the import hook before it: PYTHONPATH may name another checkout.
	@sed -i.hook '/^import /d' "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/_editable_*ticketry.pth
	@touch $@

$(KERNELS): $(STAMP) $(wildcard native/*)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh native/install.sh "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
	@touch $@

# torchvision, and timm through it, work with the very build of torch that they were made for. So
# image models have an environment of their own, with the registry's plain builds of both.
VISION := .venv-vision

setup-vision: $(VISION)/.installed  ## set up .venv-vision: image models (timm, torchvision; 6 GB)

$(VISION)/.installed: pyproject.toml constraints.txt constraints-vision.txt
	$(PYTHON) -m venv $(VISION)
	@echo "Installing timm, torchvision and their torch into $(VISION) (6 GB: minutes) ..."
	$(VISION)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --constraint constraints-vision.txt \
	  'torch===2.13.0' scikit-image --editable '.[data,report,vision,dev]'
	@sed -i.hook '/^import /d' "$$($(VISION)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/_editable_*ticketry.pth
	@touch $@

# Runtimes that `make benchmarks-inference` compares with. DeepSparse, which is at its end of life,
# wants old numpy and onnx: an environment of its own, and the benchmark does without if need be.
PEERS := .venv-peers
DEEPSPARSE := .venv-deepsparse

setup-peers: $(PEERS)/.installed $(DEEPSPARSE)/.installed  ## set up other runtimes to compare with (ONNX Runtime, DeepSparse)

$(PEERS)/.installed: constraints.txt constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --constraint constraints-peers.txt torch transformers onnx onnxruntime
	@touch $@

$(DEEPSPARSE)/.installed: constraints-deepsparse.txt
	$(PYTHON) -m venv $(DEEPSPARSE)
	-$(DEEPSPARSE)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints-deepsparse.txt deepsparse
	@touch $@

ticket: setup  ## find and verify a ticket at 40% sparsity in MiniLM on movie reviews (10 minutes)
	$(BIN)/ticketry find --model minilm --task movies --sparsity 0.4 --method imp --levels 2 \
	  --replicates 3 --controls random-layerwise --recipe embedded \
	  --train-samples 2000 --epochs 2 --out runs/movies-40

# In the order of the folders: reordered by their counts, the files of one long test come last, and
# the other process waits for minutes.
test: setup  ## run every test but those of image models from timm
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --ignore tests/vision tests

test-vision: setup-vision  ## run the tests of image models
	$(VISION)/bin/python -m pytest -n 2 --dist loadscope tests/vision

test-unit: setup  ## run the unit tests (under a minute)
	$(BIN)/python -m pytest -n 2 --dist loadscope tests/unit

sanitize: setup  ## run the sparse kernels under address and undefined-behaviour sanitizers
	$(BIN)/python -m pytest tests/e2e/test_sanitizers.py

lint: setup  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --strict src/ticketry/core src/ticketry/errors.py src/ticketry/config.py src/ticketry/recipes.py \
	  src/ticketry/combination.py src/ticketry/searchspec.py src/ticketry/controls.py \
	  src/ticketry/records.py src/ticketry/verdict

format: setup  ## rewrite to the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## build the documentation into build/docs; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

results: setup  ## write docs/results.md from the records under results/
	$(BIN)/python -m ticketry.studies.book results docs/results.md

benchmarks: setup  ## run the benchmarks: ratios to named peers
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/cpu_step.py
	$(BIN)/python benchmarks/imp_end_to_end.py
	$(BIN)/python benchmarks/profile_run.py --operators

benchmarks-inference: setup setup-peers  ## whole models on a CPU, sparse against other runtimes (minutes)
	$(BIN)/python benchmarks/inference.py

api: setup  ## note the public names and signatures after a wanted change
	$(BIN)/python tests/unit/test_public_api.py
	git diff --stat tests/unit/public_api.txt

package: setup  ## build wheel and sdist into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## remove the environment and runs
	rm -rf $(VENV) runs
