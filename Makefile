# The front door. `make VERB CONFIG=densenet161 DATA=DIR FOLD=0 RUN=name ARGS="key=value ..."` is
# `pawpularity VERB --config densenet161 --data DIR --fold 0 --run name key=value ...`.

# Names are split at blanks and quotes count in them; nothing in them is a pattern or a command (see `flag` below).
.SHELLFLAGS := -fc

# What each verb takes.
WORDS_data := ARGS
WORDS_sample := ARGS
WORDS_folds := CONFIG DATA JSON ARGS
WORDS_pretrain := ARGS
WORDS_train := FOLD JOBS PROCESSES RUN CONFIG DATA JSON ARGS
WORDS_tune := TRIALS WORKERS STORAGE RUN CONFIG DATA JSON ARGS
WORDS_study := RUN JSON ARGS
WORDS_probe := BACKBONES FEATURES RUN CONFIG DATA JSON ARGS
WORDS_oof := RUN JSON ARGS
WORDS_compare := RUNS JSON ARGS
WORDS_ensemble := MEMBERS METHOD RUN JSON ARGS
WORDS_errors := RUN CONFIG DATA JSON ARGS
WORDS_hypotheses := RUN CONFIG DATA JSON ARGS
WORDS_leakage := LABELS COPIES CONFIG DATA JSON ARGS
WORDS_leakcheck := OOF PHOTOS CONFIG DATA JSON ARGS
WORDS_explain := N MASKS PHOTO GROUP TWINS RUN CONFIG DATA JSON ARGS
WORDS_robustness := RUN RUNS CONFIG DATA JSON ARGS
WORDS_checklist := RUNS JSON ARGS
WORDS_report := RUNS JSON ARGS
WORDS_coach := PHOTO RUN CONFIG DATA JSON ARGS
WORDS_app := RUN CONFIG DATA ARGS
WORDS_table1 := BACKBONES COPIES CONFIG DATA JSON ARGS
WORDS_predict := RUN CONFIG DATA ARGS
WORDS_kernel := RUNS KAGGLE_USER HALF DATA ARGS
WORDS_kernel-check := PHOTOS JSON ARGS
WORDS_kernel-push := NAME KAGGLE_USER GO ARGS
WORDS_kernel-status := NAME KAGGLE_USER ARGS
WORDS_kernel-train := FOLDS HOURS RUN CONFIG KAGGLE_USER ARGS
WORDS_kernel-fetch := NAME KAGGLE_USER GO ARGS
WORDS_submit := KAGGLE_USER GO ARGS
WORDS_all := YES CONFIG DATA JSON ARGS
WORDS_bench := BENCH BACKBONES JSON ARGS
WORDS_test := SLOW ARGS
WORDS_test-oldest := ARGS
WORDS_clean-cache := YES ARGS
# A misspelt word (FLOD=0) must not start another, longer job.
KNOWN := $(sort $(foreach words,$(filter WORDS_%,$(.VARIABLES)),$($(words)))) PYTHON VENV
$(foreach word,$(.VARIABLES),$(if $(filter command,$(origin $(word))),$(if $(filter $(KNOWN),$(word)),,\
  $(error make knows no word $(word)=; it knows: $(KNOWN)))))
# Some systems set these two for themselves (WSL the machine's NAME, tcsh the user's GROUP): only what is typed at make counts.
$(foreach word,GROUP NAME,$(if $(filter environment,$(origin $(word))),$(eval unexport $(word))$(eval override $(word) :=)))
# What was typed is text: make would run a `$(shell ...)` in it.
$(foreach word,$(KNOWN),$(if $(filter command environment,$(origin $(word))),$(eval typed_$(word) := $(origin $(word)))\
  $(eval override $(word) := $$(value $(word)))$(eval export $(word))))
# Nor may a word that the verb does not take be dropped in silence.
# GO=yes would send nothing, HALF=yes halve nothing, and YES=no would not ask.
$(foreach word,GO HALF SLOW YES,$(if $(filter-out 0 1,$($(word))),$(error $(word)=$($(word)): must be 1 or 0)))
$(foreach goal,$(MAKECMDGOALS),$(foreach word,$(filter-out PYTHON VENV,$(KNOWN)),$(if $(filter command,$(typed_$(word))),\
  $(if $(filter $(word),$(WORDS_$(goal))),,$(error make $(goal) takes no $(word)=; it takes: $(or $(WORDS_$(goal)),no words))))))

