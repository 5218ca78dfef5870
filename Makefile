# LedgerFlux Mesh. `make` lists the targets; each sets up what it needs by itself.

VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
SHARD   ?= 0
CONFIG  ?= configs/local.toml
URL     ?= ws://localhost:8000/ws
ARGS    ?=
# Tests run in parallel processes, each test on ports of its own. Many of them wait, so there are more than cores.
WORKERS ?= 3
# Of the fault bench: faults one after another, and the seed of their plan.
ROUNDS  ?= 32
SEED    ?= 1
# Of compose-targets: mesh.data_dir of the mesh, as configs/compose.toml has it.
DATA_DIR ?= .lfmesh/compose

.DEFAULT_GOAL := help
.PHONY: help setup up live test check soak bench chaos lock clean \
        run-sim run-registry run-ingestor run-normalizer run-snapshotter run-gateway \
        test-client-basic test-client-load \
        stores-up stores-down compose-up compose-down compose-targets

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@python=$$(PYTHON="$(PYTHON)" .ci/find-python) || exit 1; \
	if [ -x $(BIN)/python ] && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    echo "Updating $(VENV) ($$($(BIN)/python -V))"; \
	else \
	    echo "Making $(VENV) with $$python ($$($$python -V))"; "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY) ## Make .venv with everything in it (done by the other targets when needed)

up: $(READY) ## Run the whole mesh on the simulated exchange (ARGS="--rate 1000 --shards 4" and so on)
	@$(BIN)/lfmesh up $(ARGS)

live: $(READY) ## Run the whole mesh on Coinbase Exchange's public feed
	@$(BIN)/lfmesh up --source coinbase $(ARGS)

test: check ## Lint, types, layers and all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not soak" $(ARGS)

check: $(READY) ## Lint, format and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(READY) ## The long forms of the tests, with the figures that they print
	$(BIN)/python -m pytest -m soak --timeout 1200 -rP $(ARGS)

bench: $(READY) ## Benchmarks, as one table
	@$(BIN)/python -m loadgen.bench $(ARGS)

chaos: $(READY) ## Break a whole mesh in ROUNDS seeded ways and audit every client (ROUNDS=200 SEED=7 ARGS="--only kill")
	@$(BIN)/python -m loadgen.chaos --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

lock: $(READY) ## Choose exact versions anew and write requirements.lock (hashes, no addresses)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.12 \
	    --generate-hashes --no-header --upgrade --quiet -o requirements.lock

clean: ## Remove .venv, caches and the data of local runs
	@if [ -f .lfmesh/stores/stores.json ]; then $(BIN)/python -m loadgen.stores down; fi
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .lfmesh dist
	find lfmesh loadgen tests -name __pycache__ -type d -prune -exec rm -rf {} +

run-sim: $(READY) ## Run the simulated exchange alone (CONFIG=configs/sim.toml leads the roles to it)
	@$(BIN)/lfmesh sim $(ARGS)

run-registry: $(READY) ## Run a registry from CONFIG
	@$(BIN)/lfmesh registry --config $(CONFIG) $(ARGS)

run-ingestor: $(READY) ## Run an ingestor from CONFIG
	@$(BIN)/lfmesh ingestor --config $(CONFIG) $(ARGS)

run-normalizer: $(READY) ## Run the normalizer of shard SHARD from CONFIG
	@$(BIN)/lfmesh normalizer --config $(CONFIG) --shard $(SHARD) $(ARGS)

run-snapshotter: $(READY) ## Run the snapshotter of shard SHARD from CONFIG
	@$(BIN)/lfmesh snapshotter --config $(CONFIG) --shard $(SHARD) $(ARGS)

run-gateway: $(READY) ## Run a gateway from CONFIG
	@$(BIN)/lfmesh gateway --config $(CONFIG) $(ARGS)

test-client-basic: $(READY) ## One checking client for 30 s against a running mesh (URL=…)
	@$(BIN)/python -m loadgen.client --gateway-url $(URL) --duration 30 $(ARGS)

test-client-load: $(READY) ## Ten checking clients for 60 s against a running mesh (URL=…)
	@$(BIN)/python -m loadgen.client --gateway-url $(URL) --clients 10 --duration 60 $(ARGS)

stores-up: $(READY) ## Start DynamoDB Local and an S3 server on free loopback ports, without Docker (needs Java 17, npm)
	@$(BIN)/python -m loadgen.stores up $(ARGS)

stores-down: $(READY) ## End them (ARGS=--forget: with their data)
	@$(BIN)/python -m loadgen.stores down $(ARGS)

compose-up: ## Start DynamoDB Local, MinIO, Prometheus and Grafana with Docker
	@mkdir -p .lfmesh/prometheus
	@docker compose up --detach --wait $(ARGS)
	@echo "DynamoDB 127.0.0.1:8002, MinIO 127.0.0.1:9000 (console 9001), Prometheus 127.0.0.1:9090, Grafana 127.0.0.1:3000"
	@echo "Now:  export AWS_ACCESS_KEY_ID=lfmesh AWS_SECRET_ACCESS_KEY=lfmeshsecret"
	@echo '      make up ARGS="--config configs/compose.toml"    and, when it runs, make compose-targets'

compose-targets: $(READY) ## Tell Prometheus where the roles of the running mesh are (DATA_DIR=.lfmesh/compose)
	@mkdir -p .lfmesh/prometheus
	@$(BIN)/lfmesh top --json --data-dir $(DATA_DIR) > .lfmesh/prometheus/top
	@$(BIN)/python -m loadgen.stores targets < .lfmesh/prometheus/top > .lfmesh/prometheus/new
	@mv .lfmesh/prometheus/new .lfmesh/prometheus/mesh.json

compose-down: ## Stop what compose-up has started (ARGS=--volumes: with its data)
	@docker compose down $(ARGS)
