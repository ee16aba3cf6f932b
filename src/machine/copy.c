/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies to and from guest memory that survive a page that cannot be had: a truncated file, a host
 * out of memory, a failed page-fault server.
 *
 * Each instruction that touches guest memory has an entry in the section `copy_fixups`: its own
 * address and where to go on instead. The signal handler looks the faulting instruction up, puts
 * -EFAULT into RAX and continues there. Any other fault goes to the handler that was there before.
 */
#include "machine/memory.h"

#include "machine/priv.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

#ifndef __x86_64__
#error "copy.c needs its copy instructions written for this host"
#endif

struct copy_fixup {
    int32_t insn, resume; /* relative to the fields themselves */
};
extern const struct copy_fixup __start_copy_fixups[], __stop_copy_fixups[];

/* clang-format off */
#define FIXUP                                \
    ".pushsection copy_fixups, \"a\"\n"      \
    ".long 1b - .\n"                         \
    ".long 2b - .\n"                         \
    ".popsection\n"
/* `value` is an unsigned of the access's size; `r` stays 0 or becomes -EFAULT. */
#define LOAD(r, value, hva) \
    __asm__ volatile("1: mov %2, %1\n2:\n" FIXUP : "+a"(r), "=&r"(value) : "m"(*(hva)) : "memory")
#define STORE(r, value, hva) \
    __asm__ volatile("1: mov %1, (%2)\n2:\n" FIXUP : "+a"(r) : "r"(value), "r"(hva) : "memory")
/* clang-format on */

static struct sigaction old_segv, old_bus;

static bool copy_fixup_apply(ucontext_t *context)
{
    uintptr_t rip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    for (const struct copy_fixup *f = __start_copy_fixups; f < __stop_copy_fixups; f++) {
        if ((uintptr_t)&f->insn + (uintptr_t)(intptr_t)f->insn != rip)
            continue;
        context->uc_mcontext.gregs[REG_RAX] = -EFAULT;
        context->uc_mcontext.gregs[REG_RIP] =
            (greg_t)((uintptr_t)&f->resume + (uintptr_t)(intptr_t)f->resume);
        return true;
    }
    return false;
}

static void copy_fault(int signal, siginfo_t *info, void *context)
{
    if (copy_fixup_apply(context))
        return;
    const struct sigaction *old = signal == SIGBUS ? &old_bus : &old_segv;
    if (old->sa_flags & SA_SIGINFO)
        old->sa_sigaction(signal, info, context);
    else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
        old->sa_handler(signal);
    else
        sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL },
                  NULL); /* dies at the retry */
}

static void copy_install(int signal, struct sigaction *old)
{
    struct sigaction now,
        action = { .sa_sigaction = copy_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigemptyset(&action.sa_mask);
    sigaction(signal, NULL, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == copy_fault)
        return;
    *old = now;
    sigaction(signal, &action, NULL);
}

void copy_init(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    LOCKED(&lock);
    copy_install(SIGSEGV, &old_segv);
    copy_install(SIGBUS, &old_bus);
}

static bool copy_is_single(const void *hva, uint64_t len)
{
    return (len == 1 || len == 2 || len == 4 || len == 8) && !((uintptr_t)hva & (len - 1));
}

static int copy_bytes(void *to, const void *from, uint64_t len)
{
    int64_t r = 0;
    __asm__ volatile("1: rep movsb\n2:\n" FIXUP
                     : "+a"(r), "+D"(to), "+S"(from), "+c"(len)
                     :
                     : "memory");
    return (int)r;
}

int copy_from_hva(void *out, const void *hva, uint64_t len)
{
    if (!copy_is_single(hva, len))
        return copy_bytes(out, hva, len);

    int64_t r = 0;
    uint8_t v8 = 0;
    uint16_t v16 = 0;
    uint32_t v32 = 0;
    uint64_t v64 = 0;
    switch (len) {
    case 1: LOAD(r, v8, (const uint8_t *)hva); break;
    case 2: LOAD(r, v16, (const uint16_t *)hva); break;
    case 4: LOAD(r, v32, (const uint32_t *)hva); break;
    default: LOAD(r, v64, (const uint64_t *)hva); break;
    }
    if (r < 0)
        return (int)r;
    const void *value = len == 1   ? (void *)&v8
                        : len == 2 ? (void *)&v16
                        : len == 4 ? (void *)&v32
                                   : &v64;
    memcpy(out, value, len);
    return 0;
}

int copy_to_hva(void *hva, const void *data, uint64_t len)
{
    if (!copy_is_single(hva, len))
        return copy_bytes(hva, data, len);

    int64_t r = 0;
    uint64_t value = 0;
    memcpy(&value, data, len);
    switch (len) {
    case 1: STORE(r, (uint8_t)value, hva); break;
    case 2: STORE(r, (uint16_t)value, hva); break;
    case 4: STORE(r, (uint32_t)value, hva); break;
    default: STORE(r, value, hva); break;
    }
    return (int)r;
}