PYTHON ?= python3
VENV   ?= .venv
$(foreach mark,; & | < > ` " ' \\ ( ) $$,$(if $(findstring $(mark),$(PYTHON)$(VENV)),$(error PYTHON and VENV must be plain names; found $(mark))))
BIN    := $(VENV)/bin
PAW    := $(BIN)/pawpularity
READY  := $(VENV)/.installed
OLDEST := $(VENV)-oldest

# What a verb is told: `--words "TEXT"`, with the text from the environment, which the command splits as a shell would. No shell and
# no make reads it, so a `;` or a `$(...)` is a character of a name.
flag = $${$1:+ --$2 $$$1}
CHOICE := $(call flag,CONFIG,config)$(call flag,DATA,data)
JOINED := $(CHOICE)$(call flag,JSON,json) $$ARGS
# A database's address holds a password: it goes by the environment, not by a command line that others can list.
ifneq ($(STORAGE),)
export PAWPULARITY_STORAGE := $(STORAGE)
endif

# The missing folds, JOBS processes at once, each with its share of the cores.
define AT_ONCE
case $$JOBS in *[!0-9]*|0*) echo "JOBS=$$JOBS: must be a number of processes" >&2; exit 2;; esac; \
lines=$$($(PAW) jobs --words "$(call flag,RUN,run)$(CHOICE) $$ARGS") || exit $$?; \
cores=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); \
export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( cores > JOBS ? cores / JOBS : 1 ))}; \
test -z "$$lines" || printf '%s\n' "$$lines" | tr '\n' '\0' | xargs -0 -n 1 -P "$$JOBS" sh -c
endef

# Tests start make themselves, without what this one was told.
PYTEST_ENV = PYTEST_ADDOPTS="$$PYTEST_ADDOPTS $$ARGS" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} env -u MAKEFLAGS -u MAKELEVEL -u ARGS -u SLOW
PYTEST     = -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup data sample folds pretrain train tune study probe oof compare ensemble errors hypotheses leakage leakcheck explain \
  robustness checklist report coach app table1 predict all kernel kernel-check kernel-push kernel-status kernel-train kernel-fetch submit bench \
  test test-oldest lint clean-cache

help: ## list every verb
	@echo 'make VERB [CONFIG=densenet161] [DATA=DIR] [FOLD=0] [RUN=name] [ARGS="key=value ..."]'
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## make .venv and install the project with its tested versions (every verb does)

# Another Python than the one that made it would leave an environment of two halves.
environment = @clear=; test "$$($(1)/bin/python -VV 2>&1)" = "$$($(PYTHON) -VV 2>&1)" || clear=--clear; $(PYTHON) -m venv $$clear $(1)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ...' >&2; exit 2; }
	@echo 'installing into $(VENV) (about 6 GB with torch; some minutes, once) ...' >&2
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

data: $(READY) ## download the competition's data with the kaggle command (its rules must be accepted there)
	@$(PAW) data --words "$$ARGS"

sample: $(READY) ## draw photos whose scores follow a known rule: make sample ARGS="--photos 600 --seed 0 --twins 5"
	@$(PAW) sample --words "$$ARGS"

folds: $(READY) ## make the folds file: near-duplicates grouped, scores stratified
	@$(PAW) folds --words "$(JOINED)"

pretrain: $(READY) ## make the packaged net of model.weights=drawn anew, from drawings (minutes)
	@$(PAW) pretrain --words "$$ARGS"

train: $(READY) ## train a fold (FOLD=0) or all (JOBS=2 at once; PROCESSES=2 on each), and print the out-of-fold score beside the constant
	@$(if $(and $(JOBS),$(FOLD)),echo 'JOBS trains the folds that are missing; leave FOLD away' >&2; exit 2)
	@$(if $(and $(JOBS),$(PROCESSES)),echo 'JOBS trains folds beside each other and PROCESSES shares one: take one of the two' >&2; exit 2)
	@$(if $(JOBS),$(AT_ONCE))
	@$(PAW) train $(if $(JOBS),--skip-taken) --words "$(call flag,FOLD,fold)$(call flag,PROCESSES,processes)$(call flag,RUN,run)$(JOINED)"

tune: $(READY) ## search settings: make tune CONFIG=densenet161 TRIALS=50 WORKERS=2 STORAGE=postgresql://...
	@$(PAW) tune --words "$(call flag,TRIALS,trials)$(call flag,WORKERS,workers)$(call flag,RUN,run)$(JOINED)"

study: $(READY) ## look at a search: best trials, importances, what depth costs; plots (RUN=name)
	@$(PAW) study --words "$$RUN$(call flag,JSON,json) $$ARGS"

probe: $(READY) ## ridge on frozen features of networks: make probe BACKBONES="a b" FEATURES=pooled|logits
	@$(PAW) probe --words "$(call flag,BACKBONES,backbones)$(call flag,FEATURES,features)$(call flag,RUN,run)$(JOINED)"

oof: $(READY) ## show every run: RMSE, interval, constant, n; one in full detail with RUN=name or RUN=any.csv
	@$(PAW) oof --words "$$RUN$(call flag,JSON,json) $$ARGS"

compare: $(READY) ## runs or OOF CSVs beside the first, paired: make compare RUNS="a b c.csv"
	@$(PAW) compare --words "$$RUNS$(call flag,JSON,json) $$ARGS"

ensemble: $(READY) ## blend runs and anybody's OOF CSVs, cross-fitted: make ensemble MEMBERS="a b c.csv" METHOD=mean
	@$(PAW) ensemble --words "$$MEMBERS$(call flag,METHOD,method)$(call flag,RUN,run)$(call flag,JSON,json) $$ARGS"

errors: $(READY) ## the photos furthest off, what they share, what label noise explains (RUN=name or CSV)
	@$(PAW) errors --words "$$RUN$(JOINED)"

hypotheses: $(READY) ## the paper's five hypotheses on the true scores (RUN=name or CSV: and what a model believes)
	@$(PAW) hypotheses --words "$(call flag,RUN,run)$(JOINED)"

leakage: $(READY) ## replay the paper's leak; with photos train a net both ways (LABELS=train.csv: labels alone)
	@$(PAW) leakage --words "$(call flag,LABELS,labels)$(call flag,COPIES,copies)$(JOINED)"

leakcheck: $(READY) ## look for leaks in anybody's predictions: make leakcheck OOF=file.csv PHOTOS=DIR
	@$(PAW) leakcheck --words "$$OOF$(call flag,PHOTOS,photos)$(JOINED)"

explain: $(READY) ## maps of where scores come from, tested; a gallery (N=8, MASKS=auto, PHOTO="a.jpg b.jpg", GROUP="scores eyes", TWINS=dir)
	@$(PAW) explain --words "$(call flag,N,n)$(call flag,MASKS,masks)$(call flag,PHOTO,photo)$(call flag,GROUP,group)$(call flag,TWINS,twins)$(call flag,RUN,run)$(JOINED)"

robustness: $(READY) ## how far attacks and harmless changes move the scores (RUN=name, or RUNS="a b" side by side)
	@$(PAW) robustness --words "$(call flag,RUNS,runs)$(call flag,RUN,run)$(JOINED)"

checklist: $(READY) ## the reproducibility checklist of every run (RUNS="a b": those) from its files: oof/checklist.md
	@$(PAW) checklist --words "$(call flag,RUNS,runs)$(call flag,JSON,json) $$ARGS"

report: $(READY) ## one page of everything the runs and verbs left, oof/report.html (RUNS="a b": those, beside the first)
	@$(PAW) report --words "$(call flag,RUNS,runs)$(call flag,JSON,json) $$ARGS"

coach: $(READY) ## how well a photo will do, what that is worth, what to change (PHOTO="a.jpg b.jpg", or a folder: a CSV)
	@$(PAW) coach --words "$$PHOTO$(call flag,RUN,run)$(JOINED)"

app: $(READY) ## the photo coach as a page in the browser, on this machine alone (ARGS="--port 8501")
	@$(PAW) app --words "$(call flag,RUN,run)$(CHOICE) $$ARGS"

table1: $(READY) ## the paper's Table 1: four backbones x copies x honest and leaky splits (resumable)
	@$(PAW) table1 --words "$(call flag,BACKBONES,backbones)$(call flag,COPIES,copies)$(JOINED)"

predict: $(READY) ## score the photos of test.csv: submissions/RUN.csv
	@$(PAW) predict --words "$(call flag,RUN,run)$(CHOICE) $$ARGS"

all: $(READY) ## data, folds, four backbones, mean blend, submission; asks first (YES=1 does not)
	@$(PAW) all $(if $(filter 1,$(YES)),--yes) --words "$(JOINED)"

kernel: $(READY) ## build the Kaggle kernel and its bundle: make kernel RUNS="densenet161 resnet152" KAGGLE_USER=you HALF=1
	@$(PAW) kernel $(if $(filter 1,$(HALF)),--half) --words "$(call flag,RUNS,runs)$(call flag,KAGGLE_USER,user)$(call flag,DATA,data) $$ARGS"

kernel-check: $(READY) ## run the built kernel as Kaggle would: no network, its libraries alone, PHOTOS=2000 hidden ones
	@$(PAW) kernel-check --words "$(call flag,PHOTOS,photos)$(call flag,JSON,json) $$ARGS"

kernel-push: $(READY) ## upload kernel and bundle (NAME=train-RUN: a training kernel); shows the commands unless GO=1
	@$(PAW) kernel-push $(if $(filter 1,$(GO)),--go) --words "$(call flag,NAME,name)$(call flag,KAGGLE_USER,user) $$ARGS"

kernel-status: $(READY) ## what became of a pushed kernel
	@$(PAW) kernel-status --words "$(call flag,NAME,name)$(call flag,KAGGLE_USER,user) $$ARGS"

submit: $(READY) ## submit the pushed kernel to the contest; shows the command unless GO=1
	@$(PAW) submit $(if $(filter 1,$(GO)),--go) --words "$(call flag,KAGGLE_USER,user) $$ARGS"

kernel-train: $(READY) ## build a kernel that trains a run on Kaggle's GPUs: make kernel-train CONFIG=densenet161 KAGGLE_USER=you
	@$(PAW) kernel-train --words "$(call flag,FOLDS,folds)$(call flag,HOURS,hours)$(call flag,RUN,run)$(call flag,CONFIG,config)$(call flag,KAGGLE_USER,user) $$ARGS"

kernel-fetch: $(READY) ## bring home what a training kernel trained; shows the command unless GO=1
	@$(PAW) kernel-fetch $(if $(filter 1,$(GO)),--go) --words "$(call flag,NAME,name)$(call flag,KAGGLE_USER,user) $$ARGS"

bench: $(READY) ## time the plain loop beside ours: make bench BENCH=train|predict|cache|profile|search|rise|all
	@$(PAW) bench --words "$(call flag,BENCH,what)$(call flag,BACKBONES,backbones)$(call flag,JSON,json) $$ARGS"

test: $(READY) ## run the tests, a process per core (SLOW=1: those of more than ten seconds too; ARGS="-k folds": some)
	@$(PYTEST_ENV) $(BIN)/python $(PYTEST) $(if $(filter 1,$(SLOW)),,-m 'not slow')

test-oldest: $(OLDEST)/.installed ## the tests of predictor and kernels with the oldest libraries that are promised (a second 6 GB, .venv-oldest)
	@$(PYTEST_ENV) $(OLDEST)/bin/python $(PYTEST) tests/kernel tests/model tests/competition tests/trunk tests/training/test_tail.py \
	  tests/training/test_fit.py tests/test_config.py tests/test_oldest.py

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	@echo 'installing into $(OLDEST) (about 6 GB with torch; some minutes, once) ...' >&2
	$(call environment,$(OLDEST))
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[app]' pytest pytest-xdist pytest-cov hypothesis
	@touch $@

lint: $(READY) ## ruff, mypy, and that imports go one way
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.DEFAULT:
	@echo 'make knows no verb "$@"; see: make help' >&2; exit 2

clean-cache: $(READY) ## show what the cache holds, then delete it (YES=1 does not ask)
	@$(PAW) clean-cache $(if $(filter 1,$(YES)),--yes) --words "$$ARGS"
