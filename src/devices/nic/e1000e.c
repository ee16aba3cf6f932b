/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Intel 82574L Gigabit Ethernet controller (Intel 82574 data sheet, revision 3.4): two rings
 * each way, legacy and extended descriptors, checksum and segmentation offload, VLAN tags, MSI-X
 * with five vectors, the PHY and the EEPROM as far as drivers look at them.
 *
 * Left out: packet split (so frames above the largest buffer use several), receive-side scaling
 * (everything comes in ring 0), time stamps, wake-up, manageability, flash.
 *
 * Register writes change registers; frames move on io_loop.
 *  1. A frame is sent only when all its descriptors are there, so nothing of a frame is state.
 *  2. A reset of the card makes a new `generation`; work of an older one changes nothing any more.
 */
#include "devices/nic/e1000e.h"

#include "base/checked.h"
#include "devices/io_work.h"
#include "machine/machine.h"
#include "net/net.h"
#include "net/offload.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { BAR_REGISTERS, BAR_FLASH, BAR_IO, BAR_MSIX };
enum { REGISTERS_SIZE = 0x20000, FLASH_SIZE = 0x20000, IO_SIZE = 32, MSIX_SIZE = 0x4000 };
enum { VECTORS = 5, QUEUES = 2, FILE_SIZE = 0x6000, BATCH = 64, DESCRIPTOR = 16 };
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
enum { CTRL_GIO_OFF = 1 << 2, CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, CTRL_VME = 1 << 30 };
enum { STATUS_FD = 1, STATUS_LU = 2, STATUS_1000 = 0x80, STATUS_GIO = 1 << 19 };
enum { EECD_REQUEST = 0x40, EECD_GRANT = 0x80, EECD_PRESENT = 0x100, EECD_READ = 0x200 };
enum { EXT_IAME = 1 << 27, EXT_EIAME = 1 << 24 };
enum { MDIC_WRITE = 1, MDIC_READ = 2, MDIC_READY = 1 << 28, MDIC_IRQ = 1 << 29 };
enum { MDIC_ERROR = 1 << 30, PHY_ADDRESS = 1, PHY_REGS = 32, PHY_PAGE = 22 };
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
enum { RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_MPE = 1 << 4, RCTL_BAM = 1 << 15 };
enum { RCTL_VFE = 1 << 18, RCTL_BSEX = 1 << 25, RCTL_SECRC = 1 << 26 };
enum { TCTL_EN = 1 << 1, RFCTL_EXTEN = 1 << 15 };
#define RAH_AV (1u << 31)
enum { EEPROM_WORDS = 64, EEPROM_SUM = 0xbaba };
enum { TX_EOP = 1 << 24, TX_IC = 1 << 26, TX_TSE = 1 << 26, TX_RS = 1 << 27, TX_DEXT = 1 << 29 };
enum { TX_VLE = 1 << 30, TX_DATA = 1 << 20, TX_DD = 1, POPTS_IXSM = 1, POPTS_TXSM = 2 };
enum { TUCMD_IPV4 = 1 << 25 };
enum { RX_DD = 1, RX_EOP = 2, RX_VP = 8, RX_TCPCS = 0x20, RX_IPCS = 0x40 };

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

static uint32_t *reg(struct e1000e *nic, unsigned at) { return &nic->regs.file[at / 4]; }

/* ---- interrupts; lock held ---- */

static void msix_cause(struct e1000e *nic, uint32_t cause, unsigned shift)
{
    uint32_t entry = *reg(nic, IVAR) >> shift & 15;
    if (!(entry & 8))
        return;
    pci_msix_notify(&nic->pci, entry & 7);
    if (*reg(nic, CTRL_EXT) & EXT_EIAME)
        *reg(nic, IMS) &= ~(*reg(nic, IAM) & cause);
    uint32_t automatic = *reg(nic, EIAC) & cause;
    *reg(nic, ICR) &= ~automatic;
    if (!(*reg(nic, CTRL_EXT) & EXT_IAME))
        *reg(nic, IMS) &= ~automatic;
}

