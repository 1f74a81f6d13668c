# `make demo` shows the whole chain, `make test` runs the tests, `make test-all` also the slow ones, `make sbom` lists what a
# device installs.
# Needed: Python 3.10 to 3.13 with pip and venv. Another interpreter: `make demo PYTHON=python3.12`.
# Linux without a GPU: the default index serves torch with CUDA; docs/reference/dependencies.md names the smaller CPU wheel.

PYTHON ?= python3
VENV ?= .venv
WHEELHOUSE := build/wheelhouse
OPTIMUM := build/wheelhouse-optimum-0.1
TRITON := build/triton
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt

PYTEST := $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all sbom
.DELETE_ON_ERROR:

help:
	@echo "make demo      build a bundle from the committed checkpoint and answer on two images (build/demo/)"
	@echo "make test      run the tests, without those marked slow"
	@echo "make test-all  run every test, the TensorRT-RTX compiler included"
	@echo "make sbom      write what a device installs: build/sbom/mimo-edge.cdx.json (CycloneDX) and THIRD_PARTY_NOTICES.txt"

demo: $(VENV)/.demo
	$(VENV)/bin/python -m mimo_export.demo

test: $(VENV)/.test $(WHEELHOUSE)/.filled
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.test $(WHEELHOUSE)/.filled $(OPTIMUM)/.filled $(TRITON)/.filled
	$(PYTEST)

# What EXTRAS bring, installed into a fresh environment. The tool that lists it has an environment of its own.
EXTRAS ?= cpu,dicom
SBOM := build/sbom

sbom: $(VENV)/.made
	@rm -rf $(SBOM) build/lib  # setuptools would take modules that an earlier build left there
	$(VENV)/bin/python -m venv $(SBOM)/device
	$(SBOM)/device/bin/python -m pip install --disable-pip-version-check -c constraints.txt '.[$(EXTRAS)]'
	@rm -rf build/lib
	$(VENV)/bin/python -m venv $(SBOM)/tool
	$(SBOM)/tool/bin/python -m pip install --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	cd $(SBOM) && tool/bin/cyclonedx-py environment --output-reproducible --of JSON -o mimo-edge.cdx.json device/bin/python
	$(SBOM)/device/bin/python docs/generate_notices.py > $(SBOM)/THIRD_PARTY_NOTICES.txt

# -- what they stand on -------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no '$(PYTHON)' here. Install Python 3.10 to 3.13 or name one: make PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit((3, 10) > v[:2] or v[:2] > (3, 13))' || { \
	  echo "error: '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1), mimo-edge needs Python 3.10 to 3.13. Name one: make PYTHON=python3.12" >&2; exit 2; }
	"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

# Stamps, so that a second `make` starts at once and a changed dependency is installed.
$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[export,cpu,dicom]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[train,export,cpu,openvino,dicom,bench,clinical,video,server,viewers,pacs,batch,ray,tensorrt-rtx,polygraphy,sign,dev]'
	@touch $@

# The wheels of a device without torch, so that tests/test_install.py installs one without a network.
DEVICE_REQUIREMENTS := from importlib.metadata import requires; from packaging.requirements import Requirement; \
  print(*(f"{r.name}{r.specifier}" for r in map(Requirement, requires("mimo-edge")) \
          if not r.marker or r.marker.evaluate({"extra": "cpu"})))

$(WHEELHOUSE)/.filled: $(VENV)/.test
	@rm -rf $(WHEELHOUSE)
	$(VENV)/bin/python -m pip download --disable-pip-version-check --only-binary :all: -c constraints.txt -d $(WHEELHOUSE) \
	  $$($(VENV)/bin/python -c '$(DEVICE_REQUIREMENTS)')
	@touch $@

# The wheels of optimum-onnx 0.1 and transformers 4.57 for tests/train/test_hf.py and
# tests/export/tools/test_optimum_installed.py, likewise.
$(OPTIMUM)/.filled: $(VENV)/.test tests/export/optimum-0.1.txt tests/train/transformers-4.57.txt
	@rm -rf $(OPTIMUM)
	$(VENV)/bin/python -m pip download --disable-pip-version-check --only-binary :all: --no-deps -d $(OPTIMUM) \
	  -r tests/export/optimum-0.1.txt
	@touch $@

# A Triton server with its Python backend, the client, and a numpy that fits this server, for tests/export/triton. There are
# wheels for Linux on x86-64 only; elsewhere the tests skip.
$(TRITON)/.filled: $(VENV)/.test tests/export/triton/server.txt
	@rm -rf $(TRITON)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: --no-deps --target $(TRITON) \
	  -r tests/export/triton/server.txt || echo "not installed: tritonserver" >&2
	@mkdir -p $(TRITON) && touch $@
