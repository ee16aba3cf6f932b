# SPDX-License-Identifier: GPL-2.0-or-later
# The commands of the tree; meson and ninja do the work. BUILD=folder chooses the build folder.
BUILD ?= build
GUEST ?= userland
RUN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_SECONDS ?= 60
ROUNDS ?= 60
, := ,

all: build

help:
	@echo 'make                build everything into $(BUILD)/'
	@echo 'make run            Debian 12 on this terminal, by the daemon (RUN_ARGS="--cpus 2 --memory 2G ..."; see bedplate run --help)'
	@echo 'make boot           a guest by bedplate-vmm alone (GUEST=userland: Debian, small: busybox; RUN_ARGS: its options)'
	@echo 'make test           run every test; TEST_ARGS="NAME ..." for some'
	@echo 'make test-long      those that take minutes too'
	@echo 'make test-sanitize  the unit tests under the sanitizers of clang'
	@echo 'make test-tsan      what runs in several threads under the thread sanitizer of clang'
	@echo 'make powercuts      cut the power of disk images a million times; ROUNDS=600: ten million'
	@echo 'make fuzz           fuzz one parser: FUZZ=json FUZZ_SECONDS=60'
	@echo 'make bench          compare speeds with QEMU (BENCH_ARGS="--run alu_mix,fork_exec ...")'
	@echo 'make install        install (DESTDIR=... for packagers)'
	@echo 'make format         lay out the sources with clang-format'
	@echo 'make clean          remove $(BUILD)/'

packages:
	@tools/install-packages.sh

$(BUILD)/build.ninja: | packages
	@echo '== configuring $(BUILD)'
	@meson setup $(BUILD) >$(BUILD)-setup.log 2>&1 || { cat $(BUILD)-setup.log; rm -f $(BUILD)-setup.log; exit 1; }
	@rm -f $(BUILD)-setup.log

build: packages $(BUILD)/build.ninja
	@echo '== building'
	@ninja -C $(BUILD)

# The whole tree takes longer to build than what runs a VM.
programs: packages $(BUILD)/build.ninja
	@echo '== building'
	@ninja -C $(BUILD) programs

run: programs
	@tools/run-debian.sh $(BUILD) $(RUN_ARGS)

# Status 7: ended by Ctrl-A X.
boot: programs
	@tools/run-guest.sh $(BUILD) $(GUEST) $(RUN_ARGS) || [ $$? = 7 ]

test: packages
	@tests/run --build $(BUILD) $(TEST_ARGS)

test-long: packages
	@tests/run --build $(BUILD) --long $(TEST_ARGS)

# $(call sanitized,FOLDER,SANITIZERS): a build folder of that kind.
sanitized = [ -e $(1)/build.ninja ] || CC="ccache clang" meson setup $(1) -Db_sanitize=$(2) -Db_lundef=false

test-sanitize: packages
	@$(call sanitized,build-sanitize,address$(,)undefined)
	@tests/run --build build-sanitize --unit $(TEST_ARGS)

# Where threads meet: loops, machine, virtio, block, the engine's protocols, the VMM. docs/threads.md says what is seen.
THREADED := loop_test log_test bus_test clock_test dma_test irq_test machine_test map_test gate_test lapic_test \
    block_test uring_test live_test throttle_test virtio_balloon_test virtio_blk_queues_test virtio_blk_test \
    virtio_console_test virtio_gpu_test virtio_input_test virtio_net_test virtio_pci_test virtio_rng_test virtqueue_test \
    guests_soft guests_soft_jit_off moves_copy_soft moves_copy_user jit_litmus_race_jit_off jit_litmus_race_hot_16 \
    jit_litmus_loop_hot_16 jit_litmus_flush_jit_off_code_128K jit_litmus_flush_hot_16_code_256K \
    vmm_control vmm_save vmm_streams vmm_gdb hostile
test-tsan: packages
	@$(call sanitized,build-tsan,thread)
	@tests/run --build build-tsan --unit --needed $(or $(TEST_ARGS),$(THREADED))

powercuts: build
	@$(BUILD)/src/block/powercut_test $(ROUNDS) $$(date +%s)

fuzz: packages
	@[ -n "$(FUZZ)" ] || { echo 'which? FUZZ=json'; exit 2; }
	@tools/fuzz.sh $(FUZZ) $(FUZZ_SECONDS)

bench: build
	@bench/run $(BUILD) $(BENCH_ARGS)

install: build
	@meson install -C $(BUILD) --no-rebuild

format:
	@find src tests bench -name '*.[ch]' -print0 | xargs -0 clang-format -i

clean:
	rm -rf $(BUILD)

.PHONY: all help packages build programs run boot test test-long test-sanitize test-tsan powercuts fuzz bench install format clean