static void nic_update_irq(struct e1000e *nic)
{
    uint32_t *icr = reg(nic, ICR);
    *icr &= ~IRQ_ASSERTED;
    if (*icr & IRQ_OTHERS)
        *icr |= IRQ_OTHER;
    else
        *icr &= ~(uint32_t)IRQ_OTHER;
    uint32_t raised = *icr & *reg(nic, IMS);
    if (raised)
        *icr |= IRQ_ASSERTED;
    if (!pci_msix_enabled(&nic->pci)) {
        pci_intx_set(&nic->pci, raised);
        return;
    }
    for (unsigned i = 0; i < 5; i++) /* RXQ0, RXQ1, TXQ0, TXQ1, OTHER */
        if (raised & IRQ_RXQ0 << i)
            msix_cause(nic, (uint32_t)IRQ_RXQ0 << i, 4 * i);
}

static void nic_raise(struct e1000e *nic, uint32_t causes)
{
    *reg(nic, ICR) |= causes;
    nic_update_irq(nic);
}

/* ---- link and PHY; lock held ---- */

enum { BMCR, BMSR, PHYID1, PHYID2, ADVERTISE, LPA, EXPANSION, GBCR = 9, GBSR = 10, ESTATUS = 15 };
enum { PHY_STATUS1 = 17, BMCR_RESTART = 0x0200, BMCR_RESET = 0x8000 };

static void nic_link_registers(struct e1000e *nic)
{
    uint16_t *phy = nic->regs.phy;
    phy[BMSR] = (uint16_t)(0x7949 | (nic->link_up ? 0x24 : 0)); /* up, negotiated */
    phy[LPA] = nic->link_up ? 0x45e1 : 0;
    phy[GBSR] = nic->link_up ? 0x3c00 : 0;
    phy[PHY_STATUS1] = nic->link_up ? 0xac00 : 0x8000; /* 1000 Mbit/s, full duplex, resolved */
}

static void phy_reset(struct e1000e *nic)
{
    uint16_t *phy = nic->regs.phy;
    memset(phy, 0, sizeof nic->regs.phy);
    phy[BMCR] = 0x1140;
    phy[PHYID1] = 0x0141;
    phy[PHYID2] = 0x0cb1;
    phy[ADVERTISE] = 0x0de1;
    phy[EXPANSION] = 0x000f;
    phy[GBCR] = 0x0e00;
    phy[ESTATUS] = 0x3000;
    phy[16] = 0x0360;
    nic_link_registers(nic);
}

static bool phy_read_only(unsigned index)
{
    return (index >= BMSR && index <= PHYID2) || index == LPA || index == GBSR ||
           index == ESTATUS || index == PHY_STATUS1;
}

static void phy_write(struct e1000e *nic, unsigned index, uint16_t value)
{
    uint16_t *phy = nic->regs.phy;
    if ((phy[PHY_PAGE] && index != PHY_PAGE) || phy_read_only(index))
        return;
    if (index != BMCR) {
        phy[index] = value;
    } else if (value & BMCR_RESET) {
        phy_reset(nic);
        nic_raise(nic, IRQ_LSC);
    } else {
        phy[BMCR] = value & ~(BMCR_RESTART | 0x3f);
        if (value & BMCR_RESTART) /* negotiated at once */
            nic_raise(nic, IRQ_LSC);
    }
}

static void nic_mdic(struct e1000e *nic, uint32_t value)
{
    unsigned index = value >> 16 & 31, operation = value >> 26 & 3;
    const uint16_t *phy = nic->regs.phy;
    uint32_t answer = (value & ~(uint32_t)(MDIC_ERROR)) | MDIC_READY;
    if ((value >> 21 & 31) != PHY_ADDRESS)
        answer |= MDIC_ERROR;
    else if (operation == MDIC_READ)
        answer = (answer & 0xffff0000) | (phy[PHY_PAGE] && index != PHY_PAGE ? 0 : phy[index]);
    else if (operation == MDIC_WRITE)
        phy_write(nic, index, (uint16_t)value);
    *reg(nic, MDIC) = answer;
    if (value & MDIC_IRQ)
        nic_raise(nic, IRQ_MDAC);
}

static uint16_t eeprom_word(const struct e1000e *nic, unsigned at)
{
    const uint8_t *mac = nic->regs.mac;
    uint16_t sum = EEPROM_SUM;
    if (at < 3)
        return (uint16_t)(mac[2 * at] | mac[2 * at + 1] << 8);
    if (at != EEPROM_WORDS - 1)
        return 0;
    for (unsigned i = 0; i < 3; i++)
        sum = (uint16_t)(sum - (mac[2 * i] | mac[2 * i + 1] << 8));
    return sum;
}

