# The two commands are `make demo` and `make test`.

CARGO ?= cargo
SEED ?= 1
REPORT ?= target/demo-report.json

.PHONY: demo test lint bench-demo bench-placement models

## demo: build, start a whole fleet on this machine, move tenants live under load, print a verdict
demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --report $(REPORT)

## test: everything that CI runs
test:
	./.ci/run

## lint: format and clippy, warnings denied
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

## bench-demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --moves 60 --figures target/bench/demo.json

## bench-placement: the planner on reference inputs, beside its peers. CELLWAY_DATA names the directory of the traces,
## CELLWAY_REBALANCER a Python with the package rebalancer; what is left out is said
bench-placement:
	$(CARGO) bench --locked --package cell-planner --bench reference -- --out $(CURDIR)/target/bench/placement.json

## models: the model checker's long run
models:
	$(CARGO) run --release --locked --package cell-models -- long
