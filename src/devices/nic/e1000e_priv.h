/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What e1000e.c (registers, PHY, life) and e1000e_frames.c (the rings) share. */
#ifndef DEVICES_NIC_E1000E_PRIV_H
#define DEVICES_NIC_E1000E_PRIV_H

#include "devices/io_work.h"
#include "devices/nic/e1000e.h"
#include "net/net.h"

enum { QUEUES = 2, FILE_SIZE = 0x6000, PHY_REGS = 32 };
enum { /* registers, section 10.2 */
       CTRL = 0x0000,
       CTRL_DUP = 0x0004,
       STATUS = 0x0008,
       EECD = 0x0010,
       EERD = 0x0014,
       CTRL_EXT = 0x0018,
       MDIC = 0x0020,
       VET = 0x0038,
       ICR = 0x00c0,
       ICS = 0x00c8,
       IMS = 0x00d0,
       IMC = 0x00d8,
       EIAC = 0x00dc,
       IAM = 0x00e0,
       IVAR = 0x00e4,
       RCTL = 0x0100,
       TCTL = 0x0400,
       EXTCNF_CTRL = 0x0f00,
       PBA = 0x1000,
       EEMNGCTL = 0x1010,
       RDBAL = 0x2800,
       RDBAH = 0x2804,
       RDLEN = 0x2808,
       RDH = 0x2810,
       RDT = 0x2818,
       TDBAL = 0x3800,
       TDBAH = 0x3804,
       TDLEN = 0x3808,
       TDH = 0x3810,
       TDT = 0x3818,
       QUEUE_STEP = 0x100,
       STATISTICS = 0x4000,
       GPRC = 0x4074,
       GPTC = 0x4080,
       STATISTICS_END = 0x4128,
       RFCTL = 0x5008,
       MTA = 0x5200,
       RAL = 0x5400,
       RAH = 0x5404,
       RA_COUNT = 16,
       VFTA = 0x5600,
       SWSM = 0x5b50
};
enum { CTRL_VME = 1 << 30 };
enum { /* interrupt causes */
       IRQ_TXDW = 1 << 0,
       IRQ_LSC = 1 << 2,
       IRQ_RXO = 1 << 6,
       IRQ_RXT0 = 1 << 7,
       IRQ_MDAC = 1 << 9,
       IRQ_RXQ0 = 1 << 20,
       IRQ_TXQ0 = 1 << 22,
       IRQ_OTHER = 1 << 24,
       IRQ_OTHERS = IRQ_LSC | IRQ_RXO | IRQ_MDAC | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18,
};
#define IRQ_ASSERTED (1u << 31)
#define RAH_AV (1u << 31)

struct tx_context { /* what the last context descriptor of a ring said */
    uint32_t ip, tcp, flags, upper;
};

struct e1000e_regs {
    struct pci_regs pci;
    uint32_t file[FILE_SIZE / 4]; /* the registers; dev.lock */
    uint16_t phy[PHY_REGS];       /* page 0 */
    struct tx_context contexts[QUEUES];
    uint32_t io_address;
    uint8_t mac[6]; /* in the EEPROM */
    uint8_t reserved[6];
};

struct e1000e {
    struct pci_device pci;
    struct e1000e_regs regs; /* dev.lock */
    unsigned generation;     /* dev.lock */
    bool link_up;            /* dev.lock */
    struct io_work work;
    /* io_loop */
    struct net_backend *backend; /* owned */
    bool paused;
    uint8_t *frame; /* owned; scratch for a frame to send */
};

static inline uint32_t *reg(struct e1000e *nic, unsigned at) { return &nic->regs.file[at / 4]; }

/* e1000e.c; lock held: these causes occurred. */
void e1000e_raise(struct e1000e *nic, uint32_t causes);

/* e1000e_frames.c; io_loop. A net_receiver's `receive`; and sends what the ring has. */
bool e1000e_receive(void *arg, const uint8_t *data, size_t len, const struct net_offload *offload);
void e1000e_transmit(struct e1000e *nic, unsigned queue);

#endif
