# Short names for what CMake presets and scripts/setup.sh do. `make` alone lists them.

# How long each fuzz target runs, and where `make install` puts things.
FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=
PREFIX ?= /usr/local
# More flags, e.g. CTEST_ARGS='-R gguf', RUN_ARGS='--threads 1'.
CTEST_ARGS ?=
RUN_ARGS ?=
BENCH_ARGS ?=
# `make lint` looks at what changed since this commit, uncommitted changes included.
LINT_BASE ?= HEAD~1
TRAIN_ARGS ?=
# Where `make train-default` puts what it trains.
WEIGHTS ?= weights

sources = $$(find src include tests examples scripts -name '*.cpp' -o -name '*.h')
fuzz_targets = $(basename $(notdir $(wildcard tests/fuzz/fuzz_*.cpp)))
asan_folders = core text memory model compress server
build = cmake --preset $(1) --log-level=WARNING && cmake --build --preset $(1)
# ThreadSanitizer fails where a kernel spreads memory too widely, so ask for a fixed layout.
fixed_layout = $(shell setarch -R true 2>/dev/null && echo setarch -R)

default_model = $$(scripts/setup.sh where model)
default_sidecar = $$(basename "$(default_model)" .gguf).evict
train = build/release/palimpsest train
train_on = -m "$(default_model)" -d $(WEIGHTS)/train.jsonl --save-every 50
# A training that was interrupted goes on; one that is whole is not done again.
resumed = $$([ ! -e "$(WEIGHTS)/$(1).checkpoint" ] || echo --resume)

.DEFAULT_GOAL := help
.NOTPARALLEL:
# Where scripts/plain_text.py puts texts.
training_texts = $$(scripts/setup.sh where cache)/training-texts
.PHONY: help run test test-clients test-python setup program release lint lint-all format fuzz asan asan-unit tsan bench train-default \
  install dist test-dist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s%s\n", $$1, $$2 }' Makefile

run: program ## set up, build the program, ask a model about a document, and check its answer
	@scripts/run_demo.sh $(RUN_ARGS)

test: release ## set up, build, and run all tests
	@ctest --preset release $(CTEST_ARGS)

setup: ## bring what the build needs: packages, ggml and libllama, the model
	@scripts/setup.sh

program: setup ## set up and build the program alone, in build/release
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release --target palimpsest_cli_program

release: setup ## set up and build everything, in build/release
	@$(call build,release)

lint: ## check the formatting, and what changed since LINT_BASE under clang-tidy
	@scripts/setup.sh lint
	@scripts/lint.sh format
	@scripts/lint.sh tidy "$(LINT_BASE)"

lint-all: ## the same for every file; an hour on two cores
	@scripts/setup.sh lint
	@scripts/lint.sh format
	@scripts/lint.sh tidy all

format: ## rewrite the sources as clang-format likes them
	@scripts/setup.sh lint
	@clang-format -i $(sources)

fuzz: setup ## run each fuzz target for FUZZ_SECONDS; finds go to build/fuzz-found
	@scripts/setup.sh fuzz
	@$(call build,asan) --target $(fuzz_targets)
	@mkdir -p build/fuzz-found
	@for target in $(fuzz_targets); do \
	  name=$${target#fuzz_}; seeds=tests/fuzz/corpus/$$name; corpus=build/fuzz-corpus/$$name; \
	  mkdir -p $$corpus; [ ! -d $$seeds ] || cp -R $$seeds/. $$corpus/; \
	  echo "fuzz: $$name, $(FUZZ_SECONDS) s"; \
	  build/asan/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=25 -print_final_stats=1 $(FUZZ_ARGS) \
	    -artifact_prefix=build/fuzz-found/$$name- $$corpus || exit 1; \
	done

asan: setup ## run the tests under the address and undefined-behaviour sanitizers
	@scripts/setup.sh fuzz
	@$(call build,asan)
	@ctest --preset asan $(CTEST_ARGS)

asan-unit: setup ## the same for the unit tests of core, text, memory, model, compress and server
	@scripts/setup.sh fuzz
	@$(call build,asan) --target $(addsuffix _test,$(asan_folders))
	@export GOMP_SPINCOUNT=2000; for f in $(asan_folders); do echo "asan: $$f" && build/asan/tests/$${f}_test --gtest_brief=1 \
	  --gtest_filter=-*Real* || exit 1; done

test-clients: release ## try real clients and a browser with the server, where they can be had
	@scripts/test_clients.sh

tsan: setup ## run the tests under the thread sanitizer
	@$(call build,tsan)
	@$(fixed_layout) ctest --preset tsan $(CTEST_ARGS)

test-python: release ## build and test the Python package, where its packages can be had
	@scripts/test_python.sh

bench: release ## measure speed against libllama
	@build/release/palimpsest bench speed --peer llama \
	  -m "$$(scripts/setup.sh where model)" $(BENCH_ARGS)

train-default: release ## train what forgets for the default model, into WEIGHTS; over an hour
	@mkdir -p $(WEIGHTS)
	@scripts/plain_text.py "$(training_texts)"
	@[ -e $(WEIGHTS)/train.jsonl ] || build/release/palimpsest train-data \
	  -o $(WEIGHTS)/train.jsonl --texts "$(training_texts)"
	@$(train) gate $(train_on) -o $(WEIGHTS)/gate.gguf --length 2048 --steps 1000 --warm-up 60 \
	  --batch 32 --pool 20 --read-every 10 --held-out 5 --learning-rate 2e-3 \
	  $(call resumed,gate) $(TRAIN_ARGS)
	@$(train) indexer $(train_on) -o $(WEIGHTS)/indexer.gguf --sidecar $(WEIGHTS)/gate.gguf \
	  --length 512 --steps 200 --warm-up 20 --pool 16 --batch 6 --read-every 10 --held-out 2 \
	  --learning-rate 2e-3 $(call resumed,indexer) $(TRAIN_ARGS)
	@$(train) latent $(train_on) -o $(WEIGHTS)/$(default_sidecar).gguf --sidecar $(WEIGHTS)/indexer.gguf \
	  --length 2048 --steps 300 --warm-up 20 --pool 12 --batch 4 --read-every 10 --held-out 4 \
	  --examine-every 50 --learning-rate 5e-3 \
	  $(call resumed,$(default_sidecar)) $(TRAIN_ARGS)

install: ## install the program and the library into PREFIX, after `make release`
	@[ -x build/release/palimpsest ] || { echo "install: run 'make release' first" >&2; exit 1; }
	@cmake --install build/release --prefix $(PREFIX)

dist: release ## make a tarball, a Debian package and a Python wheel for any x86-64-v2 machine, in build/dist
	@scripts/setup.sh dist
	@scripts/dist.sh build/dist

test-dist: ## try what `make dist` made in a fresh Debian, as root with debootstrap
	@scripts/test_dist.sh build/dist

clean: ## delete build/; downloads and ggml stay in the cache
	@rm -rf build
