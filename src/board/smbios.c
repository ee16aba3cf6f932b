/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SMBIOS 3.3 (DSP0134): 64-bit entry point and structures 0, 1, 2, 3, 4, 16, 17, 19, 32 and 127.
 *
 * A structure is a formatted part, then its strings, each ended by a zero, then one more zero (two
 * if it has no strings). Handles: type << 8 | number.
 */
#include "board/smbios.h"

#include <assert.h>
#include <string.h>

enum { ENTRY_SIZE = 24, ENTRY_CHECKSUM = 5, STRINGS_MAX = 6 };
enum {
    BIOS = 0,
    SYSTEM = 1,
    BASEBOARD = 2,
    CHASSIS = 3,
    PROCESSOR = 4,
    MEMORY_ARRAY = 16,
    MEMORY_DEVICE = 17,
    MEMORY_ARRAY_ADDRESS = 19,
    BOOT = 32,
    END = 127
};
enum { OTHER = 1, UNKNOWN = 2, SAFE = 3 };
#define VENDOR "Bedplate"

struct structure {
    struct buf *buf;
    size_t at;
    const char *strings[STRINGS_MAX];
    unsigned count;
};

static void put(struct structure *s, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        buf_add(s->buf, &(uint8_t){ (uint8_t)(value >> 8 * i) }, 1);
}

static struct structure begin(struct buf *buf, unsigned type, unsigned number)
{
    struct structure s = { .buf = buf, .at = buf->len };
    put(&s, type, 1);
    put(&s, 0, 1); /* length */
    put(&s, type << 8 | number, 2);
    return s;
}

/* The number of the string, which is appended at the end; 0 stands for none. */
static void put_string(struct structure *s, const char *text)
{
    if (text && *text) {
        assert(s->count < STRINGS_MAX);
        s->strings[s->count++] = text;
        put(s, s->count, 1);
    } else {
        put(s, 0, 1);
    }
}

static void end(struct structure *s)
{
    s->buf->data[s->at + 1] = (uint8_t)(s->buf->len - s->at);
    for (unsigned i = 0; i < s->count; i++)
        buf_add(s->buf, s->strings[i], strlen(s->strings[i]) + 1);
    put(s, 0, s->count ? 1 : 2);
}

static void add_bios(struct buf *buf)
{
    struct structure s = begin(buf, BIOS, 0);
    put_string(&s, VENDOR);
    put_string(&s, BEDPLATE_VERSION);
    put(&s, 0xf000, 2);
    put_string(&s, "01/01/2026");
    put(&s, 0, 1);
    put(&s, 1 << 3, 8);     /* characteristics are not supported */
    put(&s, 1 << 0, 1);     /* ACPI */
    put(&s, 1 << 4, 1);     /* a virtual machine */
    put(&s, 0xffffffff, 4); /* no releases of BIOS and embedded controller */
    put(&s, 0, 2);
    end(&s);
}

static void add_system(struct buf *buf, const struct smbios_config *config)
{
    struct structure s = begin(buf, SYSTEM, 0);
    const uint8_t *u = config->uuid;
    put_string(&s, VENDOR);
    put_string(&s, "Bedplate VM");
    put_string(&s, config->profile);
    put_string(&s, config->serial);
    /* The first three fields of a UUID are little-endian here. */
    const uint8_t uuid[16] = { u[3], u[2], u[1],  u[0],  u[5],  u[4],  u[7],  u[6],
                               u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15] };
    buf_add(buf, uuid, sizeof uuid);
    put(&s, 6, 1); /* woken by the power switch */
    put_string(&s, NULL);
    put_string(&s, "Virtual Machine");
    end(&s);
}

static void add_baseboard(struct buf *buf, const struct smbios_config *config)
{
    struct structure s = begin(buf, BASEBOARD, 0);
    put_string(&s, VENDOR);
    put_string(&s, "Bedplate board");
    put_string(&s, config->profile);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put(&s, 1, 1); /* hosting board */
    put_string(&s, NULL);
    put(&s, CHASSIS << 8, 2);
    put(&s, 0x0a, 1); /* motherboard */
    put(&s, 0, 1);
    end(&s);
}

static void add_chassis(struct buf *buf, const struct smbios_config *config)
{
    struct structure s = begin(buf, CHASSIS, 0);
    put_string(&s, VENDOR);
    put(&s, OTHER, 1);
    put_string(&s, config->profile);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put(&s, SAFE, 1); /* boot-up, power supply, thermal state */
    put(&s, SAFE, 1);
    put(&s, SAFE, 1);
    put(&s, UNKNOWN, 1);
    put(&s, 0, 4);
    put(&s, 0, 2); /* height, power cords */
    put(&s, 0, 2); /* no contained elements */
    put_string(&s, NULL);
    end(&s);
}

