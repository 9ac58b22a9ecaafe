# What one does with a clone. Nothing needs to be prepared: each target makes what it needs.
#
#   make demo         run the quickstart on a real cluster, headless, and show what happens
#   make lab          open it in JupyterLab
#   make test         every check (what .ci/run calls); under ten minutes on two cores
#   make bench        Atoll beside Ray, Dask, ipyparallel, joblib and ProcessPoolExecutor; rewrites docs/benchmarks.md
#   make bench-quick  one short round of the budgets
#   make study        the scheduler's figures: throughput, fairness, sharing; rewrites a part of docs/scheduling.md
#   make simulate     the whole cluster on a virtual clock: SEEDS=200 (FROM=1000), or SEED=17 for one
#
#   make conformance  the tests of the core API's semantics on Atoll; on Ray itself with ENGINE=ray (docs/ray.md)
#
#   make bundle       the dashboard's JavaScript, after a change in widgets/js (needs node)
#
# Single checks: lint types contracts unit browser nbval test-gpu test-slow.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 200
ENGINE ?= atoll
FROM ?= 0
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)
SIMULATED := ATOLL_SIMULATED_GPUS=$${ATOLL_SIMULATED_GPUS:-$$(nvidia-smi -L >/dev/null 2>&1 && echo 0 || echo 2)}

.PHONY: help bundle venv demo lab test test-gpu test-slow bench bench-quick study simulate conformance ray-conformance lint types contracts unit browser nbval clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An editable installation leaves out data files: the server extension is enabled by one, and others are JupyterLab's part.
$(VENV)/.installed-%: pyproject.toml kernel_ext/jupyter-config/atoll.json widgets/labextension/package.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	install -D -m 644 kernel_ext/jupyter-config/atoll.json $(VENV)/etc/jupyter/jupyter_server_config.d/atoll.json
	mkdir -p $(VENV)/share/jupyter/labextensions
	ln -sfn $(CURDIR)/widgets/labextension $(VENV)/share/jupyter/labextensions/atoll
	touch $@

venv: $(VENV)/.installed-test

demo: $(VENV)/.installed-demo
	$(SIMULATED) $(BIN)/python notebooks/demo.py

lab: $(VENV)/.installed-demo
	$(SIMULATED) $(BIN)/jupyter lab $(ROOT_FLAG) notebooks/01_quickstart.ipynb

test: venv
	$(BIN)/python tests/stages.py

lint types contracts unit browser nbval: venv
	$(BIN)/python tests/stages.py $@

test-gpu: venv
	$(BIN)/python -m pytest -m gpu

test-slow: venv
	$(BIN)/python -m pytest -m slow

study: venv
	$(BIN)/python -m benchmarks.scheduling --document

simulate: venv
	$(BIN)/python -m tests.sim.run $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM))

# Ray has an environment of its own: what it needs is not what the other checks are to see.
conformance: $(if $(filter ray,$(ENGINE)),ray-conformance,venv)
	$(if $(filter ray,$(ENGINE)),,CONFORMANCE_ENGINE=$(ENGINE) $(BIN)/python -m pytest -q tests/conformance)

ray-conformance:
	$(MAKE) VENV=.venv-ray .venv-ray/.installed-conformance
	CONFORMANCE_ENGINE=ray .venv-ray/bin/python -m pytest -q -W default tests/conformance

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.run --document

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.run --quick

bundle:
	$(MAKE) -C widgets bundle

clean:
	rm -rf $(VENV) .venv-ray .build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