/* Both a reset by the guest and power-on end here; lock held, or nobody else there. */
static void nic_power_on(struct e1000e *nic)
{
    const uint8_t *mac = nic->regs.mac;
    nic->generation++;
    memset(nic->regs.file, 0, sizeof nic->regs.file);
    memset(nic->regs.contexts, 0, sizeof nic->regs.contexts);
    nic->regs.io_address = 0;
    *reg(nic, CTRL) = 0x00140000 | STATUS_FD | CTRL_SLU;
    *reg(nic, PBA) = 0x00140014;
    *reg(nic, EEMNGCTL) = 0x00040000; /* configuration is done */
    *reg(nic, RAL) =
        mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24;
    *reg(nic, RAH) = mac[4] | (uint32_t)mac[5] << 8 | RAH_AV;
    *reg(nic, VET) = 0x8100;
    phy_reset(nic);
}

/* ---- receiving; io_loop ---- */

struct rx_ring {
    uint64_t base;
    uint32_t count, head, tail;
};

static struct rx_ring ring_get(struct e1000e *nic, unsigned base, unsigned queue)
{
    unsigned at = base + queue * QUEUE_STEP;
    struct rx_ring ring = { .count = *reg(nic, at + 8) / DESCRIPTOR,
                            .head = *reg(nic, at + 0x10),
                            .tail = *reg(nic, at + 0x18) };
    ring.base = (uint64_t)*reg(nic, at + 4) << 32 | *reg(nic, at);
    if (ring.head >= ring.count || ring.tail >= ring.count)
        ring.head = ring.tail = ring.count = 0; /* nonsense: empty */
    return ring;
}

static bool listed(struct e1000e *nic, const uint8_t *mac)
{
    uint32_t low = mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24;
    uint32_t high = mac[4] | (uint32_t)mac[5] << 8;
    for (unsigned i = 0; i < RA_COUNT; i++)
        if (*reg(nic, RAL + 8 * i) == low && (*reg(nic, RAH + 8 * i) & 0xffff) == high &&
            (*reg(nic, RAH + 8 * i) & RAH_AV))
            return true;
    return false;
}

/* The filters of 10.2.5; lock held. */
static bool nic_wants(struct e1000e *nic, const uint8_t *frame, size_t len)
{
    static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
    static const uint8_t shifts[4] = { 4, 3, 2, 0 };
    uint32_t rctl = *reg(nic, RCTL);
    if ((rctl & RCTL_VFE) && len >= 16 && frame[12] == 0x81 && frame[13] == 0) {
        unsigned vlan = (unsigned)(frame[14] & 15) << 8 | frame[15];
        if (!(*reg(nic, VFTA + vlan / 32 * 4) >> vlan % 32 & 1))
            return false;
    }
    if (!memcmp(frame, broadcast, 6))
        return rctl & (RCTL_BAM | RCTL_MPE);
    if (listed(nic, frame) || (rctl & (frame[0] & 1 ? RCTL_MPE : RCTL_UPE)))
        return true;
    if (!(frame[0] & 1))
        return false;
    unsigned hash = (frame[4] | (unsigned)frame[5] << 8) >> shifts[rctl >> 12 & 3] & 0xfff;
    return *reg(nic, MTA + hash / 32 * 4) >> hash % 32 & 1;
}

static unsigned rx_buffer_size(uint32_t rctl)
{
    unsigned size = 2048u >> (rctl >> 16 & 3);
    return rctl & RCTL_BSEX && size != 2048 ? size * 16 : size;
}

struct rx_frame {
    const uint8_t *data;
    size_t len;
    uint16_t vlan;
    uint8_t status;
    bool extended;
};

/* One descriptor: its buffer, then the descriptor itself. Answers the bytes taken, or -EFAULT. */
static int64_t rx_fill(struct e1000e *nic, uint64_t gpa, const struct rx_frame *f, size_t at,
                       unsigned size)
{
    struct machine *m = nic->pci.dev.machine;
    uint64_t buffer;
    uint8_t back[DESCRIPTOR] = { 0 };
    size_t len = f->len - at < size ? f->len - at : size;
    uint8_t status = (uint8_t)(RX_DD | f->status | (at + len == f->len ? RX_EOP : 0));
    if (mem_read(m, gpa, &buffer, 8) < 0)
        return -EFAULT;
    buffer = le64toh(buffer);
    if (buffer && mem_write(m, buffer, f->data + at, len) < 0)
        return -EFAULT;
    if (f->extended) {
        back[8] = status;
        back[12] = (uint8_t)len;
        back[13] = (uint8_t)(len >> 8);
    } else {
        memcpy(back, &(uint64_t){ htole64(buffer) }, 8);
        back[8] = (uint8_t)len;
        back[9] = (uint8_t)(len >> 8);
        back[12] = status;
    }
    back[14] = (uint8_t)f->vlan;
    back[15] = (uint8_t)(f->vlan >> 8);
    return mem_write(m, gpa, back, sizeof back) < 0 ? -EFAULT : (int64_t)len;
}

