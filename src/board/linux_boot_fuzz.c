/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any bytes as a kernel, in a small memory. The first byte chooses whether there is an initrd;
 * pages behind the memory are not there, so that a write beyond its end is seen.
 */
#include "board/linux_boot.h"

#include "base/text.h"
#include "board/layout.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { RAM_SIZE = 4 << 20, GUARD = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static uint8_t *ram;
    static int kernel = -1, initrd = -1;
    struct boot_entry entry = { 0 };
    struct err err = { 0 };

    if (!ram) {
        ram = mmap(NULL, RAM_SIZE + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        kernel = memfd_create("kernel", MFD_CLOEXEC);
        initrd = memfd_create("initrd", MFD_CLOEXEC);
        if (ram == MAP_FAILED || mprotect(ram, RAM_SIZE, PROT_READ | PROT_WRITE) < 0 ||
            kernel < 0 || initrd < 0 || ftruncate(initrd, 5000) < 0)
            abort();
    }
    if (!len)
        return 0;
    if (ftruncate(kernel, 0) < 0 || pwrite_full(kernel, data + 1, len - 1, 0) < 0)
        abort();
    const struct boot_request request = {
        .kernel_fd = kernel,
        .initrd_fd = data[0] & 1 ? initrd : -1,
        .kernel_name = "kernel",
        .initrd_name = "initrd",
        .cmdline = "console=ttyS0",
        .ram = ram,
        .ram_size = RAM_SIZE,
        .rsdp = LAYOUT_ACPI,
        .memory = { { 0, RAM_SIZE, E820_RAM } },
        .memory_count = 1,
    };
    int r = linux_boot_load(&request, &entry, &err);
    /* Either an entry inside memory, or a sentence. */
    if (r == 0 ? entry.address < LAYOUT_KERNEL_MIN || entry.address >= RAM_SIZE : !err.text[0])
        abort();
    return 0;
}
