/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opens what --firmware and --uefi-vars name. Main thread, before the lock. */
#ifndef VMM_FIRMWARE_H
#define VMM_FIRMWARE_H

#include "board/firmware.h"
#include "migrate/snapshot.h"
#include "vmm/options.h"

struct vmm_firmware {
    struct board_firmware board; /* descriptors owned; -1 where there is none */
    uint8_t *vars;               /* owned: the template */
    struct buf vga_bios;
};

/* *out is initialised with descriptors -1; vmm_firmware_close also after a failure. */
int vmm_firmware_open(const struct options *o, struct vmm_firmware *out, struct err *err);
/* The same for a saved VM, which brings the contents with it. */
int vmm_firmware_restore(const struct options *o, const struct snapshot_config *saved,
                         struct vmm_firmware *out, struct err *err);
void vmm_firmware_close(struct vmm_firmware *firmware);

#endif