static bool nic_receive(void *arg, const uint8_t *data, size_t len,
                        const struct net_offload *offload)
{
    struct e1000e *nic = arg;
    struct rx_ring ring;
    uint32_t rctl;
    unsigned generation;
    uint8_t stripped[NET_MAX_FRAME];
    struct rx_frame frame = { .len = len };
    if (nic->paused)
        return false;
    {
        LOCKED(&nic->pci.dev.lock);
        rctl = *reg(nic, RCTL);
        if (!(rctl & RCTL_EN) || !pci_bus_master(&nic->pci) || !nic_wants(nic, data, len) ||
            len > sizeof stripped - 64)
            return true;
        ring = ring_get(nic, RDBAL, 0);
        generation = nic->generation;
        frame.extended = *reg(nic, RFCTL) & RFCTL_EXTEN;
        frame.status = offload->csum_valid ? RX_TCPCS | RX_IPCS : 0;
        if ((*reg(nic, CTRL) & CTRL_VME) && len >= 18 && data[12] == 0x81 && data[13] == 0) {
            frame.vlan = (uint16_t)(data[14] << 8 | data[15]);
            frame.status |= RX_VP;
            memcpy(stripped, data, 12);
            memcpy(stripped + 12, data + 16, len - 16);
            frame.len = len - 4;
        } else {
            memcpy(stripped, data, len);
        }
    }
    if (frame.len < 60) { /* a frame on a wire is not shorter */
        memset(stripped + frame.len, 0, 60 - frame.len);
        frame.len = 60;
    }
    if (!(rctl & RCTL_SECRC)) { /* the driver wants the check sum; it never looks at it */
        memset(stripped + frame.len, 0, 4);
        frame.len += 4;
    }
    frame.data = stripped;
    unsigned size = rx_buffer_size(rctl), need = (unsigned)((frame.len + size - 1) / size);
    unsigned have = ring.count ? (ring.tail + ring.count - ring.head) % ring.count : 0;
    if (need > have)
        return ring.count &&
               need >= ring.count; /* hopeless, or RDT is written when there is room */
    int64_t taken = 0;
    for (size_t at = 0; at < frame.len && taken >= 0; at += (size_t)taken) {
        taken = rx_fill(nic, ring.base + (uint64_t)ring.head * DESCRIPTOR, &frame, at, size);
        ring.head = (ring.head + 1) % ring.count;
    }
    LOCKED(&nic->pci.dev.lock);
    if (generation == nic->generation) { /* 2 */
        *reg(nic, RDH) = ring.head;
        ++*reg(nic, GPRC);
        nic_raise(nic, IRQ_RXT0 | IRQ_RXQ0);
    }
    return true;
}

/* ---- sending; io_loop ---- */

struct tx_frame {
    size_t len;
    uint32_t flags, upper; /* of its first descriptor */
    bool extended;
    bool too_long;
};

static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

/* Sum over [start, end) of the frame, stored at `store`. */
static void tx_checksum(uint8_t *frame, size_t len, size_t start, size_t store, size_t end)
{
    if (!end || end >= len)
        end = len - 1;
    if (start > end || store + 2 > len)
        return;
    put16(frame + store, 0);
    put16(frame + store, offload_fold(offload_sum(frame + start, end + 1 - start, 0)));
}

