/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fragments in order become the datagram; all others vanish. */
#include "net/reassemble.h"

#include "base/checked.h"
#include "net/offload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOTAL = 5000 };
static struct reassembly all;
static uint8_t payload[2 * TOTAL]; /* a fragment may begin anywhere in the first half */
static const uint8_t *out;
static size_t out_len;

static bool give(unsigned id, unsigned offset, unsigned len, bool more)
{
    uint8_t frame[14 + 20 + TOTAL] = { 0 }, *ip = frame + 14;
    memcpy(frame + 12, "\x08\x00\x45\x00", 4);
    ip[2] = (uint8_t)((20 + len) >> 8);
    ip[3] = (uint8_t)(20 + len);
    ip[5] = (uint8_t)id;
    ip[6] = (uint8_t)((more ? 0x20 : 0) | offset / 8 >> 8);
    ip[7] = (uint8_t)(offset / 8);
    ip[8] = 64;
    ip[9] = 17;
    uint16_t sum = offload_fold(offload_sum(ip, 20, 0));
    ip[10] = (uint8_t)(sum >> 8);
    ip[11] = (uint8_t)sum;
    memcpy(ip + 20, payload + offset % TOTAL, len);
    return reassemble(&all, frame, 34 + len + 3, &out, &out_len); /* with padding behind */
}

static void check_whole(unsigned len)
{
    assert_int_equal(out_len, 34 + len);
    assert_int_equal(out[16] << 8 | out[17], 20 + len);
    assert_int_equal(out[20] | out[21], 0);
    assert_int_equal(offload_fold(offload_sum(out + 14, 20, 0)), 0);
    assert_memory_equal(out + 34, payload, len);
}

static void test_in_order(void **state)
{
    assert_false(give(1, 0, 1480, true));
    assert_false(give(2, 0, 1480, true)); /* another between */
    assert_false(give(1, 1480, 1480, true));
    assert_true(give(2, 1480, 100, false));
    check_whole(1580);
    assert_true(give(1, 2960, TOTAL - 2960, false));
    check_whole(TOTAL);
    assert_false(give(1, 2960, 100, false)); /* it is gone */
}

static void test_refused(void **state)
{
    assert_false(give(3, 0, 1480, true));
    assert_false(give(3, 1472, 1480, true)); /* overlap */
    assert_false(give(3, 1480, 8, false));
    assert_false(give(4, 0, 1480, true));
    assert_false(give(4, 2960, 8, false)); /* a hole */
    assert_false(give(4, 1480, 8, false));
    assert_false(give(5, 0, 12, true)); /* not a multiple of 8 */
    assert_false(give(5, 8, 8, false));
    assert_false(give(6, 0, 0, true)); /* nothing */
    assert_false(give(6, 0, 8, true));
    assert_false(give(6, 0, 16, true)); /* begun again */
    assert_true(give(6, 16, 8, false));
    check_whole(24);

    /* The ping of death. */
    assert_false(give(7, 0, 4992, true));
    unsigned at = 4992;
    for (; at + 4992 <= 65515; at += 4992)
        assert_false(give(7, at, 4992, true));
    assert_false(give(7, at, 4992, false));
    assert_false(give(7, at, 8, false));
}

static void test_slots(void **state)
{
    for (unsigned i = 0; i < REASSEMBLE_SLOTS + 1; i++)
        assert_false(give(100 + i, 0, 8, true));
    assert_false(give(100, 8, 8, false)); /* made room */
    for (unsigned i = 1; i < REASSEMBLE_SLOTS + 1; i++)
        assert_true(give(100 + i, 8, 8, false));
}

static void test_other_frames(void **state)
{
    uint8_t arp[42] = { 0 }, ip[60] = { 0 };
    arp[12] = 8;
    arp[13] = 6;
    assert_true(reassemble(&all, arp, sizeof arp, &out, &out_len));
    assert_ptr_equal(out, arp);
    memcpy(ip + 12, "\x08\x00\x45\x00\x00\x2e", 6);
    assert_true(reassemble(&all, ip, sizeof ip, &out, &out_len));
    ip[17]++; /* longer than the frame */
    assert_false(reassemble(&all, ip, sizeof ip, &out, &out_len));
    ip[17] = 19; /* shorter than its header */
    assert_false(reassemble(&all, ip, sizeof ip, &out, &out_len));
    assert_false(reassemble(&all, ip, 33, &out, &out_len));
    ip[14] = 0x44;
    assert_false(reassemble(&all, ip, sizeof ip, &out, &out_len));
}

int main(void)
{
    for (unsigned i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 3 + i / 256);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_other_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
