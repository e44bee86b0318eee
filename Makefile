# Every word behind make does its own set-up. What they do: tests/tools/__main__.py; make help tells of them.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first Python that really answers and is new enough: pyenv's shims may be there and fail.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

TARGETS := help demo test test-all lint unit sanity integration molecule torture bench docs venv
.PHONY: $(TARGETS)

$(TARGETS):
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed: apt-get install python3" >&2; exit 1; }
	@exec $(PYTHON) -m tests.tools $@ $(if $(filter command,$(origin PLATFORM)),PLATFORM=$(PLATFORM))