/* Before a segmentation, lengths and the sum of the pseudo header are as for one big frame. */
static void tx_prepare_tso(uint8_t *frame, size_t len, const struct tx_context *c, bool ipv4)
{
    size_t ip = c->ip & 0xff, tcp = c->tcp & 0xff, at = c->tcp >> 8 & 0xff;
    if (tcp < ip + 20 || tcp > len || at + 2 > len || (!ipv4 && tcp < ip + 40))
        return;
    uint8_t protocol[2] = { 0, 6 }, payload[2];
    put16(payload, (unsigned)(len - tcp));
    uint32_t sum = offload_sum(protocol, 2, offload_sum(payload, 2, 0));
    if (ipv4) {
        put16(frame + ip + 2, (unsigned)(len - ip));
        put16(frame + ip + 10, 0);
        put16(frame + ip + 10, offload_fold(offload_sum(frame + ip, tcp - ip, 0)));
        sum = offload_sum(frame + ip + 12, 8, sum);
    } else {
        put16(frame + ip + 4, (unsigned)(len - ip - 40));
        sum = offload_sum(frame + ip + 8, 32, sum);
    }
    put16(frame + at, (uint16_t)~offload_fold(sum));
}

static void tx_offloads(struct e1000e *nic, struct tx_frame *f, const struct tx_context *c,
                        struct net_offload *offload)
{
    uint8_t *frame = nic->frame;
    if (!f->extended) {
        unsigned store = f->flags >> 16 & 0xff, start = f->upper >> 8 & 0xff;
        if (f->flags & TX_IC)
            tx_checksum(frame, f->len, start, store, 0);
        return;
    }
    unsigned options = f->upper >> 8 & 0xff, start = c->tcp & 0xff, store = c->tcp >> 8 & 0xff;
    bool ipv4 = c->flags & TUCMD_IPV4;
    if ((f->flags & TX_TSE) && c->upper >> 16) {
        tx_prepare_tso(frame, f->len, c, ipv4);
        offload->gso = ipv4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
        offload->gso_size = (uint16_t)(c->upper >> 16);
        offload->hdr_len = (uint16_t)(c->upper >> 8 & 0xff);
    } else if (options & POPTS_IXSM) {
        tx_checksum(frame, f->len, c->ip & 0xff, c->ip >> 8 & 0xff, c->ip >> 16);
    }
    if ((offload->gso || (options & POPTS_TXSM)) && store >= start) {
        offload->needs_csum = true;
        offload->csum_start = (uint16_t)start;
        offload->csum_offset = (uint16_t)(store - start);
    }
}

static int tx_send(struct e1000e *nic, struct tx_frame *f, const struct tx_context *context,
                   uint16_t tag)
{
    struct net_offload offload = { 0 };
    struct iovec iov[3] = { { nic->frame, f->len } };
    uint8_t vlan[4] = { 0x81, 0x00, (uint8_t)(tag >> 8), (uint8_t)tag };
    unsigned count = 1;
    if (f->too_long || f->len < NET_MIN_FRAME)
        return 0;
    tx_offloads(nic, f, context, &offload);
    if (f->flags & TX_VLE) { /* behind both addresses */
        iov[0].iov_len = 12;
        iov[1] = (struct iovec){ vlan, sizeof vlan };
        iov[2] = (struct iovec){ nic->frame + 12, f->len - 12 };
        count = 3;
        offload.csum_start = (uint16_t)(offload.csum_start + (offload.needs_csum ? 4 : 0));
    }
    return net_send(nic->backend, iov, count, &offload);
}

/* Gathers the next frame from `at` on: how many descriptors it has; 0: not all are there; -EFAULT.
 * A context descriptor is a "frame" of its own with no bytes. */
static int tx_gather(struct e1000e *nic, const struct rx_ring *ring, uint32_t at,
                     struct tx_context *context, struct tx_frame *f)
{
    struct machine *m = nic->pci.dev.machine;
    *f = (struct tx_frame){ 0 };
    for (int count = 1; at != ring->tail; count++, at = (at + 1) % ring->count) {
        uint32_t d[4];
        if (mem_read(m, ring->base + (uint64_t)at * DESCRIPTOR, d, sizeof d) < 0)
            return -EFAULT;
        uint64_t buffer = (uint64_t)le32toh(d[1]) << 32 | le32toh(d[0]);
        uint32_t flags = le32toh(d[2]), upper = le32toh(d[3]);
        bool extended = flags & TX_DEXT;
        if (extended && !(flags & TX_DATA) && count == 1) {
            *context = (struct tx_context){ le32toh(d[0]), le32toh(d[1]), flags, upper };
            f->flags = flags & TX_RS;
            return 1;
        }
        size_t len = flags & (extended ? 0xfffff : 0xffff);
        if (count == 1)
            *f = (struct tx_frame){ .flags = flags, .upper = upper, .extended = extended };
        if (len > NET_MAX_FRAME - f->len)
            f->too_long = true;
        else if (mem_read(m, buffer, nic->frame + f->len, len) < 0)
            return -EFAULT;
        else
            f->len += len;
        f->flags |= flags & TX_RS;
        if (flags & TX_EOP) {
            f->flags |= flags & TX_VLE;
            f->upper |= upper & 0xffff0000; /* the tag counts where the frame ends, too */
            return count;
        }
    }
    return 0;
}

