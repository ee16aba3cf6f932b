/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The USB controller, driven as Linux' xhci-hcd and a HID driver do; then at random. */
#include "devices/usb/xhci_model.h"

#include <linux/input-event-codes.h>
#include <unistd.h>

enum { CMDS = 0x1000, EVENTS = 0x2000, ERST = 0x3000, DCBAA = 0x3100, OUTPUT = 0x3800 };
enum { INPUT = 0x4000, EP0 = 0x5000, EP1 = 0x6000, DATA = 0x7000, RING = 16 };

static unsigned command_at, event_at, ep0_at, ep1_at;

static uint32_t get(unsigned at) { return (uint32_t)mmio_read(XHCI_AT + at, 4); }
static void set(unsigned at, uint32_t value) { mmio_write(XHCI_AT + at, 4, value); }

struct trb {
    uint64_t parameter;
    uint32_t status, control;
};

/* Puts a TRB into a ring of 256 that never wraps in these tests. */
static void put(uint64_t ring, unsigned *at, uint64_t parameter, uint32_t status, uint32_t control)
{
    struct trb trb = { parameter, status, control | 1 };
    mem_write(test_machine.m, ring + 16ul * (*at)++, &trb, sizeof trb);
}

/* The next event; the ring has 64 and wraps. */
static struct trb event(void)
{
    struct trb trb;
    for (unsigned i = 0; i < 60000; i++) {
        mem_read(test_machine.m, EVENTS + event_at % 64 * 16, &trb, sizeof trb);
        if ((trb.control & 1) == (event_at / 64 % 2 == 0)) {
            event_at++;
            mmio_write(XHCI_AT + 0x1038, 8, (EVENTS + event_at % 64 * 16) | 8);
            return trb;
        }
        usleep(1000);
    }
    fail_msg("no event comes");
    return trb;
}

static void no_event(void)
{
    struct trb trb;
    fuzz_settle();
    mem_read(test_machine.m, EVENTS + event_at % 64 * 16, &trb, sizeof trb);
    assert_int_not_equal(trb.control & 1, event_at / 64 % 2 == 0);
}

static struct trb command(uint64_t parameter, uint32_t control)
{
    uint64_t at = CMDS + 16ul * command_at;
    put(CMDS, &command_at, parameter, 0, control);
    set(0x2000, 0);
    struct trb trb = event();
    assert_int_equal(trb.control >> 10 & 63, 33);
    assert_int_equal(trb.parameter, at);
    return trb;
}
#define CODE(trb) ((trb).status >> 24)

