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
 *
 * Here are the registers; e1000e_frames.c moves the frames.
 */
#include "devices/nic/e1000e_priv.h"

#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

enum { BAR_REGISTERS, BAR_FLASH, BAR_IO, BAR_MSIX };
enum { REGISTERS_SIZE = 0x20000, FLASH_SIZE = 0x20000, IO_SIZE = 32, MSIX_SIZE = 0x4000 };
enum { VECTORS = 5 };
enum { CTRL_GIO_OFF = 1 << 2, CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26 };
enum { STATUS_FD = 1, STATUS_LU = 2, STATUS_1000 = 0x80, STATUS_GIO = 1 << 19 };
enum { EECD_REQUEST = 0x40, EECD_GRANT = 0x80, EECD_PRESENT = 0x100, EECD_READ = 0x200 };
enum { EXT_IAME = 1 << 27, EXT_EIAME = 1 << 24 };
enum { MDIC_WRITE = 1, MDIC_READ = 2, MDIC_READY = 1 << 28, MDIC_IRQ = 1 << 29 };
enum { MDIC_ERROR = 1 << 30, PHY_ADDRESS = 1, PHY_PAGE = 22 };
enum { EEPROM_WORDS = 64, EEPROM_SUM = 0xbaba };

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

void e1000e_raise(struct e1000e *nic, uint32_t causes)
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
        e1000e_raise(nic, IRQ_LSC);
    } else {
        phy[BMCR] = value & ~(BMCR_RESTART | 0x3f);
        if (value & BMCR_RESTART) /* negotiated at once */
            e1000e_raise(nic, IRQ_LSC);
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
        e1000e_raise(nic, IRQ_MDAC);
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

static void nic_work(void *arg)
{
    struct e1000e *nic = arg;
    for (unsigned i = 0; i < QUEUES; i++)
        e1000e_transmit(nic, i);
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
        e1000e_raise(nic, IRQ_LSC);
}

static const struct net_receiver nic_receiver = {
    .receive = e1000e_receive,
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