/* Tells the driver which descriptors are done. */
static void tx_write_back(struct e1000e *nic, const struct rx_ring *ring, uint32_t at, int count)
{
    struct machine *m = nic->pci.dev.machine;
    for (; count > 0; count--, at = (at + 1) % ring->count) {
        uint64_t gpa = ring->base + (uint64_t)at * DESCRIPTOR;
        uint32_t d[2];
        if (mem_read(m, gpa + 8, d, sizeof d) < 0 || !(le32toh(d[0]) & TX_RS))
            continue;
        d[1] |= htole32(TX_DD);
        mem_write(m, gpa + 12, &d[1], 4);
    }
}

static void nic_transmit(struct e1000e *nic, unsigned queue)
{
    for (unsigned budget = BATCH; budget; budget--) {
        struct rx_ring ring;
        struct tx_context context;
        struct tx_frame frame;
        unsigned generation;
        {
            LOCKED(&nic->pci.dev.lock);
            ring = ring_get(nic, TDBAL, queue);
            if (!(*reg(nic, TCTL) & TCTL_EN) || !pci_bus_master(&nic->pci) ||
                ring.head == ring.tail)
                return;
            context = nic->regs.contexts[queue];
            generation = nic->generation;
        }
        int count = tx_gather(nic, &ring, ring.head, &context, &frame);
        if (count == 0)
            return;      /* 1 */
        if (count < 0) { /* nothing sensible to read: the ring is given up */
            count = 0;
            frame.flags = 0;
            ring.head = ring.tail;
        } else if (frame.len &&
                   tx_send(nic, &frame, &context, (uint16_t)(frame.upper >> 16)) == -EAGAIN) {
            return; /* `ready` comes */
        }
        if (frame.flags & TX_RS)
            tx_write_back(nic, &ring, ring.head, count);
        LOCKED(&nic->pci.dev.lock);
        if (generation != nic->generation)
            return; /* 2 */
        nic->regs.contexts[queue] = context;
        *reg(nic, TDH + queue * QUEUE_STEP) = (ring.head + (unsigned)count) % ring.count;
        *reg(nic, GPTC) += frame.len != 0;
        if (frame.flags & TX_RS)
            nic_raise(nic, IRQ_TXDW | (uint32_t)IRQ_TXQ0 << queue);
    }
    io_work_kick(&nic->work);
}

static void nic_work(void *arg)
{
    struct e1000e *nic = arg;
    for (unsigned i = 0; i < QUEUES; i++)
        nic_transmit(nic, i);
    net_resume(nic->backend);
}

static void nic_ready(void *arg) { io_work_kick(&((struct e1000e *)arg)->work); }

static void nic_link(void *arg, bool up)
{
    struct e1000e *nic = arg;
    LOCKED(&nic->pci.dev.lock);
    nic->link_up = up;
    nic_link_registers(nic);
    if (!nic->paused)
        nic_raise(nic, IRQ_LSC);
}

static const struct net_receiver nic_receiver = {
    .receive = nic_receive,
    .ready = nic_ready,
    .link = nic_link,
};

/* ---- registers; lock held ---- */

static uint32_t nic_status(struct e1000e *nic)
{
    uint32_t ctrl = *reg(nic, CTRL);
    return 0x80000000 | STATUS_1000 | STATUS_FD |
           (nic->link_up && (ctrl & CTRL_SLU) ? STATUS_LU : 0) |
           (ctrl & CTRL_GIO_OFF ? 0 : STATUS_GIO);
}

