# The two commands are `make demo` and `make test`.

CARGO ?= cargo
SEED ?= 1
REPORT ?= target/demo-report.json

.PHONY: demo test test-clients lint bench-demo bench-router models

## demo: build, start a whole fleet on this machine, move tenants live under load, print a verdict
demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --report $(REPORT)

## test: everything that CI runs
test:
	./.ci/run

## test-clients: the router between clients and servers that others wrote (grpcio, websockets, curl)
test-clients:
	python3 -m venv target/clients
	target/clients/bin/pip install --quiet --requirement router/tests/clients/requirements.txt
	CELLWAY_PYTHON=$(CURDIR)/target/clients/bin/python $(CARGO) nextest run --locked --package cell-router --run-ignored only -E 'test(foreign)'

## lint: format and clippy, warnings denied
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

## bench-demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --moves 60 --figures target/bench/demo.json

## bench-router: the router beside nginx, HAProxy and whatever else is here; fairness; how long a change takes to be seen
bench-router:
	$(CARGO) build --release --locked --package cell-router-bench
	target/release/bench-router compare $(BENCH_ROUTER) --out target/bench/router.json
	target/release/bench-router fair --out target/bench/router-fair.json
	target/release/bench-router visible --out target/bench/router-visible.json

## models: the model checker's long run
models:
	$(CARGO) run --release --locked --package cell-models -- long
