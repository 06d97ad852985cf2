# Every command of the house. `make quickstart` and `make test` make their own virtual environment from the lock.
# Paths stay relative and the tools are started as modules, so that a clone under a path with spaces works.

PYTHON  ?= python3
UV      ?= uv
WORKDIR ?= runs/quickstart
WORKERS ?= 2

VENV := .venv
RUN  := $(VENV)/bin/python
PIP  := $(RUN) -m pip --disable-pip-version-check --quiet

# PyTorch stays out of $(VENV): an environment of its own sees the packages of $(VENV) and adds it. Its builds without
# CUDA are where TORCH_INDEX says, or in a folder that PIP_FIND_LINKS names.
PARITY      := .venv-parity
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_FROM  ?= $(if $(PIP_FIND_LINKS),,--extra-index-url $(TORCH_INDEX))

# What the benchmarks measure against (PyTorch, TRL) likewise; TRL's last release with PPO in a folder of its own there.
BENCH_ENV := .venv-bench
BENCH     ?=
MODEL     ?= small
THREADS   ?= 1

# The TPU compiler stays out of $(VENV) likewise: where it is found, jax asks for TPUs.
TPU := .venv-tpu

# Sphinx and its friends likewise: nothing of them is needed to run or to test the program.
DOCS := .venv-docs

# Gradio wants an older Pillow than the lock has.
CHAT := .venv-chat

# Atheris brings a fuzzer of its own, for some platforms and Pythons only.
FUZZ    := .venv-fuzz
TARGET  ?= rows
SECONDS ?= 300

.PHONY: help quickstart feedback test slow reliability torture fuzz browser parity test-parity tpu docs chat check smoke reproduce golden bench lock clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile | expand -t 12

quickstart: $(VENV)/.base  ## SFT, reward model and PPO on the embedded world; WORKDIR=runs/quickstart
	$(RUN) -m rlhf_jax --config=configs/quickstart.py --workdir="$(WORKDIR)"

feedback: $(VENV)/.base  ## a reward model from each kind of feedback on the embedded world; runs/feedback_KIND
	for kind in pairs margins ties edges labels scores mixed lists; do \
	  $(RUN) -m rlhf_jax --config=configs/feedback.py:$$kind --workdir=runs/feedback_$$kind || exit 1; \
	done

test: $(VENV)/.dev  ## the tests, on WORKERS=2 processes
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not reliability" tests

slow: $(VENV)/.dev  ## the slow ones: killed runs, several processes, eight devices from end to end
	$(RUN) -m pytest -n $(WORKERS) -m "slow and not browser and not reliability" tests

reliability: $(VENV)/.dev  ## the reliability matrix in small: killed runs, damaged checkpoints, bad and hostile input
	$(RUN) -m pytest -n $(WORKERS) -m reliability tests/reliability

torture: $(VENV)/.dev  ## the same at full size, an hour or two; the table goes to build/torture.md
	$(RUN) -m pytest -n $(WORKERS) -m reliability --torture --torture-table=build/torture.md tests/reliability

fuzz: $(FUZZ)/.done  ## TARGET=rows (label_studio, safetensors_index, config_json) SECONDS=300: fuzzing led by coverage (installs Atheris into .venv-fuzz)
	$(FUZZ)/bin/python -m tests.fuzz.$(TARGET) -max_total_time=$(SECONDS)

browser: $(VENV)/.dev  ## the reports in a real browser (on Debian: apt-get install chromium chromium-driver)
	@command -v chromedriver >/dev/null || \
	  { echo "make browser needs Chromium and its driver; on Debian: apt-get install chromium chromium-driver" >&2; exit 1; }
	RLHF_JAX_BROWSER=required $(RUN) -m pytest -n 0 -m browser tests/reports

parity: $(PARITY)/.done  ## exported models against transformers' PyTorch models (installs PyTorch into .venv-parity)
	$(PARITY)/bin/python -m pytest -n 0 tests/parity

test-parity: parity

tpu: $(TPU)/.done  ## a tiny run compiled for TPUs that are not there (installs libtpu into .venv-tpu)
	$(TPU)/bin/python -m pytest -n 0 tests/tpu

docs: $(DOCS)/.done  ## the site into build/site: a dead link is an error, the notebook is run (installs Sphinx into .venv-docs)
	@rm -rf build/site
	$(DOCS)/bin/python -m sphinx -W --keep-going -n -q -c docs . build/site
	$(DOCS)/bin/python -m docs.check build/site
	@echo "the site: build/site/index.html"

chat: $(CHAT)/.done  ## the page of rlhf-jax chat, served and used (installs Gradio into .venv-chat)
	$(CHAT)/bin/python -m pytest -n 0 tests/chat

check: $(VENV)/.dev  ## format, lint, types, import contracts; changes nothing
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

smoke: $(VENV)/.base  ## two steps of every stage through the command line, in a temporary folder
	@dir="$$(mktemp -d)" && trap 'rm -rf "$$dir"' EXIT && \
	$(RUN) -m rlhf_jax --config=configs/quickstart.py --workdir="$$dir/run" \
	  --config.sft.steps=2 --config.sft.batch_size=2 --config.reward.steps=2 --config.reward.batch_size=2 \
	  --config.ppo.iterations=2 --config.ppo.prompts_per_iteration=4 --config.ppo.minibatches=2 --config.log.every=1