static uint32_t reg_read(struct e1000e *nic, unsigned at)
{
    if (at >= FILE_SIZE)
        return 0;
    uint32_t value = *reg(nic, at);
    switch (at) {
    case CTRL_DUP: return *reg(nic, CTRL);
    case STATUS: return nic_status(nic);
    case EECD:
        return (value & EECD_REQUEST) | (value & EECD_REQUEST ? EECD_GRANT : 0) | EECD_PRESENT |
               EECD_READ;
    case ICR:
        *reg(nic, ICR) = 0;
        if ((value & IRQ_ASSERTED) && (*reg(nic, CTRL_EXT) & EXT_IAME))
            *reg(nic, IMS) &= ~*reg(nic, IAM);
        nic_update_irq(nic);
        return value;
    case ICS: return *reg(nic, ICR);
    case IMC: return *reg(nic, IMS);
    case SWSM: *reg(nic, SWSM) |= 1; return value; /* reading takes the semaphore */
    }
    if (at >= STATISTICS && at < STATISTICS_END)
        *reg(nic, at) = 0;
    return value;
}

static void reg_write(struct e1000e *nic, unsigned at, uint32_t value)
{
    unsigned queue_reg = at & ~(unsigned)QUEUE_STEP;
    if (at >= FILE_SIZE || (at >= STATISTICS && at < STATISTICS_END))
        return;
    switch (at) {
    case CTRL:
    case CTRL_DUP:
        if (value & CTRL_RST)
            nic_power_on(nic);
        else
            *reg(nic, CTRL) = value & 0x7fffffff; /* resets of the PHY are over at once */
        nic_update_irq(nic);
        return;
    case STATUS: return;
    case EERD:
        *reg(nic, EERD) = (value & 0xfffc) | 2 |
                          (uint32_t)eeprom_word(nic, value >> 2 & (EEPROM_WORDS - 1)) << 16;
        return;
    case MDIC: nic_mdic(nic, value); return;
    case ICR: *reg(nic, ICR) &= ~value; break;
    case ICS: *reg(nic, ICR) |= value & 0x7fffffff; break;
    case IMS: *reg(nic, IMS) |= value & 0x7fffffff; break;
    case IMC: *reg(nic, IMS) &= ~value; break;
    default:
        *reg(nic, at) = value;
        switch (queue_reg) {
        case RDBAL:
        case TDBAL: *reg(nic, at) = value & ~15u; break;
        case RDLEN:
        case TDLEN: *reg(nic, at) = value & 0xfff80; break;
        case RDH:
        case RDT:
        case TDH:
        case TDT: *reg(nic, at) = value & 0xffff; break;
        }
        if (queue_reg == RDT || queue_reg == TDT || at == RCTL || at == TCTL)
            io_work_kick(&nic->work);
        return;
    }
    nic_update_irq(nic);
}

static uint64_t nic_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
    struct e1000e *nic = (struct e1000e *)dev;
    if (region == BAR_REGISTERS)
        return reg_read(nic, (unsigned)offset & ~3u) >> 8 * (offset & 3);
    if (region == BAR_IO && offset == 0)
        return nic->regs.io_address;
    if (region == BAR_IO && offset == 4)
        return reg_read(nic, nic->regs.io_address & ~3u);
    return region == BAR_FLASH ? UINT64_MAX : 0;
}

static void nic_write(struct device *dev, unsigned region, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct e1000e *nic = (struct e1000e *)dev;
    if (size < 4 || offset & 3) /* registers are written whole */
        return;
    if (region == BAR_REGISTERS)
        reg_write(nic, (unsigned)offset, (uint32_t)value);
    else if (region == BAR_IO && offset == 0)
        nic->regs.io_address = (uint32_t)value;
    else if (region == BAR_IO && offset == 4)
        reg_write(nic, nic->regs.io_address & ~3u, (uint32_t)value);
}

/* Bus mastering may have come on. */
static void nic_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
    io_work_kick(&((struct e1000e *)pci)->work);
}

/* ---- life ---- */

static void nic_reset(struct device *dev)
{
    struct e1000e *nic = (struct e1000e *)dev;
    {
        LOCKED(&dev->lock);
        nic_power_on(nic);
    }
    pci_reset(&nic->pci);
}

static void nic_do_pause(void *arg)
{
    struct e1000e *nic = arg;
    nic->paused = true;
    net_pause(nic->backend);
}

static void nic_pause(struct device *dev)
{
    struct e1000e *nic = (struct e1000e *)dev;
    io_work_pause(&nic->work);
    loop_call(dev->machine->io_loop, nic_do_pause, nic);
}

static void nic_do_resume(void *arg) { ((struct e1000e *)arg)->paused = false; }

static void nic_resume(struct device *dev)
{
    struct e1000e *nic = (struct e1000e *)dev;
    loop_call(dev->machine->io_loop, nic_do_resume, nic);
    io_work_resume(&nic->work);
}

