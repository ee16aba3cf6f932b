/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lock of "open, lock down, run".
 *
 * Layers, each used where the host allows it: no new privileges, no capabilities, Landlock (no path
 * can be opened), and a seccomp filter that leaves only what a running VM needs: no open, connect,
 * socket, exec, fork, and no memory that can be executed. Only the filter reaches threads that
 * exist already; Landlock and capabilities are a matter of each thread, so sandbox_lock_thread is
 * called on the threads that face the guest (main, io), and vCPU threads inherit from the main one.
 * The other threads (timer, thread pools) have nothing to use a capability with.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include "base/err.h"
#include "vmm/jail.h"

#include <stdbool.h>

enum { SANDBOX_TEXT = 256 };

struct sandbox {
    bool no_new_privs, capabilities, landlock, seccomp; /* what is in force */
    struct jail jail;
};

/* First thing in main: gives up the capabilities that not even opening files needs. */
void sandbox_begin(struct sandbox *out);
/* On a thread, before sandbox_filter. Never fails; *out says what was possible. */
void sandbox_lock_thread(struct sandbox *out);
/* On the main thread: the filter, on all threads. `engine`: "kvm", "soft". */
int sandbox_filter(const char *engine, struct sandbox *out, struct err *err);
/* On a vCPU's thread, after sandbox_filter: less than the others may. */
void sandbox_lock_vcpu(void);
/* "seccomp, without: Landlock, no capabilities, no new privileges" */
void sandbox_print(const struct sandbox *sandbox, char out[SANDBOX_TEXT]);

#endif