reproduce: $(VENV)/.base  ## EXP=name: run an experiment of experiments/ and draw its figures and tables
	$(RUN) -m experiments.run $(EXP)

golden: $(VENV)/.dev  ## rewrite the golden metrics; the commit must say why they moved
	$(RUN) -m pytest tests/golden --update-golden -rA

bench: $(BENCH_ENV)/.done  ## every stage beside TRL, transformers and PyTorch; BENCH="sft dpo" MODEL=small THREADS=1 (installs them into .venv-bench)
	$(RUN) -m benchmarks.run --model=$(MODEL) --threads=$(THREADS) $(BENCH)

lock:  ## resolve requirements/*.txt anew from setup.py (needs uv); UPGRADE=--upgrade moves the pins
	$(UV) pip compile setup.py requirements/build.in $(LOCK_FLAGS) --output-file requirements/base.txt
	$(UV) pip compile setup.py requirements/build.in --extra test --extra check \
	  --constraints requirements/base.txt $(LOCK_FLAGS) --output-file requirements/dev.txt
	$(UV) pip compile setup.py --extra parity --constraints requirements/dev.txt \
	  $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--index $(TORCH_INDEX)) \
	  $(LOCK_FLAGS) --output-file requirements/parity.txt
	$(UV) pip compile setup.py --extra tpu --constraints requirements/dev.txt \
	  $(LOCK_FLAGS) --output-file requirements/tpu.txt
	$(UV) pip compile setup.py --extra docs --constraints requirements/dev.txt \
	  $(LOCK_FLAGS) --output-file requirements/docs.txt
	$(UV) pip compile setup.py --extra bench --constraints requirements/dev.txt \
	  $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--index $(TORCH_INDEX)) \
	  $(LOCK_FLAGS) --output-file requirements/bench.txt
	cp requirements/dev.txt requirements/chat.txt  # versions to keep wherever Gradio lets them be kept
	$(UV) pip compile setup.py --extra chat --extra test \
	  $(filter-out --upgrade%,$(LOCK_FLAGS)) --output-file requirements/chat.txt

# One version of each package for all Pythons from 3.11 on: the lock is what is tested.
LOCK_FLAGS = --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url \
  --no-emit-find-links --custom-compile-command "make lock" --quiet $(UPGRADE)

clean:  ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) $(PARITY) $(TPU) $(DOCS) $(CHAT) $(FUZZ) $(BENCH_ENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rlhf_jax needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "The venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.base: $(VENV)/.created requirements/base.txt setup.py pyproject.toml
	@echo "installing requirements/base.txt into $(VENV) (about 1.3 GB; one to three minutes)"
	@$(PIP) install --require-hashes -r requirements/base.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base requirements/dev.txt
	@echo "installing requirements/dev.txt into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Of an environment whose .done is made: it has the packages of $(VENV) too.
define SEES_BASE
$(@D)/bin/python -c 'import pathlib, sys, sysconfig; \
	  link = pathlib.Path(sysconfig.get_path("purelib"), "base.pth"); \
	  link.write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
	  "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
endef

$(PARITY)/.done: $(VENV)/.dev requirements/parity.txt
	@echo "installing PyTorch of requirements/parity.txt into $(PARITY) (about 0.8 GB)"
	@$(RUN) -m venv --clear $(PARITY)
	@$(SEES_BASE)
	@$(PARITY)/bin/python -m pip --disable-pip-version-check --quiet install $(TORCH_FROM) \
	  --require-hashes -r requirements/parity.txt
	@touch $@

$(BENCH_ENV)/.done: $(VENV)/.base requirements/bench.txt requirements/bench_ppo.txt
	@echo "installing PyTorch and TRL of requirements/bench.txt into $(BENCH_ENV) (about 1 GB)"
	@$(RUN) -m venv --clear $(BENCH_ENV)
	@$(SEES_BASE)
	@$(BENCH_ENV)/bin/python -m pip --disable-pip-version-check --quiet install $(TORCH_FROM) \
	  --require-hashes -r requirements/bench.txt
	@$(BENCH_ENV)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --target $(BENCH_ENV)/trl-ppo \
	  --require-hashes -r requirements/bench_ppo.txt
	@touch $@

$(TPU)/.done: $(VENV)/.dev requirements/tpu.txt
	@echo "installing libtpu of requirements/tpu.txt into $(TPU) (about 0.7 GB)"
	@$(RUN) -m venv --clear $(TPU)
	@$(SEES_BASE)
	@$(TPU)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/tpu.txt
	@touch $@

$(DOCS)/.done: $(VENV)/.base requirements/docs.txt
	@echo "installing Sphinx of requirements/docs.txt into $(DOCS) (about 0.2 GB)"
	@$(RUN) -m venv --clear $(DOCS)
	@$(SEES_BASE)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/docs.txt
	@touch $@

$(CHAT)/.done: $(VENV)/.dev requirements/chat.txt
	@echo "installing Gradio of requirements/chat.txt into $(CHAT) (about 0.2 GB)"
	@$(RUN) -m venv --clear $(CHAT)
	@$(SEES_BASE)
	@$(CHAT)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/chat.txt
	@touch $@

$(FUZZ)/.done: $(VENV)/.dev requirements/fuzz.txt
	@echo "installing Atheris of requirements/fuzz.txt into $(FUZZ) (about 0.1 GB)"
	@$(RUN) -m venv --clear $(FUZZ)
	@$(SEES_BASE)
	@$(FUZZ)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/fuzz.txt
	@touch $@
