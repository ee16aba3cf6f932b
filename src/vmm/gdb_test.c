/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The debugger's packets against a target that is a few arrays. */
#include "vmm/gdb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct toy {
    struct arch_state cpus[2];
    uint8_t memory[256]; /* at gva 0x1000 */
    struct debug_point points[GDB_MAX_POINTS];
    unsigned point_count;
    enum gdb_action actions[2];
    unsigned goes, stops, kills;
};

static unsigned toy_cpus(void *arg) { return 2; }
static int toy_get(void *arg, unsigned cpu, struct arch_state *out)
{
    *out = ((struct toy *)arg)->cpus[cpu];
    return 0;
}
static int toy_set(void *arg, unsigned cpu, const struct arch_state *state)
{
    ((struct toy *)arg)->cpus[cpu] = *state;
    return 0;
}
static bool toy_has(uint64_t gva, size_t len) { return gva >= 0x1000 && gva + len <= 0x1100; }
static int toy_read(void *arg, unsigned cpu, uint64_t gva, void *out, size_t len)
{
    if (!toy_has(gva, len))
        return -EFAULT;
    memcpy(out, ((struct toy *)arg)->memory + (gva - 0x1000), len);
    return 0;
}
static int toy_write(void *arg, unsigned cpu, uint64_t gva, const void *data, size_t len)
{
    if (!toy_has(gva, len))
        return -EFAULT;
    memcpy(((struct toy *)arg)->memory + (gva - 0x1000), data, len);
    return 0;
}
static int toy_points(void *arg, const struct debug_point *points, unsigned count)
{
    struct toy *toy = arg;
    if (count > 4)
        return -ENOSPC;
    memcpy(toy->points, points, count * sizeof *points);
    toy->point_count = count;
    return 0;
}
static void toy_go(void *arg, const enum gdb_action *actions)
{
    struct toy *toy = arg;
    memcpy(toy->actions, actions, sizeof toy->actions);
    toy->goes++;
}
static void toy_stop(void *arg) { ((struct toy *)arg)->stops++; }
static void toy_kill(void *arg) { ((struct toy *)arg)->kills++; }

static const struct gdb_target toy_target = {
    .cpus = toy_cpus,
    .get_state = toy_get,
    .set_state = toy_set,
    .read = toy_read,
    .write = toy_write,
    .set_points = toy_points,
    .go = toy_go,
    .stop = toy_stop,
    .kill = toy_kill,
};

static struct toy toy;
static struct gdb gdb;

static int begin(void **state)
{
    memset(&toy, 0, sizeof toy);
    gdb_init(&gdb, &toy_target, &toy);
    return 0;
}

static int end(void **state)
{
    gdb_fini(&gdb);
    return 0;
}

static bool feed(const char *body)
{
    char packet[1024];
    unsigned sum = 0;
    for (const char *c = body; *c; c++)
        sum += (unsigned char)*c;
    int len = snprintf(packet, sizeof packet, "$%s#%02x", body, sum & 0xff);
    return gdb_feed(&gdb, (const uint8_t *)packet, (size_t)len);
}

/* The body of the one answer, without its acknowledgement. */
static const char *answer(void)
{
    static char body[GDB_MAX_PACKET * 2];
    const char *text = gdb.out.data ? (const char *)gdb.out.data : "";
    if (*text == '+')
        text++;
    assert_int_equal(*text, '$');
    const char *hash = strrchr(text, '#');
    assert_non_null(hash);
    unsigned sum = 0;
    for (const char *c = text + 1; c < hash; c++)
        sum += (unsigned char)*c;
    assert_int_equal(strtoul(hash + 1, NULL, 16), sum & 0xff);
    snprintf(body, sizeof body, "%.*s", (int)(hash - text - 1), text + 1);
    gdb.out.len = 0;
    return body;
}

static const char *ask(const char *body)
{
    gdb.out.len = 0;
    assert_true(feed(body));
    return answer();
}

