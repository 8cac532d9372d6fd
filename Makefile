# swift-pccl. `make help` lists the targets. What is built for use lies in dist/, what is built on the way in .build/.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
# SwiftPM uses all cores by itself, allows one build at a time in a folder, and the tests want the machine to themselves.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
# A file of C beside a folder of its name would be made a program of.
MAKEFLAGS += --no-builtin-rules

DIST := dist

# ---------------------------------------------------------------------------------------------------------------------
##@ Use it

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: bootstrap
bootstrap: ## install what this machine lacks for building (quick when there is nothing to do)
	@scripts/bootstrap --quiet

.PHONY: demo
demo: lib ## train a classifier in four processes, while one is killed and another joins
	@$(DIST)/bin/pccl demo $(DEMO_OPTIONS)

.PHONY: example
example: lib ## train a small GPT in seven ways, while peers are killed and join; fetches PyTorch; up to 30 minutes
	@bash bindings/python/run-example.sh $(DIST) $(EXAMPLE_OPTIONS)

# ---------------------------------------------------------------------------------------------------------------------
##@ Build and install

# The library brings its own copy of the Swift runtime, and shows nothing of it: see scripts/libpccl.map. The linker is
# named because gold, the default, leaves Swift metadata symbols in the table although the map hides them.
# Both builds share one scratch folder, away from that of `swift test`, which would rebuild all with other options.
swift_options := --configuration release --scratch-path .build/dist --explicit-target-dependency-import-check error \
    -Xswiftc -static-stdlib -Xswiftc -use-ld=lld
library_linking := -Xlinker --exclude-libs=ALL -Xlinker --version-script=$(CURDIR)/scripts/libpccl.map \
    -Xlinker -soname=libpccl.so

# Folders are named too: their date tells of a file that is gone.
manifest := Package.swift Makefile scripts/libpccl.map
all_sources := $(shell find Sources include)
library_sources := $(filter-out Sources Sources/pccl Sources/pccl/% Sources/pccl-master Sources/pccl-master/% \
    Sources/PCCLSimulator Sources/PCCLSimulator/% Sources/DigitsTraining Sources/DigitsTraining/% \
    Sources/WANLab Sources/WANLab/%,$(all_sources))