static int setup(void **state)
{
    uint64_t segment[2] = { EVENTS, 64 }, context = OUTPUT;
    command_at = event_at = ep0_at = ep1_at = 0;
    device_fuzz_begin(&xhci_model);
    set(0x40, 2);
    for (unsigned i = 0; get(0x40) & 2; i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
    mem_write(test_machine.m, ERST, segment, sizeof segment);
    mem_write(test_machine.m, DCBAA + 8, &context, 8);
    set(0x78, 8);
    mmio_write(XHCI_AT + 0x70, 8, DCBAA);
    mmio_write(XHCI_AT + 0x58, 8, CMDS | 1);
    set(0x1028, 1);
    mmio_write(XHCI_AT + 0x1038, 8, EVENTS);
    mmio_write(XHCI_AT + 0x1030, 8, ERST);
    set(0x1020, 2);
    set(0x40, 5);
    return 0;
}

static int teardown(void **state)
{
    device_fuzz_end(&xhci_model);
    return 0;
}

static void ports_tell_what_is_there(void **state)
{
    assert_int_equal(get(0x00) & 0xff, 0x40);
    assert_int_equal(get(0x20) & 0xff, 2); /* supported protocols */
    for (unsigned port = 1; port <= 2; port++) {
        struct trb trb = event();
        assert_int_equal(trb.control >> 10 & 63, 34);
        assert_int_equal(trb.parameter >> 24, port);
    }
    assert_int_equal(get(0x440) & 0x20001, 0x20001);
    assert_int_equal(get(0x460) & 1, 0);
    set(0x440, 0x20200 | 0x10);
    assert_int_equal(event().parameter >> 24, 1);
    assert_int_equal(get(0x440) & 0x200c03, 0x200c03); /* enabled, high speed, was reset */
    assert_int_equal(get(0x440) & 0x20000, 0);
}

static void start_device(unsigned port)
{
    uint32_t control[8] = { 0, 3 }, slot[8] = { 1u << 27 | 3 << 20, port << 16 };
    uint32_t ep0[8] = { 0, 4 << 3 | 64 << 16, EP0 | 1 }, config[8] = { 0, 9 };
    uint32_t ep1[8] = { 0, 7 << 3 | 8 << 16, EP1 | 1 };
    event();
    event();
    set(0x430 + 0x10 * port, 0x20200 | 0x10);
    event();
    struct trb trb = command(0, 9 << 10);
    assert_int_equal(CODE(trb), 1);
    assert_int_equal(trb.control >> 24, 1);
    mem_write(test_machine.m, INPUT, control, 32);
    mem_write(test_machine.m, INPUT + 32, slot, 32);
    mem_write(test_machine.m, INPUT + 64, ep0, 32);
    assert_int_equal(CODE(command(INPUT, 11 << 10 | 1u << 24)), 1);
    mem_write(test_machine.m, INPUT, config, 32);
    mem_write(test_machine.m, INPUT + 32 * 4, ep1, 32);
    slot[0] = 3u << 27 | 3 << 20;
    mem_write(test_machine.m, INPUT + 32, slot, 32);
    assert_int_equal(CODE(command(INPUT, 12 << 10 | 1u << 24)), 1);
    uint32_t out[8];
    mem_read(test_machine.m, OUTPUT, out, 32);
    assert_int_equal(out[3], 3u << 27 | 1); /* configured, address 1 */
    assert_int_equal(out[0] >> 27, 3);
}

/* Answers the completion code of the last stage; data goes to or comes from DATA. */
static unsigned control(uint64_t request, unsigned len, bool in)
{
    put(EP0, &ep0_at, request, 8, 2 << 10 | 0x40 | (len ? in ? 3 : 2 : 0) << 16);
    if (len)
        put(EP0, &ep0_at, DATA, len, 3 << 10 | (in ? 1u << 16 : 0) | 4);
    put(EP0, &ep0_at, 0, 0, 4 << 10 | 0x20 | (in && len ? 0 : 1u << 16));
    set(0x2004, 1);
    struct trb trb = event();
    if (CODE(trb) == 13) /* short: the status stage follows */
        trb = event();
    return CODE(trb);
}

static void reads_descriptors(void **state)
{
    uint8_t data[64];
    start_device(1);
    assert_int_equal(control(0x0012000001000680, 18, true), 1);
    mem_read(test_machine.m, DATA, data, 18);
    assert_int_equal(data[0] | data[1] << 8, 0x0112);
    assert_int_equal(control(0x0040000002000680, 64, true), 1); /* short: 34 bytes */
    mem_read(test_machine.m, DATA, data, 34);
    assert_int_equal(data[1] | data[2] << 8, 0x2202);
    assert_int_equal(control(0x0012000009990680, 18, true), 6); /* no such descriptor */
    uint32_t out[8];
    mem_read(test_machine.m, OUTPUT + 32, out, 32);
    assert_int_equal(out[0] & 7, 2); /* halted */
    assert_int_equal(CODE(command(0, 14 << 10 | 1 << 16 | 1u << 24)), 1);
    assert_int_equal(CODE(command((EP0 + 16 * ep0_at) | 1, 16 << 10 | 1 << 16 | 1u << 24)), 1);
    assert_int_equal(control(0x0000000000010900, 0, false), 1);
}

static void tablet_reports(void **state)
{
    uint8_t report[8];
    start_device(1);
    assert_false(input_has_tablet(xhci_input));
    assert_int_equal(control(0x0000000000010900, 0, false), 1);
    test_events();
    assert_true(input_has_tablet(xhci_input));
    put(EP1, &ep1_at, DATA, 8, 1 << 10 | 0x24);
    set(0x2004, 3);
    no_event();
    fuzz_save_and_restore();
    input_pointer(xhci_input, 1023, 0, 1024, 768, 0);
    struct trb trb = event();
    assert_int_equal(CODE(trb), 13);
    assert_int_equal(trb.status & 0xffffff, 2);
    assert_int_equal(trb.control >> 16 & 31, 3);
    mem_read(test_machine.m, DATA, report, 6);
    assert_memory_equal(report, ((uint8_t[]){ 0, 0xff, 0x7f, 0, 0, 0 }), 6);
    input_pointer(xhci_input, 1023, 0, 1024, 768, INPUT_BUTTON_RIGHT);
    input_wheel(xhci_input, -1);
    put(EP1, &ep1_at, DATA, 8, 1 << 10 | 0x24);
    put(EP1, &ep1_at, DATA + 8, 8, 1 << 10 | 0x24);
    set(0x2004, 3);
    event();
    event();
    mem_read(test_machine.m, DATA, report, 6);
    assert_memory_equal(report, ((uint8_t[]){ 2, 0xff, 0x7f, 0, 0, 0 }), 6);
    mem_read(test_machine.m, DATA + 8, report, 6);
    assert_memory_equal(report, ((uint8_t[]){ 2, 0xff, 0x7f, 0, 0, 0xff }), 6);
}

static void keyboard_reports_and_goes(void **state)
{
    struct err err = { 0 };
    uint8_t report[8];
    start_device(2);
    assert_int_equal(control(0x0000000000010900, 0, false), 1);
    test_events();
    for (unsigned i = 0; i < 3; i++)
        put(EP1, &ep1_at, DATA + 8 * i, 8, 1 << 10 | 0x20);
    set(0x2004, 3);
    input_key(xhci_input, KEY_LEFTSHIFT, true);
    input_key(xhci_input, KEY_A, true);
    input_key(xhci_input, KEY_A, false);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(CODE(event()), 1);
    mem_read(test_machine.m, DATA + 8, report, 8);
    assert_memory_equal(report, ((uint8_t[]){ 2, 0, 4, 0, 0, 0, 0, 0 }), 8);
    mem_read(test_machine.m, DATA + 16, report, 8);
    assert_memory_equal(report, ((uint8_t[]){ 2, 0, 0, 0, 0, 0, 0, 0 }), 8);
    assert_int_equal(xhci_detach(xhci_pci, 2, &err), 0);
    assert_int_equal(xhci_detach(xhci_pci, 2, &err), -ENODEV);
    assert_int_equal(event().parameter >> 24, 2);
    assert_int_equal(get(0x450) & 0x20001, 0x20000);
    assert_false(input_key(xhci_input, KEY_B, true));
    assert_int_equal(control(0x0012000001000680, 18, true), 4); /* nobody answers */
    assert_int_equal(CODE(command(0, 10 << 10 | 1u << 24)), 1);
    assert_int_equal(CODE(command(0, 10 << 10 | 1u << 24)), 11);
}

/* A driver that suspends halts the controller, has `command` done, and puts the registers back some
 * time later; the ring of commands begins anew. */
static void suspend(uint32_t command)
{
    static const uint8_t nothing[0x1000];
    set(0x40, 0);
    for (unsigned i = 0; !(get(0x44) & 1); i++) {
        assert_true(i < 60000);
        usleep(1000);
    }
    set(0x40, command);
    uint64_t erdp = mmio_read(XHCI_AT + 0x1038, 8);
    mmio_write(XHCI_AT + 0x70, 8, DCBAA);
    set(0x1028, 1);
    mmio_write(XHCI_AT + 0x1030, 8, ERST);
    mmio_write(XHCI_AT + 0x1038, 8, erdp);
    set(0x1020, 2);
    mem_write(test_machine.m, CMDS, nothing, sizeof nothing);
    command_at = 0;
    mmio_write(XHCI_AT + 0x58, 8, CMDS | 1);
}

enum { SAVE = 1 << 8, RESTORE = 1 << 9, RESTORE_ERROR = 1 << 10 };

static void goes_on_after_a_suspend(void **state)
{
    start_device(1);
    assert_int_equal(control(0x0000000000010900, 0, false), 1);
    for (unsigned i = 0; i < 64; i++) /* the ring of events wraps */
        assert_int_equal(CODE(command(0, 23 << 10)), 1);
    suspend(SAVE);
    fuzz_save_and_restore();
    set(0x40, RESTORE);
    assert_int_equal(get(0x44) & RESTORE_ERROR, 0);
    set(0x40, 5);
    assert_int_equal(control(0x0012000001000680, 18, true), 1);
    set(0x40, 5 | RESTORE); /* while it runs: ignored */
    assert_int_equal(get(0x44) & RESTORE_ERROR, 0);
    assert_int_equal(CODE(command(0, 15 << 10 | 3 << 16 | 1u << 24)), 1);
}

static void nothing_to_restore(void **state)
{
    start_device(1);
    suspend(SAVE);
    set(0x40, RESTORE);
    set(0x40, 5);
    suspend(RESTORE); /* what was saved is used up */
    assert_int_equal(get(0x44) & RESTORE_ERROR, RESTORE_ERROR);
    set(0x44, RESTORE_ERROR);
    assert_int_equal(get(0x44) & RESTORE_ERROR, 0);
}

static unsigned messages(void)
{
    LOCKED(&test_machine.lock);
    return test_machine.msi_count;
}

/* Seen only when the controller is through with it. */
static void one_event(void)
{
    put(CMDS, &command_at, 0, 0, 23 << 10);
    set(0x2000, 0);
    fuzz_settle();
    event();
}

static void message_waits_until_it_may_be_sent(void **state)
{
    fuzz_settle();
    event();
    event();
    mmio_write(XHCI_AT + 0x3000, 8, 0xfee00000);
    mmio_write(XHCI_AT + 0x3008, 8, 0x41);
    pci_config_write(xhci_bus, xhci_pci->devfn, xhci_pci->msix_cap + 2, 2, 0x8000);
    unsigned before = messages();
    one_event();
    assert_int_equal(messages(), before + 1);
    set(0x40, 1); /* no interrupts, as the driver has it while it resumes ports */
    one_event();
    assert_int_equal(messages(), before + 1);
    assert_int_equal(get(0x1020), 3);
    set(0x40, 5);
    assert_int_equal(messages(), before + 2);
    assert_int_equal(get(0x1020), 2);
    set(0x40, 5);
    assert_int_equal(messages(), before + 2);
}

static void survives_anything(void **state) { device_fuzz_random(&xhci_model, 60); }
static void survives_any_state(void **state) { device_fuzz_states(&xhci_model, 400); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ports_tell_what_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(tablet_reports, setup, teardown),
        cmocka_unit_test_setup_teardown(keyboard_reports_and_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_after_a_suspend, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_to_restore, setup, teardown),
        cmocka_unit_test_setup_teardown(message_waits_until_it_may_be_sent, setup, teardown),
        cmocka_unit_test(survives_anything),
        cmocka_unit_test(survives_any_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