static void registers(void **state)
{
    toy.cpus[0].gpr[R_BX] = 0x1122334455667788;
    toy.cpus[0].rip = 0xffffffff81000000;
    toy.cpus[1].gpr[R_AX] = 0xabcd;
    assert_string_equal(ask("p1"), "8877665544332211");
    assert_string_equal(ask("p10"), "00000081ffffffff");
    assert_string_equal(ask("Hg2"), "OK");
    assert_string_equal(ask("p0"), "cdab000000000000");
    assert_string_equal(ask("P0=0100000000000000"), "OK");
    assert_int_equal(toy.cpus[1].gpr[R_AX], 1);
    assert_string_equal(ask("pfff"), "E16");
    assert_string_equal(ask("P0=01"), "E16");
    assert_string_equal(ask("Hg3"), "E16");
    assert_string_equal(ask("qC"), "QC2");
}

static void all_registers_come_back(void **state)
{
    uint8_t *bytes = (uint8_t *)&toy.cpus[0];
    for (size_t i = 0; i < sizeof toy.cpus[0]; i++)
        bytes[i] = (uint8_t)(i * 3 + 1);
    char g[8192];
    snprintf(g, sizeof g, "G%s", ask("g"));
    struct arch_state before = toy.cpus[0];
    /* What the wire does not carry must stay. */
    gdb.out.len = 0;
    char packet[8300];
    unsigned sum = 0;
    for (const char *c = g; *c; c++)
        sum += (unsigned char)*c;
    int len = snprintf(packet, sizeof packet, "$%s#%02x", g, sum & 0xff);
    gdb_feed(&gdb, (const uint8_t *)packet, (size_t)len);
    assert_string_equal(answer(), "OK");
    assert_memory_equal(&before, &toy.cpus[0], sizeof before);
    assert_string_equal(ask("G00"), "E16");
}

static void tag_word(void **state)
{
    toy.cpus[0].fpu.ftw = 0x81;
    /* st0 to st7 are 24 to 31, fctrl 32, fstat 33, ftag 34 */
    assert_string_equal(ask("p22"), "fc3f0000");
    assert_string_equal(ask("P22=fcff0000"), "OK");
    assert_int_equal(toy.cpus[0].fpu.ftw, 1);
}

static void memory(void **state)
{
    memcpy(toy.memory, "\x90\xf4\xcc", 3);
    assert_string_equal(ask("m1000,3"), "90f4cc");
    assert_string_equal(ask("m2000,1"), "E0e");
    assert_string_equal(ask("M1004,2:beef"), "OK");
    assert_int_equal(toy.memory[4], 0xbe);
    assert_string_equal(ask("M1004,2:be"), "E16");
    assert_string_equal(ask("X1008,0:"), "OK");
    assert_string_equal(ask("X1008,2:a}]"), "OK");
    assert_memory_equal(toy.memory + 8, "a}", 2);
    assert_string_equal(ask("X1008,2:a"), "E16");
    assert_string_equal(ask("M1000,ffffffffffffffff:00"), "E16");
    assert_string_equal(ask("m1000,11112222333344445"), "E16");
}

static void points(void **state)
{
    assert_string_equal(ask("Z0,401000,1"), "OK");
    assert_string_equal(ask("Z0,401000,1"), "OK");
    assert_int_equal(toy.point_count, 1);
    assert_string_equal(ask("Z2,5000,8"), "OK");
    assert_string_equal(ask("Z4,6000,4"), "OK");
    assert_int_equal(toy.points[1].kind, DEBUG_WRITE);
    assert_int_equal(toy.points[2].kind, DEBUG_ACCESS);
    assert_string_equal(ask("Z2,5001,8"), "E16"); /* unaligned */
    assert_string_equal(ask("Z2,5000,3"), "E16");
    assert_string_equal(ask("Z5,5000,1"), "E16");
    assert_string_equal(ask("Z1,7000,1"), "OK");
    assert_string_equal(ask("Z1,8000,1"), "E1c"); /* the toy takes four */
    assert_string_equal(ask("z2,5000,8"), "OK");
    assert_int_equal(toy.point_count, 3);
    assert_int_equal(toy.points[1].gva, 0x6000);
    assert_string_equal(ask("z2,5000,8"), "OK");
}

