# `make COMMAND FOLD=0 CONFIG=densenet161 train.lr=1e-4 ARGS="..."` runs `pawpularity COMMAND --fold 0 --config densenet161 train.lr=1e-4 ...`.
# make passes KEY=value words on as text, in its variable MAKEFLAGS; `make_words` in src/pawpularity/cli.py reads them.
# `:=`, `!=` and `+=` on the command line are make's own syntax. For text you do not trust, call `pawpularity` itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
OLDEST := $(VENV)-oldest

COMMANDS := all compete data sample train tune study heads augment-preview folds jobs oof compare ensemble errors leakcheck explain coach app robustness \
  predict kernel kernel-check kernel-push kernel-status kernel-train kernel-fetch submit report checklist leakage table1 hypotheses \
  known-truth mlebench bench pretrain clean-cache

# Keep the variables of the command line out of the environment: make would run a `$(shell ...)` in them.
unexport $(foreach word,$(.VARIABLES),$(if $(filter command,$(origin $(word))),$(word)))

.DEFAULT_GOAL := help
.PHONY: help setup test test-oldest lint $(COMMANDS)

$(COMMANDS): $(READY)
	@$(BIN)/pawpularity --make $@

help: ## list every command
	@cat docs/commands.txt

setup: $(READY) ## make .venv and install the project with its tested versions

# Recreate an environment that another Python made.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...' >&2; exit 2; }
@echo 'installing into $(1) (about 6 GB with torch; some minutes, once) ...' >&2
@clear=; test "$$($(1)/bin/python -VV 2>&1)" = "$$($(PYTHON) -VV 2>&1)" || clear=--clear; $(PYTHON) -m venv $$clear $(1)
endef

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Some tests start make; they must not inherit the words of this one.
PYTEST = env -u MAKEFLAGS -u MAKELEVEL OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(1)/bin/python -m pytest \
  --numprocesses auto --maxprocesses 8 --dist loadfile

test: $(READY) $(VENV)/kaggle-oldest ## run the tests (SLOW=1: also those over ten seconds; ARGS="-k folds": some)
	@$(call PYTEST,$(VENV)) $(if $(filter 1,$(SLOW)),,-m 'not slow') $(ARGS)

# The oldest supported `kaggle` client, for one test; without a network that test is skipped.
$(VENV)/kaggle-oldest: constraints-oldest.txt | $(READY)
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade -c constraints-oldest.txt --target $@ kaggle kagglesdk && touch $@

test-oldest: $(OLDEST)/.installed ## run the prediction tests with the oldest supported libraries (another 6 GB)
	@$(call PYTEST,$(OLDEST)) -m 'not slow' $(addprefix tests/,data/test_photos.py models features kaggle training/test_fit.py) $(ARGS)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(call environment,$(OLDEST))
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[kaggle]' pytest pytest-xdist hypothesis
	@touch $@

lint: $(READY) ## run ruff, mypy and the check of import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.DEFAULT:
	@if [ -x $(BIN)/pawpularity ]; then $(BIN)/pawpularity --make '$(subst ','\'',$@)'; \
	else echo 'there is no such command; see: make help' >&2; exit 2; fi