/* One socket holds all the CPUs, as CPUID says. */
static void add_processor(struct buf *buf, const struct smbios_config *config)
{
    struct structure s = begin(buf, PROCESSOR, 0);
    put_string(&s, "CPU 0");
    put(&s, 3, 1); /* central processor */
    put(&s, OTHER, 1);
    put_string(&s, VENDOR);
    put(&s, 0, 8);
    put_string(&s, config->profile);
    put(&s, 0, 1);
    put(&s, 0, 2);
    put(&s, 2000, 2); /* MHz, nominal */
    put(&s, 2000, 2);
    put(&s, 0x41, 1); /* populated, enabled */
    put(&s, OTHER, 1);
    put(&s, 0xffff, 2); /* caches: unknown */
    put(&s, 0xffff, 2);
    put(&s, 0xffff, 2);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put(&s, config->cpus, 1); /* cores, enabled, threads; 255 means: see below */
    put(&s, config->cpus, 1);
    put(&s, config->cpus, 1);
    put(&s, 1 << 2, 2); /* 64-bit */
    put(&s, OTHER, 2);
    put(&s, config->cpus, 2);
    put(&s, config->cpus, 2);
    put(&s, config->cpus, 2);
    end(&s);
}

static void add_memory(struct buf *buf, const struct smbios_config *config)
{
    uint64_t kib = config->memory >> 10, mib = config->memory >> 20;
    struct structure s = begin(buf, MEMORY_ARRAY, 0);
    put(&s, OTHER, 1);
    put(&s, 3, 1); /* system memory */
    put(&s, 6, 1); /* multi-bit ECC */
    put(&s, kib < 0x80000000 ? kib : 0x80000000, 4);
    put(&s, 0xfffe, 2); /* no error information */
    put(&s, 1, 2);
    put(&s, kib < 0x80000000 ? 0 : config->memory, 8);
    end(&s);

    s = begin(buf, MEMORY_DEVICE, 0);
    put(&s, MEMORY_ARRAY << 8, 2);
    put(&s, 0xfffe, 2);
    put(&s, 64, 2);
    put(&s, 64, 2);
    put(&s, mib < 0x7fff ? mib : 0x7fff, 2);
    put(&s, 9, 1); /* DIMM */
    put(&s, 0, 1);
    put_string(&s, "DIMM 0");
    put_string(&s, NULL);
    put(&s, 7, 1); /* RAM */
    put(&s, 1 << 1, 2);
    put(&s, 0, 2);
    put_string(&s, VENDOR);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put_string(&s, NULL);
    put(&s, 0, 1);
    put(&s, mib < 0x7fff ? 0 : mib, 4);
    put(&s, 0, 2);
    put(&s, 0, 6); /* voltages: unknown */
    end(&s);
}

static void add_memory_address(struct buf *buf, unsigned number, uint64_t start, uint64_t len)
{
    struct structure s = begin(buf, MEMORY_ARRAY_ADDRESS, number);
    bool wide = start + len > 1ull << 32;
    put(&s, wide ? 0xffffffff : start >> 10, 4);
    put(&s, wide ? 0xffffffff : (start + len - 1) >> 10, 4);
    put(&s, MEMORY_ARRAY << 8, 2);
    put(&s, 1, 1);
    put(&s, wide ? start : 0, 8);
    put(&s, wide ? start + len - 1 : 0, 8);
    end(&s);
}

static void add_boot_and_end(struct buf *buf)
{
    struct structure s = begin(buf, BOOT, 0);
    put(&s, 0, 6);
    put(&s, 0, 1); /* no errors detected */
    end(&s);
    s = begin(buf, END, 0);
    end(&s);
}

static void fill_entry(uint8_t *at, uint32_t structures, size_t len)
{
    uint8_t sum = 0;
    memcpy(at, "_SM3_", 5);
    at[6] = ENTRY_SIZE;
    at[7] = 3; /* version 3.3.0 */
    at[8] = 3;
    at[10] = 1;
    for (unsigned i = 0; i < 4; i++) {
        at[12 + i] = (uint8_t)(len >> 8 * i);
        at[16 + i] = (uint8_t)(structures >> 8 * i);
    }
    for (unsigned i = 0; i < ENTRY_SIZE; i++)
        sum += at[i];
    at[ENTRY_CHECKSUM] = (uint8_t)-sum;
}

void smbios_build(const struct smbios_config *config, uint32_t gpa, struct buf *out)
{
    enum { STRUCTURES = 32 };
    assert(!out->len && gpa % 16 == 0);
    buf_grow(out, STRUCTURES);
    add_bios(out);
    add_system(out, config);
    add_baseboard(out, config);
    add_chassis(out, config);
    add_processor(out, config);
    add_memory(out, config);
    add_memory_address(out, 0, 0, config->low_memory);
    if (config->memory > config->low_memory)
        add_memory_address(out, 1, 1ull << 32, config->memory - config->low_memory);
    add_boot_and_end(out);
    fill_entry(out->data, gpa + STRUCTURES, out->len - STRUCTURES);
}
