# The two commands are `make demo` and `make test`.

CARGO ?= cargo
SEED ?= 1
ROUNDS ?= 1
REPORT ?= target/demo-report.json

.PHONY: demo test test-clients interleavings fuzz lint edge control drills planted sim bench-demo bench-move bench-store bench-parts bench-placement bench-router instructions ordeal-store upgrade guards models prefixes

## demo: build, start a whole fleet on this machine, move tenants live under load, print a verdict
demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --report $(REPORT)

## test: everything that CI runs
test:
	./.ci/run

## test-clients: the router between clients and servers that others wrote (grpcio, websockets, curl, h2load, wrk)
test-clients:
	.ci/install h2load=nghttp2-client wrk
	python3 -m venv target/clients
	target/clients/bin/pip install --quiet --requirement router/tests/clients/requirements.txt
	CELLWAY_PYTHON=$(CURDIR)/target/clients/bin/python $(CARGO) nextest run --locked --package cell-router --run-ignored only -E 'test(foreign)'

## interleavings: every order of steps of small cases of what the router's threads share, under loom
interleavings:
	$(CARGO) test --locked --package cell-router --features loom --lib interleavings

## fuzz: libFuzzer on each of the router's readers of outside bytes, a minute each
fuzz:
	router/fuzz/run

## drills: break a fleet in every way of docs/drills.md, judge each (as root in network namespaces, else by proxy). ROUNDS=3 is
## three times in a row, each with the next seed. Reports name the commit
drills: export CELLWAY_COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null)
drills:
	.ci/install strace faketime ip=iproute2 initdb=postgresql
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl drill run --all --seed $(SEED) --rounds $(ROUNDS) --out target/drills

## planted: plant every fault of docs/drills.md in turn, and see that the layer catches it that must
planted:
	$(CARGO) build --release --locked --package cellctl --features planted
	target/release/cellctl drill planted

## sim: a thousand seeds of the store's simulation, each twice, and a hundred of the whole fleet
sim:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl drill sim --seeds 1..1001 --twice --only-failed --jobs 2
	target/release/cellctl drill sim --fleet --seeds 1..101 --faults 15 --twice --only-failed --jobs 2

## edge: the router as it is meant to run, optimised over all crates and led by a profile (slow to build: twice, and trained)
edge:
	CARGO="$(CARGO)" router/bench/led

## control: nodes of the control plane and cellctl as they are meant to run, optimised over all crates (slow to build), into target/edge
control:
	$(CARGO) build --profile edge --locked --package cell-control --package cellctl

## lint: format and clippy, warnings denied
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

## bench-demo: hold and read gap over 120 moves, one at a time, beside the same run's sync and round trip
bench-demo:
	$(CARGO) build --release --locked --package cellctl
	target/release/cellctl demo --seed $(SEED) --moves 120 --moves-at-once 1 --figures target/bench/demo.json

# Each of the following installs whom it compares with, prints a table, writes a list of figures below target/bench, and ends with an
# error where a figure misses what it must hold, after everything has been measured and written.

## bench-move: tenants in PostgreSQL: the copy beside COPY | COPY, 1,000 holds under load, what each phase costs, what fence and capture
## cost, what is left of 1,000 aborts. BENCH_MOVE=--quick is a look
bench-move:
	.ci/install initdb=postgresql
	$(CARGO) build --release --locked --package cell-move-bench
	target/release/bench-move all $(BENCH_MOVE) --out target/bench/move.json

## bench-store: puts, gets and watches beside Debian's etcd-server in turns, three nodes each; routers that watch; stops and kills; a
## million mappings, also signed; a gigabyte on disk; 200 kills and 200 power cuts (as root). BENCH_STORE=--quick is a look
bench-store:
	.ci/install etcd=etcd-server
	$(CARGO) build --profile edge --locked --package cell-store-bench --package cell-control
	target/edge/bench-store all $(BENCH_STORE) --out target/bench/store.json

## bench-parts: parts of the store one by one (criterion): codec, apply, append and sync, signing, snapshots. CELLWAY_BENCH_DIR says on
## which disk; BENCH_PARTS=codec is those of that name
bench-parts:
	$(CARGO) bench --locked --package cell-store-bench --bench parts -- $(BENCH_PARTS)

## ordeal-store: 200 kills and 200 power cuts (as root), judged by a history checker
ordeal-store:
	$(CARGO) build --release --locked --package cell-store-bench
	target/release/bench-store kill --rounds 200 --seed $(SEED)
	target/release/bench-store cut --rounds 200 --seed $(SEED)

## upgrade: three nodes of an earlier version (UPGRADE_FROM, a commit of this repository) replaced one by one by today's under load, judged by
## the history checker. It builds that version first. UPGRADE="--rounds 1" is a look
upgrade:
	CARGO="$(CARGO)" raft-store/bench/upgrade $(UPGRADE) --out $(CURDIR)/target/bench/upgrade.json

## bench-placement: the planner on reference inputs, beside its peers. CELLWAY_DATA names the directory of the traces,
## CELLWAY_REBALANCER a Python with the package rebalancer (without it a Python of 3.12 or newer on PATH gets a venv below
## target); what is left out is said
bench-placement:
	$(CARGO) bench --locked --package cell-planner --bench reference -- $(BENCH_PLACEMENT) --out $(CURDIR)/target/bench/placement.json

## bench-router: the router beside nginx, HAProxy, Envoy and Pingora; fairness; how long a change takes to be seen; what tenants and
## connections take. BENCH_ROUTER=--quick is a look
bench-router:
	CARGO="$(CARGO)" router/bench/peers
	CARGO="$(CARGO)" router/bench/led
	$(CARGO) build --profile edge --locked --package cell-router-bench
	target/edge/bench-router all $(BENCH_ROUTER) --router target/edge/cell-router --out target/bench/router.json

### instructions: those that a bare request takes in the router, as valgrind counts them on however busy a machine; more than INSTRUCTIONS is
## an error. Whoever lowers or raises it says why in docs/router-figures.md
INSTRUCTIONS ?= 31500
instructions:
	.ci/install valgrind
	$(CARGO) build --release --locked --package cell-router-bench
	target/release/bench-router instructions --at-most $(INSTRUCTIONS) --out target/bench/instructions.json

# prefixes: ten million states of random plans, each with a second opinion
prefixes:
	$(CARGO) nextest run --release --locked --package cell-planner --run-ignored only -E 'test(many)'

## guards: each rule of the store switched off, as docs/guards.md has it: the checker, or the named test, must miss it
guards:
	$(CARGO) run --release --locked --package cell-models --features planted -- guards
	$(CARGO) nextest run --locked --package cell-model --features planted -E 'test(planted_rules)'

## models: each rule of the store switched off, and the model checker's long run
models: guards
	$(CARGO) run --release --locked --package cell-models -- long
