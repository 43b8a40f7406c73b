# The commands of the README; CI runs the same ones. `make setup` is quick when nothing changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup system demo test check bench wheel lock typing clean

export EVERVIEW_DATA ?= ../shared/data
WORKERS ?= 2
PY := .venv/bin/python
LOCKS := requirements.lock requirements-from-source.lock
LOCK_INPUTS := $(LOCKS) pyproject.toml setup.py

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## */  make \1\t/' | expand -t 18

setup: system  ## create .venv with bin/everview from requirements.lock (uv if present, else pip)
	@stamp=$$(cat $(LOCK_INPUTS) | sha256sum | cut -d' ' -f1) # everything the environment is made from
	if [ "$$(cat .venv/made-from 2>/dev/null)" = "$$stamp" ] && [ -x .venv/bin/everview ]; then exit 0; fi
	usable='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'
	if ! $(PY) -c "$$usable" 2>/dev/null; then
	  rm -rf .venv
	  for candidate in $(PYTHON) python3.11 python3.12 python3 python; do
	    if "$$candidate" -c "$$usable" 2>/dev/null; then python=$$candidate; break; fi
	  done
	  if [ -n "$${python:-}" ]; then "$$python" -m venv $$(uv --version >/dev/null 2>&1 && echo --without-pip) .venv
	  elif uv --version >/dev/null 2>&1; then uv venv --python 3.11 .venv
	  else echo "setup: Python 3.11 or 3.12 is needed and none was found; install one or pass PYTHON=/path/to/python" >&2; exit 4
	  fi
	fi
	if uv --version >/dev/null 2>&1; then install="uv pip install --quiet --compile-bytecode --python $(PY)"
	else $(PY) -m ensurepip >/dev/null; install="$(PY) -m pip install --quiet --disable-pip-version-check"
	fi
	echo "setup: installing the locked packages with $${install%% *} (about 3 GB to fetch the first time)"
	$$install --require-hashes -r requirements.lock
	# No wheel of it exists and its setup.py imports torch; its operators compile at first use.
	DS_BUILD_OPS=0 $$install --require-hashes --no-deps --no-build-isolation -r requirements-from-source.lock
	$$install --no-deps --no-build-isolation --editable .
	echo "$$stamp" > .venv/made-from
	echo "setup: .venv/bin/everview is ready"

system:
	@missing=()
	{ ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep 'libusb-1\.0\.so' >/dev/null || missing+=(libusb-1.0-0)
	[ -n "$$(type -P chromium chromium-browser google-chrome)" ] || missing+=(chromium fonts-dejavu-core)
	[ "$${#missing[@]}" -gt 0 ] || exit 0
	root=$$([ "$$(id -u)" = 0 ] || echo sudo)
	if [ "$(SYSTEM)" = 1 ] || [ "$(CI)" = true ]; then
	  $$root apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	else
	  echo "setup: system packages are missing (Open3D needs libusb, the browser tests Chromium); run: sudo apt-get install -y --no-install-recommends $${missing[*]}"
	fi

demo: setup  ## stream a procedural capture, render new views, leave a report (two minutes, offline)
	@.venv/bin/everview demo --out runs/demo --fresh

test: setup  ## run the test suite; ends with what it skipped and why
	@export OMP_NUM_THREADS=1 # a worker a core: more threads only get in each other's way
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not ray" $(ARGS)
	# a Ray wants the machine to itself; other files take long to import; 5: none was asked for
	$(PY) -m pytest -m "ray and not long" $(or $(ARGS),$$(grep -rl --include='*.py' 'mark\.ray' tests)) || [ $$? = 5 ]

check: setup typing  ## format, lint, types, import rules: what CI runs before the tests
	@.venv/bin/ruff format --check --quiet . || { .venv/bin/ruff format --check .; exit 1; }
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(PY) -m pytest -q -p no:cacheprovider tests/packaging/test_import_rules.py tests/packaging/test_banned.py

typing:
	@mkdir -p .typing/everview
	for room in kernels models datasets pipeline workflows; do ln -sfn "../../$$room" ".typing/everview/$$room"; done

bench: setup  ## time this machine against the published formulation
	@.venv/bin/everview bench model $(ARGS)

wheel: setup  ## build dist/everview-*.whl
	@rm -rf build dist
	$(PY) -c "from setuptools import build_meta; print('dist/' + build_meta.build_wheel('dist'))" | tail -n 1

lock:  ## resolve the two locks again from pyproject.toml (needs uv)
	@export UV_CUSTOM_COMPILE_COMMAND="make lock"
	compile="uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-annotate"
	$$compile --extra geometry --extra cluster --extra viewer --group pyproject.toml:dev --no-emit-package deepspeed \
	  pyproject.toml --output-file requirements.lock $(ARGS)
	$$compile --no-deps --group pyproject.toml:from-source --output-file requirements-from-source.lock $(ARGS)

clean:  ## remove everything that is made from the tracked files, .venv included
	@rm -rf .venv .typing .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist everview.egg-info
