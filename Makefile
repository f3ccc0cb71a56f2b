# `make demo` and `make test` do all their own set-up; they need Python 3.11 and make, nothing else.
# A smaller torch without CUDA, on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

# The first of some programs that runs: a pyenv shim is there whether or not its version is chosen.
runs = $(firstword $(foreach p,$(1),$(shell $(p) -c "" 2>/dev/null && echo $(p))))
PYTHON := $(call runs,$(or $(PYTHON),python3.11 python3))
# Blender 5.2 runs on Python 3.13.
PYTHON313 := $(call runs,$(or $(PYTHON313),python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3.13)))

PICTURE ?= examples/house.png
MESHES ?= data/meshes
GOLDENS ?= $(wildcard ../shared/reference/goldens)
PLATFORM ?= $(shell $(PYTHON) -c "import platform as p; \
	print({'Linux': 'linux', 'Darwin': 'macos', 'Windows': 'windows'}[p.system()], \
	'arm64' if p.machine() in ('arm64', 'aarch64') else 'x64', sep='-')")

BIN := .venv/bin
INSTALLED := .venv/.installed
OLDER_BLENDERS := 4.2.23 4.5.15

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help demo test check unit parity test-blender test-blender-5.2 addon bench train evaluate examples clean
.DELETE_ON_ERROR:
.SECONDARY:

help:  ## show this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '  make %-14s %s\n' "$$target" "$$text"; done

# ------------------------------------------------------------------------------------------------------ environments

# torch goes first: left to itself, pip would take the newest release that the dependencies' ranges allow.
$(INSTALLED): pyproject.toml constraints.txt
	$(or $(PYTHON),$(error Python 3.11 is needed; say where it is: make PYTHON=PATH)) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

# One environment per Blender, without torch: the add-on is tested as an artist has it. $* is bpy's version.
.venv-bpy-%/ready:
	$(PYTHON) -m venv .venv-bpy-$*
	.venv-bpy-$*/bin/python -m pip install -q "bpy==$*" "numpy<2"
	touch $@

.venv-bpy-5.2.3/ready:
	$(PYTHON313) -m venv .venv-bpy-5.2.3
	.venv-bpy-5.2.3/bin/python -m pip install -q "bpy==5.2.3" "numpy>=2.2"
	touch $@

# -------------------------------------------------------------------------------------------------------------- use

demo: $(INSTALLED)  ## picture to mesh on a shipped example: out/demo.glb and out/demo.png
	@mkdir -p out
	@rm -rf out/views
	$(BIN)/turnaround generate $(PICTURE) -o out/demo.glb --views-out out/views --report out/demo.json
	$(BIN)/python -m backend.evaluation.sheet $(PICTURE) out/demo.glb out/views -o out/demo.png
	@echo "Look at out/demo.png; open out/demo.glb in any 3D program."

addon: $(INSTALLED) .venv-bpy-5.0.1/ready  ## the add-on's installable zip for this machine, in dist/
	$(BIN)/python build_addon.py --platform $(PLATFORM)

train: $(INSTALLED)  ## train a network on a folder of meshes: make train NAME=sparseneus MESHES=... MINUTES=60
	$(BIN)/turnaround train $(or $(NAME),sparseneus) --meshes $(MESHES) --minutes $(or $(MINUTES),60)

evaluate: $(INSTALLED)  ## measure the shipped pipeline on the val meshes of a folder: make evaluate MESHES=...
	$(BIN)/turnaround evaluate --meshes $(MESHES)

bench: $(INSTALLED) .venv-bpy-5.0.1/ready  ## how fast it is on this machine, in Blender too
	$(BIN)/turnaround bench
	$(BIN)/python tests/end_to_end/bench.py

examples: .venv-bpy-5.0.1/ready  ## render the example pictures again
	.venv-bpy-5.0.1/bin/python examples/make_examples.py

# ------------------------------------------------------------------------------------------------------------- tests

test: check unit test-blender-5.0.1  ## all checks and tests, with Blender 5.0 as a Python module

check: $(INSTALLED)  ## format, lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: $(INSTALLED)  ## the tests that need no Blender
	$(BIN)/python -m pytest -m "not blender"

# GOLDENS holds all of them, and is taken from beside this folder where it lies there. Without it, what of them lies in
# tests/data; `make unit` does that too.
parity: $(INSTALLED)  ## compare with the published code's numbers: make parity GOLDENS=FOLDER
	GOLDENS="$(GOLDENS)" $(BIN)/python -m pytest tests/parity -rs

# The built zip is installed into a real bpy; the backend runs in its own process.
test-blender-%: $(INSTALLED) .venv-bpy-%/ready
	TURNAROUND_BPY_PYTHON=$(CURDIR)/.venv-bpy-$*/bin/python $(BIN)/python -m pytest -m blender

test-blender: $(OLDER_BLENDERS:%=test-blender-%) test-blender-5.2  ## the same in Blender 4.2, 4.5 and 5.2

ifeq ($(PYTHON313),)
test-blender-5.2:
	@echo "Skipped Blender 5.2: it needs Python 3.13. Install it, or say where it is: make test-blender PYTHON313=PATH"
else
test-blender-5.2: test-blender-5.2.3
endif

clean:  ## remove what was made; the environments stay
	rm -rf out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