static void running_and_stopping(void **state)
{
    assert_string_equal(ask("?"), "T05thread:1;");
    ask("Z0,401000,1");
    ask("Z2,5000,8");
    gdb.out.len = 0;
    feed("vCont;s:2;c");
    assert_int_equal(toy.actions[0], GDB_CONTINUE);
    assert_int_equal(toy.actions[1], GDB_STEP);
    assert_true(gdb.running);
    feed("g"); /* not while it runs */
    assert_memory_equal(gdb.out.data, "++", gdb.out.len);
    gdb.out.len = 0;
    gdb_stopped(&gdb, 1, &(struct debug_hit){ .step = true, .point = -1 });
    assert_string_equal(answer(), "T05thread:2;");

    feed("vCont;c");
    gdb.out.len = 0;
    gdb_stopped(&gdb, 0, &(struct debug_hit){ .point = 1 });
    assert_string_equal(answer(), "T05thread:1;watch:5000;");
    feed("c");
    gdb.out.len = 0;
    gdb_stopped(&gdb, 0, &(struct debug_hit){ .point = 0 });
    assert_string_equal(answer(), "T05thread:1;swbreak:;");

    feed("s");
    assert_int_equal(toy.actions[0], GDB_STEP);
    assert_int_equal(toy.actions[1], GDB_HOLD);
    gdb.out.len = 0;
    gdb_feed(&gdb, (const uint8_t *)"\x03", 1);
    assert_int_equal(toy.stops, 1);
    assert_string_equal(answer(), "T02thread:1;");
    assert_string_equal(ask("vCont;t"), "E16");
    assert_string_equal(ask("vCont;c:9"), "E16");
    assert_string_equal(ask("vCont;"), "E16");
}

static void threads_and_features(void **state)
{
    assert_string_equal(ask("qfThreadInfo"), "m1,2");
    assert_string_equal(ask("qsThreadInfo"), "l");
    assert_string_equal(ask("T2"), "OK");
    assert_string_equal(ask("T3"), "E16");
    assert_string_equal(ask("qXfer:features:read:target.xml:0,5"), "m<?xml");
    assert_string_equal(ask("qXfer:features:read:target.xml:fffff,5"), "l");
    assert_string_equal(ask("qXfer:features:read:other.xml:0,5"), "");
    assert_string_equal(ask("nonsense"), "");
}

static void damaged_packets(void **state)
{
    gdb_feed(&gdb, (const uint8_t *)"$g#00", 5);
    assert_memory_equal(gdb.out.data, "-", 1);
    gdb.out.len = 0;
    for (int i = 0; i < GDB_MAX_PACKET + 10; i++)
        gdb_feed(&gdb, (const uint8_t *)(i ? "a" : "$"), 1);
    gdb_feed(&gdb, (const uint8_t *)"#00", 3);
    assert_memory_equal(gdb.out.data, "-", 1);
    assert_string_equal(ask("QStartNoAckMode"), "OK");
    gdb.out.len = 0;
    feed("qC");
    assert_int_equal(gdb.out.data[0], '$');
}

static void leaving(void **state)
{
    assert_false(feed("D"));
    gdb_fini(&gdb);
    gdb_init(&gdb, &toy_target, &toy);
    assert_false(feed("k"));
    assert_int_equal(toy.kills, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(registers, begin, end),
        cmocka_unit_test_setup_teardown(all_registers_come_back, begin, end),
        cmocka_unit_test_setup_teardown(tag_word, begin, end),
        cmocka_unit_test_setup_teardown(memory, begin, end),
        cmocka_unit_test_setup_teardown(points, begin, end),
        cmocka_unit_test_setup_teardown(running_and_stopping, begin, end),
        cmocka_unit_test_setup_teardown(threads_and_features, begin, end),
        cmocka_unit_test_setup_teardown(damaged_packets, begin, end),
        cmocka_unit_test_setup_teardown(leaving, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