library := $(DIST)/lib/libpccl.so
tools := $(DIST)/bin/pccl $(DIST)/bin/pccl-master
headers := $(patsubst include/%,$(DIST)/include/%,$(wildcard include/*.h)) $(DIST)/include/pccl.hpp
bench_files := $(patsubst scripts/bench/%,$(DIST)/share/pccl/bench/%,$(wildcard scripts/bench/*))
cmake_files := $(addprefix $(DIST)/lib/cmake/pccl/,pccl-config.cmake pccl-config-version.cmake)
extras := $(DIST)/lib/pkgconfig/pccl.pc $(cmake_files) $(DIST)/share/pccl/digits.csv $(bench_files)

.PHONY: lib
lib: $(library) $(tools) $(headers) $(extras) ## build the library, its headers and the tools into dist/
	@echo "$(DIST)/: up to date"

# A file is put in place in one move, so that a program which runs from it is not pulled from under its feet.
$(library): $(library_sources) $(manifest) | bootstrap
	@echo "building $@"
	@swift build $(swift_options) $(library_linking) --product PCCLABI
	@mkdir -p $(@D)
	@strip --strip-all -o $@.new "$$(swift build $(swift_options) --show-bin-path)/libPCCLABI.so"
	@mv -f $@.new $@

# The tools keep their symbols: without them a report of a crash says nothing.
$(tools): $(all_sources) $(manifest) | bootstrap
	@echo "building $@"
	@swift build $(swift_options) --product $(@F)
	@mkdir -p $(@D)
	@strip --strip-debug -o $@.new "$$(swift build $(swift_options) --show-bin-path)/$(@F)"
	@mv -f $@.new $@

$(DIST)/include/%.h: include/%.h
	@install -D -m 644 $< $@

$(DIST)/include/pccl.hpp: bindings/cpp/pccl.hpp
	@install -D -m 644 $< $@

$(DIST)/lib/pkgconfig/pccl.pc: scripts/pccl.pc.in Makefile
	@mkdir -p $(@D)
	@sed 's/@VERSION@/$(VERSION)/' $< > $@

$(DIST)/lib/cmake/pccl/pccl-config.cmake: scripts/pccl-config.cmake
	@install -D -m 644 $< $@

$(DIST)/lib/cmake/pccl/pccl-config-version.cmake: scripts/pccl-config-version.cmake.in Makefile
	@mkdir -p $(@D)
	@sed 's/@VERSION@/$(VERSION)/' $< > $@

$(DIST)/share/pccl/digits.csv: Tests/Data/digits/digits.csv
	@install -D -m 644 $< $@

$(DIST)/share/pccl/bench/%: scripts/bench/%
	@install -D -m 644 $< $@

.PHONY: install
install: lib ## copy it to PREFIX (/usr/local), below DESTDIR if given
	@set -e; root="$(DESTDIR)$(PREFIX)"; \
	for file in $(patsubst $(DIST)/%,%,$(headers) $(extras)); do install -D -m 644 $(DIST)/$$file "$$root/$$file"; done; \
	for file in $(patsubst $(DIST)/%,%,$(library) $(tools)); do install -D -m 755 $(DIST)/$$file "$$root/$$file"; done; \
	echo "installed under $$root"; \
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" -eq 0 ] && ldconfig -v 2>/dev/null | grep -q "^$(PREFIX)/lib:"; then \
	    ldconfig; \
	fi

.PHONY: deb
deb: lib ## Debian packages of it, in dist/deb (`scripts/bootstrap --packages` gets what that needs)
	@scripts/make-deb $(DIST)

.PHONY: wheel
wheel: lib ## a Python wheel with all that it needs and a master, in dist/wheel; fetches auditwheel from PyPI
	@scripts/make-wheel $(DIST)

.PHONY: clean
clean: ## remove all that was built
	@rm -rf .build $(DIST)

# ---------------------------------------------------------------------------------------------------------------------
##@ Test

stages := unit simulator abi arm device end-to-end install python bindings torch stress demo chaos

# Fixed seeds, the same on each machine, and then some that nobody tried before; each is printed if it fails.
SCHEDULES ?= 50000
FRESH_SECONDS ?= 60

# A stage that hangs is a stage that failed. Where somebody sits before it, Ctrl-C must still reach what runs inside.
STAGE_SECONDS ?= 600
limited := timeout $(shell test -t 0 && echo --foreground) --kill-after=10 $(STAGE_SECONDS)

# All tests at once would wait for each other behind a thread for each core, and their time limits would run meanwhile.
# By lines, so that a stage that hangs has said in which test.
few_at_once = --experimental-maximum-parallelization-width $$(nproc)

# $(call stage,NAME,COMMANDS): a heading, the commands up to the first that fails, and the seconds they took.
stage = @echo "== $(1)"; started=$$SECONDS; (set -e; $(2)); status=$$?; \
    echo "-- $(1): $$([ $$status = 0 ] && echo passed || echo FAILED), $$((SECONDS - started)) s"; exit $$status

.PHONY: test
test: ## all of the stages below; the last line counts them
	@started=$$SECONDS; passed=0; failed=; \
	for stage in $(stages); do \
	    if $(MAKE) test-$$stage; then passed=$$((passed + 1)); else failed="$$failed $$stage"; fi; \
	    echo; \
	done; \
	[ -z "$$failed" ] || echo "failed:$$failed (each can be run alone: make test-NAME)"; \
	echo "all stages: $$((SECONDS - started)) s"; \
	echo "$$passed passed, $$(set -- $$failed; echo $$#) failed"; \
	[ -z "$$failed" ]

# Buffers of a device want a driver, or what stands in for one, and all other tests a process without: so they run apart.
stand_in := .build/stand-in/libcuda.so

.PHONY: test-unit
test-unit: bootstrap ## everything that runs inside one process: rooms, transcripts, loopback
	$(call stage,unit tests, \
	    swift build --build-tests --explicit-target-dependency-import-check error; \
	    $(limited) stdbuf -oL swift test --skip-build --disable-xctest $(few_at_once) \
	        --explicit-target-dependency-import-check error; \
	    mkdir -p $(dir $(stand_in)); sh Tests/FakeCUDA/build.sh $(stand_in); set -o pipefail; \
	    PCCL_LIBCUDA=$(CURDIR)/$(stand_in) FAKE_CUDA_DEVICES=2 PCCL_DEVICE_ROUND=64 PCCL_DEVICE_PIECE=16 $(limited) \
	        stdbuf -oL swift test --no-parallel --skip-build --disable-xctest --filter '^PCCLTests\.Device(Buffer|Window|Piece)Tests' | tee $(dir $(stand_in))output; \
	    grep -qE "with [1-9][0-9]* tests? .*passed" $(dir $(stand_in))output)

.PHONY: test-simulator
test-simulator: lib ## SCHEDULES (50000) simulated runs with fixed seeds and FRESH_SECONDS (60) of fresh ones
	$(call stage,simulator, \
	    $(limited) $(DIST)/bin/pccl simulate --schedules $(SCHEDULES) --seed-base 1; \
	    $(limited) $(DIST)/bin/pccl simulate --time $(FRESH_SECONDS) --fresh)

.PHONY: test-abi
test-abi: lib ## the C header and the library against it: C99, C++, layout, every function
	$(call stage,ABI, $(limited) sh Tests/ABITests/run.sh $(DIST))

.PHONY: test-arm
test-arm: bootstrap ## the kernels on aarch64, in an emulator: the same bits, in vectors (`scripts/bootstrap --arm` gets it)
	$(call stage,aarch64, $(limited) bash Tests/KernelTests/run.sh)

.PHONY: test-device
test-device: lib ## the kernels of GPUs in an interpreter: the bits of the processor, and MUTANTS (60) that must be noticed
	$(call stage,device kernels, $(limited) bash Tests/DeviceTests/run.sh $(or $(MUTANTS),60))

.PHONY: test-end-to-end
test-end-to-end: lib ## real processes: killed, leaving, joining, without a master
	$(call stage,end to end, $(limited) bash Tests/EndToEndTests/run.sh $(DIST))

.PHONY: test-install
test-install: lib ## the C example, built through pkg-config against an installed tree; two peers of it
	$(call stage,install, $(limited) scripts/test-install)

.PHONY: test-python
test-python: lib ## the Python package, in an environment of its own
	$(call stage,Python, $(limited) bash bindings/python/run-tests.sh)

.PHONY: test-bindings
test-bindings: lib ## C++, and Rust and Go where they are (`scripts/bootstrap --bindings` gets them)
	$(call stage,other bindings, $(limited) bash bindings/run-tests.sh $(DIST))

# What needs torch, in an environment of its own: without it the package must work as well.
.PHONY: test-torch
test-torch: lib ## the same with torch, as far as it needs that: DiLoCo, the torch.distributed backend, tensors
	$(call stage,torch, $(limited) bash bindings/python/run-tests.sh $(DIST) --torch -q -k "torch or distributed or diloco or gpt")

.PHONY: test-stress
test-stress: lib ## STRESS_SECONDS (30) of Python peers that train, share their state, are killed and join
	$(call stage,stress, $(limited) sh Tests/Stress/run.sh $(DIST) $(or $(STRESS_SECONDS),30))

.PHONY: test-demo
test-demo: lib ## the demo, and what its last line says
	$(call stage,demo, set -o pipefail; \
	    $(limited) $(DIST)/bin/pccl demo --no-color | tee .build/demo.log; \
	    tail -n 1 .build/demo.log | grep -qE '^demo: ok world=4 joined=1 killed=1 steps=[0-9]+ .* identical=yes$$')

.PHONY: test-chaos
test-chaos: lib ## CHAOS_SECONDS (60) of random faults to real peers; stalls are shown and not judged
	$(call stage,chaos, $(limited) $(DIST)/bin/pccl chaos --time $(or $(CHAOS_SECONDS),60) --tolerant)

# Not among the stages: they need root and a mirror of Debian.
.PHONY: test-deb
test-deb: deb ## the Debian packages in a clean Debian 12, with a service that is killed and upgraded; 1-2 minutes
	$(call stage,Debian packages, $(limited) scripts/test-deb $(DIST))

.PHONY: test-wheel
test-wheel: wheel ## the Python wheel in a clean Debian 12 that has nothing but Python; half a minute
	$(call stage,Python wheel, $(limited) scripts/test-wheel $(DIST))

# ---------------------------------------------------------------------------------------------------------------------
##@ Look closer

.PHONY: coverage
coverage: ## what of the two machines the simulator reaches, line by line; RUNS=6000
	@scripts/coverage $(or $(RUNS),6000)

.PHONY: simulate
simulate: lib ## simulated runs with fresh seeds; RUNS=1000000 for a night
	@$(DIST)/bin/pccl simulate --schedules $(or $(RUNS),100000) --fresh

.PHONY: fuzz
fuzz: bootstrap ## libFuzzer on all that comes from a remote or from disk, FUZZ_SECONDS (600) for each target
	@Tests/Fuzz/run.sh $(or $(FUZZ_SECONDS),600) $(FUZZ_TARGETS)

.PHONY: chaos
chaos: lib ## CHAOS_SECONDS (300) of random faults to real peers, stalls judged; as root with faults of links
	@$(DIST)/bin/pccl chaos --time $(or $(CHAOS_SECONDS),300) $(CHAOS_OPTIONS)

.PHONY: stress
stress: lib ## STRESS_SECONDS (1800) of the same
	@sh Tests/Stress/run.sh $(DIST) $(or $(STRESS_SECONDS),1800)

# The rooms with threads. One test after the other: a sanitized test keeps all cores busy by itself, and side by side
# they took twice as long and exceeded their time limits. The kernels are left plain, so that the sanitizer sees every
# access they make.
sanitized := PCCLRecorderTests PCCLTransportTests PCCLEngineTests PCCLSessionTests PCCLTests PCCLMasterTests

define sanitize
	@set -e -o pipefail; export PCCL_PLAIN_KERNELS=1; \
	swift build --build-tests --sanitize=$(1) --scratch-path .build/$(1); \
	for room in $(sanitized); do \
	    echo "== $$room under the $(1) sanitizer"; \
	    swift test --skip-build --disable-xctest --sanitize=$(1) --scratch-path .build/$(1) \
	        --no-parallel --filter "^$$room\." | tee .build/$(1)/output; \
	    grep -qE "with [1-9][0-9]* tests? .*passed" .build/$(1)/output || { echo "no tests in $$room" >&2; exit 1; }; \
	done
endef

.PHONY: sanitize-thread
sanitize-thread: bootstrap ## the tests of transport, engine, session, PCCL and the master under the thread sanitizer
	$(call sanitize,thread)

.PHONY: sanitize-address
sanitize-address: bootstrap ## the same tests under the address sanitizer
	$(call sanitize,address)

swift_paths := Package.swift Sources Tests
c_files = $(shell find Sources Tests include docs scripts bindings -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.cu')
shell_scripts = $(addprefix scripts/,bootstrap debian-root test-install test-deb test-wheel) \
    $(wildcard scripts/make-* scripts/deb/*.p*) scripts/device-kernels .ci/run $(shell find Tests bindings -name '*.sh') \
    scripts/deploy/torchrun.sh $(wildcard scripts/deploy/slurm/*)

.PHONY: lint
lint: ## formatting and shell syntax (`scripts/bootstrap --lint` gets what it needs); changes nothing
	@swift format lint --strict --recursive --parallel $(swift_paths)
	@if command -v clang-format >/dev/null; then clang-format --dry-run -Werror $(c_files); \
	    else echo "lint: no clang-format here, so C is not checked; scripts/bootstrap --lint installs it"; fi
	@for script in $(shell_scripts); do bash -n $$script || exit 1; done
	@scripts/device-kernels --check
	@echo "lint: ok"

.PHONY: format
format: ## put Swift and C into the house's form
	@swift format --in-place --recursive --parallel $(swift_paths)
	@if command -v clang-format >/dev/null; then clang-format -i $(c_files); fi
