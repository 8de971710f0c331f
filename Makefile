# `make` lists the targets; `make demo` and `make test` set up everything they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO := artifacts/demo
CODE := $(wildcard $(foreach depth,* */* */*/*,edgevit/$(depth).py converters/$(depth).py))
# The address of a package index that has another build of torch, such as one without CUDA; none: PyPI's own build.
TORCH_INDEX ?=
SIZES := on Linux x86-64 2.9 GB to download and 5.7 GB on disk; about 2 GB with a CPU build of torch by TORCH_INDEX=URL
INSTALL := -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt
PIP := $(BIN)/python $(INSTALL)
SMOKE_PIP := .venv-smoke/bin/python $(INSTALL) --quiet
READY := .venv/ready
WORKERS ?= 2
# A file's tests share their fixtures, so they stay in one process; more threads than cores would only wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder
PEERS := .venv-peers/ready

.PHONY: help setup demo test test-fast lint docs wheel smoke goldens matrix sizes peers compare-runtimes compare-runtimes-int8 coreml int8 compressed server cost conformance demo-result clean
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv/ with every runtime and converter (5.7 GB, or about 2 GB by TORCH_INDEX=URL; see README)

$(READY): pyproject.toml constraints.txt
	@echo "== installing into .venv, some minutes the first time ($(SIZES))"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + "; install it or run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
# From that index torch alone, without what it requires: all else is of the default index, in the pinned versions.
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url '$(TORCH_INDEX)' torch)
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(DEMO)/report.html  ## train, quantize, convert, verify, profile and report on scanned digits
	@echo "== open $(DEMO)/report.html; the same as data: $(DEMO)/report.json"

$(DEMO)/van_b0.pt: $(READY) edgevit/models/van.py edgevit/models/layers.py edgevit/training/recipe.py
	$(BIN)/edgevit train van_b0 --data digits --recipe digits --input-size 32 --out $@

$(DEMO)/van_b0-int8.pt: $(DEMO)/van_b0.pt $(wildcard edgevit/quantization/*.py)
	$(BIN)/edgevit qat van_b0 --weights $< --data digits --epochs 1 --out $@

$(DEMO)/converted: $(DEMO)/van_b0.pt $(DEMO)/van_b0-int8.pt $(CODE)
	$(BIN)/edgevit convert van_b0 --weights $< --target all --out $(DEMO)
	$(BIN)/edgevit convert van_b0 --weights $< --target coreml --target tflite --precision fp16 --out $(DEMO)
	$(BIN)/edgevit convert van_b0 --weights $(DEMO)/van_b0-int8.pt --target all --precision int8 --out $(DEMO)
	@touch $@

$(DEMO)/measured: $(DEMO)/converted
	$(BIN)/edgevit evaluate $(DEMO)/van_b0-fp*-* --weights $(DEMO)/van_b0.pt --data digits
	$(BIN)/edgevit evaluate $(DEMO)/van_b0-int8-* --weights $(DEMO)/van_b0-int8.pt --data digits
	$(BIN)/edgevit profile $(DEMO)/van_b0-fp32-executorch $(DEMO)/van_b0-int8-executorch $(DEMO)/van_b0-*-tflite
	$(BIN)/edgevit profile $(DEMO)/van_b0-fp32-executorch $(DEMO)/van_b0-fp32-tflite --compare --rounds 6
	@touch $@

$(DEMO)/report.html: $(DEMO)/measured
	$(BIN)/edgevit report $(DEMO)

test: $(READY)  ## all tests, in WORKERS=2 processes
	$(PYTEST)

test-fast: $(READY)  ## tests without the full-size models
	$(PYTEST) -m "not slow"

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## docs/_build/html/: the documents as pages; a warning is an error, nothing is fetched
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html

wheel: $(READY)  ## dist/ with the wheel
	rm -rf build dist/edgevit-*.whl  # setuptools would pack what an older build left
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

smoke: wheel  ## the wheel with [tflite] in an empty environment: list, info, doctor, convert, verify, predict
	rm -rf .venv-smoke
	$(PYTHON) -m venv .venv-smoke
	$(if $(TORCH_INDEX),$(SMOKE_PIP) --no-deps --index-url '$(TORCH_INDEX)' torch)
	$(SMOKE_PIP) "$$(ls dist/edgevit-*.whl)[tflite]"
	.venv-smoke/bin/python tests/smoke.py
	rm -rf .venv-smoke

goldens: $(READY)  ## rewrite the golden vectors; review the diff
	$(BIN)/python -m tests.contract.make_preprocess_goldens
	$(BIN)/python -m tests.contract.make_documents

matrix: $(READY)  ## measure the conversion matrices at full size (about two hours)
	$(BIN)/python -m benchmarks.conversion_matrix benchmarks/conversion.toml
	$(BIN)/python -m benchmarks.conversion_matrix benchmarks/server-conversion.toml
	$(BIN)/python -m benchmarks.tables

sizes: $(READY)  ## parity of two models at all sizes from 64 to 384 (about half an hour)
	$(BIN)/python -m benchmarks.conversion_matrix benchmarks/sizes.toml
	$(BIN)/python -m benchmarks.tables

peers: $(PEERS)  ## .venv-peers/ with the converters and runtimes to compare with (about 5 GB)

$(PEERS): benchmarks/peers.txt benchmarks/peers-constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check --progress-bar off --constraint benchmarks/peers-constraints.txt --requirement benchmarks/peers.txt
	@touch $@

compare-runtimes: $(READY) $(PEERS)  ## time our artifacts against baseline conversions (on a quiet machine, about 25 minutes, the first time 45)
	$(BIN)/python -m benchmarks.compare_runtimes; status=$$?; $(BIN)/python -m benchmarks.tables && $(BIN)/python -m benchmarks.plots && exit $$status

compare-runtimes-int8: $(READY) $(PEERS)  ## time our int8 artifacts against float ones, baselines and our own (about 15 minutes)
	$(BIN)/python -m benchmarks.compare_runtimes benchmarks/compare-runtimes-int8.toml; status=$$?; $(BIN)/python -m benchmarks.tables && exit $$status

coreml: $(READY)  ## what Core ML's options cost (about ten minutes)
	$(BIN)/python -m benchmarks.conversion_matrix benchmarks/coreml-weights.toml
	$(BIN)/python -m benchmarks.tables

int8: $(READY)  ## train, quantize, convert and score five models in int8 (about two hours)
	$(BIN)/python -m benchmarks.int8
	$(BIN)/python -m benchmarks.overlays artifacts/int8/segnetr_32-int8-executorch artifacts/int8/segnetr_32-int8-coreml artifacts/int8/unet-int8-tflite
	$(BIN)/python -m benchmarks.tables

compressed: $(READY)  ## convert and score three models in every compressed form, pruned ones too
	$(BIN)/python -m benchmarks.compressed
	$(BIN)/python -m benchmarks.tables

server: $(READY)  ## images per second of the server targets against eager and compiled PyTorch (about 20 minutes)
	$(BIN)/python -m benchmarks.server
	$(BIN)/python -m benchmarks.tables

cost: $(READY)  ## seconds and memory of converting VAN-B0 to B6 (about 20 minutes)
	$(BIN)/python -m benchmarks.conversion_cost
	$(BIN)/python -m benchmarks.tables

conformance: $(READY)  ## coremltools' own op tests on the interpreter (about 10 minutes)
	$(BIN)/python -m benchmarks.coreml_conformance

demo-result: $(DEMO)/report.html  ## keep the demo's numbers for README
	cp $(DEMO)/report.json benchmarks/results/demo.json
	$(BIN)/python -m benchmarks.tables

clean:  ## remove artifacts and the environments
	rm -rf artifacts build dist .venv .venv-peers .venv-smoke