static int nic_loaded(struct device *dev, struct err *err)
{
    struct e1000e *nic = (struct e1000e *)dev;
    int r = pci_loaded(&nic->pci, err);
    if (r < 0)
        return r;
    LOCKED(&dev->lock);
    nic->generation++;
    nic_link_registers(nic); /* the cable is this host's */
    uint32_t raised = *reg(nic, ICR) & *reg(nic, IMS) & ~IRQ_ASSERTED;
    if (!pci_msix_enabled(&nic->pci))
        pci_intx_set(&nic->pci, raised);
    return 0;
}

static void nic_backend_close(void *arg) { net_destroy(arg); }

static void nic_destroy(struct device *dev)
{
    struct e1000e *nic = (struct e1000e *)dev;
    io_work_fini(&nic->work);
    if (nic->backend)
        loop_call(dev->machine->io_loop, nic_backend_close, nic->backend);
    pci_device_fini(&nic->pci);
    free(nic->frame);
    free(nic);
}

static const struct state_field context_fields[] = {
    STATE_U32(struct tx_context, ip),
    STATE_U32(struct tx_context, tcp),
    STATE_U32(struct tx_context, flags),
    STATE_U32(struct tx_context, upper),
    STATE_END,
};
static const struct state_desc context_state = {
    .name = "e1000e-context",
    .version = 1,
    .size = sizeof(struct tx_context),
    .fields = context_fields,
};
static const struct state_field nic_fields[] = {
    STATE_STRUCT(struct e1000e_regs, pci, &pci_state),
    STATE_UINTS(struct e1000e_regs, file),
    STATE_UINTS(struct e1000e_regs, phy),
    STATE_STRUCTS(struct e1000e_regs, contexts, &context_state),
    STATE_U32(struct e1000e_regs, io_address),
    STATE_BYTES(struct e1000e_regs, mac),
    STATE_BYTES(struct e1000e_regs, reserved),
    STATE_END,
};
static const struct state_desc nic_state = {
    .name = "e1000e",
    .version = 1,
    .base = offsetof(struct e1000e, regs),
    .size = sizeof(struct e1000e_regs),
    .fields = nic_fields,
};
static const struct device_type nic_type = {
    .name = "e1000e",
    .about = "Intel 82574L network card",
    .threads = DEVICE_LOCKED,
    .destroy = nic_destroy,
    .read = nic_read,
    .write = nic_write,
    .reset = nic_reset,
    .pause = nic_pause,
    .resume = nic_resume,
    .loaded = nic_loaded,
    .state = &nic_state,
};

static void nic_attach(void *arg)
{
    struct e1000e *nic = arg;
    nic->link_up = nic->backend->up;
    nic_power_on(nic);
    net_set_receiver(nic->backend, &nic_receiver, nic);
}

int e1000e_create(struct machine *m, const struct e1000e_options *options, struct pci_device **out,
                  struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = 0x8086,
        .device = 0x10d3,
        .subsystem_vendor = 0x8086,
        .class_code = 0x020000,
        .interrupt_pin = 1,
    };
    static const struct pci_ops ops = { .config_written = nic_config_written };
    struct e1000e *nic = calloc(1, sizeof *nic);
    uint8_t *frame = malloc(NET_MAX_FRAME);
    if (!nic || !frame) {
        free(nic);
        free(frame);
        loop_call(m->io_loop, nic_backend_close, options->take_backend);
        return err_set(err, ENOMEM, "out of memory");
    }
    pci_device_init(&nic->pci, m, &nic_type, options->id, &ids, &ops, &nic->regs.pci);
    pci_bar_add(&nic->pci, BAR_REGISTERS, REGISTERS_SIZE, 0);
    pci_bar_add(&nic->pci, BAR_FLASH, FLASH_SIZE, 0);
    pci_bar_add(&nic->pci, BAR_IO, IO_SIZE, PCI_BAR_IO);
    pci_bar_add(&nic->pci, BAR_MSIX, MSIX_SIZE, 0);
    pci_msix_init(&nic->pci, BAR_MSIX, 0, 0x2000, VECTORS);
    io_work_init(&nic->work, m, nic_work, nic);
    nic->frame = frame;
    nic->paused = true;
    nic->backend = options->take_backend;
    memcpy(nic->regs.mac, options->mac, 6);
    loop_call(m->io_loop, nic_attach, nic);
    *out = &nic->pci;
    return 0;
}
