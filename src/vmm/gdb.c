/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets are "$body#sum" (gdb manual, appendix E). One table of registers makes the target
 * description and serves g, G, p and P; one table of packets serves the rest.
 *
 * A breakpoint stops before its instruction, so rip already is what gdb expects (hence swbreak and
 * hwbreak in qSupported: without them gdb would subtract one).
 */
#include "vmm/gdb.h"

#include "base/checked.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

enum { SIGNAL_INT = 2, SIGNAL_TRAP = 5, INTERRUPT_BYTE = 3 };

/* ---- registers ---- */

enum reg_kind { REG_PLAIN, REG_FTAG };

struct reg {
    const char *name, *type;
    unsigned bits;        /* on the wire */
    size_t offset, width; /* in arch_state; shorter than on the wire: zero-extended */
    enum reg_kind kind;
};

#define AT(field) offsetof(struct arch_state, field), sizeof(((struct arch_state *)0)->field)
#define GPR(name, index, type)                    \
    {                                             \
        name, type, 64, AT(gpr[index]), REG_PLAIN \
    }
#define SELECTOR(name, index)                                 \
    {                                                         \
        name, "int32", 32, AT(seg[index].selector), REG_PLAIN \
    }
#define ST(i)                                                                          \
    {                                                                                  \
        "st" #i, "i387_ext", 80, offsetof(struct arch_state, fpu.st[i]), 10, REG_PLAIN \
    }
#define XMM(i)                                             \
    {                                                      \
        "xmm" #i, "vec128", 128, AT(fpu.xmm[i]), REG_PLAIN \
    }
#define U64(name, field)                        \
    {                                           \
        name, "int64", 64, AT(field), REG_PLAIN \
    }

/* clang-format off */
static const struct reg core_regs[] = {
    GPR("rax", R_AX, "int64"), GPR("rbx", R_BX, "int64"), GPR("rcx", R_CX, "int64"), GPR("rdx", R_DX, "int64"),
    GPR("rsi", R_SI, "int64"), GPR("rdi", R_DI, "int64"), GPR("rbp", R_BP, "data_ptr"), GPR("rsp", R_SP, "data_ptr"),
    GPR("r8", R_8, "int64"), GPR("r9", R_9, "int64"), GPR("r10", R_10, "int64"), GPR("r11", R_11, "int64"),
    GPR("r12", R_12, "int64"), GPR("r13", R_13, "int64"), GPR("r14", R_14, "int64"), GPR("r15", R_15, "int64"),
    { "rip", "code_ptr", 64, AT(rip), REG_PLAIN },
    { "eflags", "i386_eflags", 32, offsetof(struct arch_state, rflags), 4, REG_PLAIN },
    SELECTOR("cs", S_CS), SELECTOR("ss", S_SS), SELECTOR("ds", S_DS), SELECTOR("es", S_ES), SELECTOR("fs", S_FS),
    SELECTOR("gs", S_GS),
    ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
    { "fctrl", "int", 32, AT(fpu.fcw), REG_PLAIN },
    { "fstat", "int", 32, AT(fpu.fsw), REG_PLAIN },
    { "ftag", "int", 32, AT(fpu.ftw), REG_FTAG },
    /* fip and fdp: offset in the lower half, selector above */
    { "fiseg", "int", 32, offsetof(struct arch_state, fpu.fip) + 4, 2, REG_PLAIN },
    { "fioff", "int", 32, offsetof(struct arch_state, fpu.fip), 4, REG_PLAIN },
    { "foseg", "int", 32, offsetof(struct arch_state, fpu.fdp) + 4, 2, REG_PLAIN },
    { "fooff", "int", 32, offsetof(struct arch_state, fpu.fdp), 4, REG_PLAIN },
    { "fop", "int", 32, AT(fpu.fop), REG_PLAIN },
};
static const struct reg sse_regs[] = {
    XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
    XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
    { "mxcsr", "i386_mxcsr", 32, AT(fpu.mxcsr), REG_PLAIN },
};
static const struct reg segment_regs[] = { U64("fs_base", seg[S_FS].base), U64("gs_base", seg[S_GS].base) };
static const struct reg system_regs[] = {
    U64("k_gs_base", kernel_gs_base), U64("cr0", cr0), U64("cr2", cr2), U64("cr3", cr3), U64("cr4", cr4),
    U64("cr8", cr8), U64("efer", efer),
};

static const struct { const char *name, *head; const struct reg *regs; unsigned count; } features[] = {
    { "org.gnu.gdb.i386.core",
      "<flags id=\"i386_eflags\" size=\"4\">"
      "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
      "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>"
      "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
      "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
      "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>"
      "<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>"
      "<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>"
      "<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>"
      "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>",
      core_regs, ARRAY_LEN(core_regs) },
    { "org.gnu.gdb.i386.sse",
      "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
      "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
      "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
      "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
      "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
      "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
      "<field name=\"uint128\" type=\"uint128\"/></union>"
      "<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/>"
      "<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
      "<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
      "<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/>"
      "<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>",
      sse_regs, ARRAY_LEN(sse_regs) },
    { "org.gnu.gdb.i386.segments", "", segment_regs, ARRAY_LEN(segment_regs) },
    { "bedplate.system", "", system_regs, ARRAY_LEN(system_regs) },
};
/* clang-format on */

static const struct reg *reg_find(uint64_t number)
{
    for (size_t f = 0; f < ARRAY_LEN(features); f++) {
        if (number < features[f].count)
            return &features[f].regs[number];
        number -= features[f].count;
    }
    return NULL;
}

/* The abridged tag word has a bit "not empty" for each register, the full one two bits, 3 for
 * empty. */
static uint16_t ftag_full(uint8_t abridged)
{
    uint16_t full = 0;
    for (unsigned i = 0; i < 8; i++)
        full |= (uint16_t)((abridged >> i & 1 ? 0 : 3) << 2 * i);
    return full;
}

static uint8_t ftag_abridged(uint16_t full)
{
    uint8_t abridged = 0;
    for (unsigned i = 0; i < 8; i++)
        abridged |= (uint8_t)(((full >> 2 * i & 3) != 3) << i);
    return abridged;
}

static void reg_get(const struct reg *reg, const struct arch_state *state, uint8_t wire[16])
{
    memset(wire, 0, 16);
    if (reg->kind == REG_FTAG) {
        uint16_t full = htole16(ftag_full(state->fpu.ftw));
        memcpy(wire, &full, 2);
        return;
    }
    memcpy(wire, (const char *)state + reg->offset, reg->width);
}

static void reg_set(const struct reg *reg, struct arch_state *state, const uint8_t wire[16])
{
    if (reg->kind == REG_FTAG) {
        uint16_t full;
        memcpy(&full, wire, 2);
        state->fpu.ftw = ftag_abridged(le16toh(full));
        return;
    }
    memcpy((char *)state + reg->offset, wire, reg->width);
}

static void target_xml(struct buf *out)
{
    buf_printf(
        out,
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">"
        "<architecture>i386:x86-64</architecture>");
    for (size_t f = 0; f < ARRAY_LEN(features); f++) {
        buf_printf(out, "<feature name=\"%s\">%s", features[f].name, features[f].head);
        for (unsigned i = 0; i < features[f].count; i++)
            buf_printf(out, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>",
                       features[f].regs[i].name, features[f].regs[i].bits,
                       features[f].regs[i].type);
        buf_printf(out, "</feature>");
    }
    buf_printf(out, "</target>");
}

/* ---- text ---- */

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void hex_add(struct buf *out, const uint8_t *data, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    char *text = buf_grow(out, len * 2);
    for (size_t i = 0; i < len; i++) {
        *text++ = digits[data[i] >> 4];
        *text++ = digits[data[i] & 15];
    }
}

/* A packet's body while it is taken apart. Ends at `end`; nothing beyond is looked at. */
struct cursor {
    const uint8_t *at, *end;
};

static bool take_char(struct cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != (uint8_t)wanted)
        return false;
    c->at++;
    return true;
}

static bool take_text(struct cursor *c, const char *wanted)
{
    size_t len = strlen(wanted);
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, wanted, len) != 0)
        return false;
    c->at += len;
    return true;
}

static bool take_number(struct cursor *c, uint64_t *out)
{
    uint64_t n = 0;
    const uint8_t *start = c->at;
    for (; c->at < c->end && hex_digit(*c->at) >= 0; c->at++) {
        if (n >> 60)
            return false;
        n = n << 4 | (unsigned)hex_digit(*c->at);
    }
    *out = n;
    return c->at > start;
}

static bool take_bytes(struct cursor *c, uint8_t *out, size_t len)
{
    if ((size_t)(c->end - c->at) < len * 2)
        return false;
    for (size_t i = 0; i < len; i++, c->at += 2) {
        int high = hex_digit(c->at[0]), low = hex_digit(c->at[1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* "-1" all, "0" any, else n + 1 of a vCPU. *cpu: its index, or UINT_MAX for all and any. */
static bool take_thread(struct gdb *gdb, struct cursor *c, unsigned *cpu)
{
    uint64_t n;
    *cpu = UINT32_MAX;
    if (take_text(c, "-1"))
        return true;
    if (!take_number(c, &n) || n > gdb->target->cpus(gdb->arg))
        return false;
    if (n)
        *cpu = (unsigned)n - 1;
    return true;
}

/* ---- answers ---- */

static void packet_send(struct gdb *gdb, const void *body, size_t len)
{
    const uint8_t *bytes = body;
    uint8_t sum = 0;
    buf_add(&gdb->out, "$", 1);
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = bytes[i];
        if (byte == '$' || byte == '#' || byte == '}' || byte == '*') {
            buf_add(&gdb->out, "}", 1);
            sum = (uint8_t)(sum + '}');
            byte ^= 0x20;
        }
        buf_add(&gdb->out, &byte, 1);
        sum = (uint8_t)(sum + byte);
    }
    buf_printf(&gdb->out, "#%02x", sum);
}

static void text_send(struct gdb *gdb, const char *text) { packet_send(gdb, text, strlen(text)); }
static void ok_or_error(struct gdb *gdb, int r)
{
    char text[8];
    snprintf(text, sizeof text, "E%02x", -r & 0xff);
    text_send(gdb, r < 0 ? text : "OK");
}

void gdb_stopped(struct gdb *gdb, unsigned cpu, const struct debug_hit *hit)
{
    char reason[64] = "";
    if (hit && !hit->step && hit->point >= 0 && (unsigned)hit->point < gdb->point_count) {
        static const char *const watch[] = { "watch", "rwatch", "awatch" };
        char type = gdb->points[hit->point].type;
        if (type >= '2')
            snprintf(reason, sizeof reason, "%s:%" PRIx64 ";", watch[type - '2'],
                     gdb->points[hit->point].point.gva);
        else
            snprintf(reason, sizeof reason, "%s:;", type == '0' ? "swbreak" : "hwbreak");
    }
    snprintf(gdb->last_stop, sizeof gdb->last_stop, "T%02xthread:%x;%s",
             hit ? SIGNAL_TRAP : SIGNAL_INT, cpu + 1, reason);
    gdb->cpu = gdb->step_cpu = cpu;
    if (gdb->running) {
        gdb->running = false;
        text_send(gdb, gdb->last_stop);
    }
}

void gdb_ended(struct gdb *gdb, int status)
{
    char text[8];
    snprintf(text, sizeof text, "W%02x", status & 0xff);
    if (gdb->running)
        text_send(gdb, text);
    gdb->running = false;
}

/* ---- packets ---- */

static void do_why(struct gdb *gdb, struct cursor *c) { text_send(gdb, gdb->last_stop); }

static void do_get_regs(struct gdb *gdb, struct cursor *c)
{
    struct arch_state state;
    int r = gdb->target->get_state(gdb->arg, gdb->cpu, &state);
    if (r < 0) {
        ok_or_error(gdb, r);
        return;
    }
    AUTO(buf_fini) struct buf hex = { 0 };
    const struct reg *reg;
    for (unsigned i = 0; (reg = reg_find(i)); i++) {
        uint8_t wire[16];
        reg_get(reg, &state, wire);
        hex_add(&hex, wire, reg->bits / 8);
    }
    packet_send(gdb, hex.data, hex.len);
}

static void do_set_regs(struct gdb *gdb, struct cursor *c)
{
    struct arch_state state;
    int r = gdb->target->get_state(gdb->arg, gdb->cpu, &state);
    const struct reg *reg;
    for (unsigned i = 0; r == 0 && (reg = reg_find(i)); i++) {
        uint8_t wire[16] = { 0 };
        if (take_bytes(c, wire, reg->bits / 8))
            reg_set(reg, &state, wire);
        else
            r = -EINVAL;
    }
    if (r == 0)
        r = gdb->target->set_state(gdb->arg, gdb->cpu, &state);
    ok_or_error(gdb, r);
}

static void do_get_reg(struct gdb *gdb, struct cursor *c)
{
    uint64_t number;
    struct arch_state state;
    const struct reg *reg = take_number(c, &number) ? reg_find(number) : NULL;
    int r = reg ? gdb->target->get_state(gdb->arg, gdb->cpu, &state) : -EINVAL;
    if (r < 0) {
        ok_or_error(gdb, r);
        return;
    }
    AUTO(buf_fini) struct buf hex = { 0 };
    uint8_t wire[16];
    reg_get(reg, &state, wire);
    hex_add(&hex, wire, reg->bits / 8);
    packet_send(gdb, hex.data, hex.len);
}

static void do_set_reg(struct gdb *gdb, struct cursor *c)
{
    uint64_t number;
    struct arch_state state;
    uint8_t wire[16] = { 0 };
    const struct reg *reg = take_number(c, &number) && take_char(c, '=') ? reg_find(number) : NULL;
    int r = reg && take_bytes(c, wire, reg->bits / 8)
                ? gdb->target->get_state(gdb->arg, gdb->cpu, &state)
                : -EINVAL;
    if (r == 0) {
        reg_set(reg, &state, wire);
        r = gdb->target->set_state(gdb->arg, gdb->cpu, &state);
    }
    ok_or_error(gdb, r);
}

static void do_read(struct gdb *gdb, struct cursor *c)
{
    uint64_t gva, len;
    if (!take_number(c, &gva) || !take_char(c, ',') || !take_number(c, &len)) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    if (len > GDB_MAX_PACKET / 2 - 4)
        len = GDB_MAX_PACKET / 2 - 4;
    AUTO(free) uint8_t *data = malloc(len + 1);
    int r = data ? gdb->target->read(gdb->arg, gdb->cpu, gva, data, len) : -ENOMEM;
    if (r < 0) {
        ok_or_error(gdb, r);
        return;
    }
    AUTO(buf_fini) struct buf hex = { 0 };
    hex_add(&hex, data, len);
    packet_send(gdb, hex.data, hex.len);
}

static bool take_range(struct cursor *c, uint64_t *gva, uint64_t *len)
{
    return take_number(c, gva) && take_char(c, ',') && take_number(c, len) && take_char(c, ':') &&
           *len <= GDB_MAX_PACKET;
}

static void do_write_hex(struct gdb *gdb, struct cursor *c)
{
    uint64_t gva, len;
    AUTO(free) uint8_t *data = malloc(GDB_MAX_PACKET);
    bool good = data && take_range(c, &gva, &len) && take_bytes(c, data, len);
    ok_or_error(gdb, good ? gdb->target->write(gdb->arg, gdb->cpu, gva, data, len) : -EINVAL);
}

static void do_write_binary(struct gdb *gdb, struct cursor *c)
{
    uint64_t gva, len;
    AUTO(free) uint8_t *data = malloc(GDB_MAX_PACKET);
    bool good = data && take_range(c, &gva, &len);
    size_t have = 0;
    for (; good && c->at < c->end && have < len; c->at++) {
        bool escape = *c->at == '}' && c->at + 1 < c->end;
        data[have++] = escape ? *++c->at ^ 0x20 : *c->at;
    }
    ok_or_error(gdb, good && have == len ? gdb->target->write(gdb->arg, gdb->cpu, gva, data, len)
                                         : -EINVAL);
}

static int points_apply(struct gdb *gdb)
{
    struct debug_point points[GDB_MAX_POINTS];
    for (unsigned i = 0; i < gdb->point_count; i++)
        points[i] = gdb->points[i].point;
    return gdb->target->set_points(gdb->arg, points, gdb->point_count);
}

/* Z and z: type,address,kind. A breakpoint's kind says nothing on x86; a watchpoint's is its
 * length. */
static bool take_point(struct cursor *c, char *type, struct debug_point *out)
{
    uint64_t len;
    *out = (struct debug_point){ 0 };
    if (c->at == c->end || *c->at < '0' || *c->at > '4')
        return false;
    *type = (char)*c->at++;
    if (!take_char(c, ',') || !take_number(c, &out->gva) || !take_char(c, ',') ||
        !take_number(c, &len))
        return false;
    /* Reads alone cannot be told from any access (DR7). */
    out->kind = *type < '2' ? DEBUG_EXEC : *type == '2' ? DEBUG_WRITE : DEBUG_ACCESS;
    out->len = *type < '2' ? 1 : (uint8_t)len;
    return *type < '2' || ((len == 1 || len == 2 || len == 4 || len == 8) && out->gva % len == 0);
}

static int point_find(const struct gdb *gdb, char type, uint64_t gva)
{
    for (unsigned i = 0; i < gdb->point_count; i++)
        if (gdb->points[i].type == type && gdb->points[i].point.gva == gva)
            return (int)i;
    return -1;
}

static void do_point_set(struct gdb *gdb, struct cursor *c)
{
    char type;
    struct debug_point point;
    if (!take_point(c, &type, &point)) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    if (point_find(gdb, type, point.gva) >= 0) {
        ok_or_error(gdb, 0);
        return;
    }
    if (gdb->point_count == GDB_MAX_POINTS) {
        ok_or_error(gdb, -ENOSPC);
        return;
    }
    gdb->points[gdb->point_count].type = type;
    gdb->points[gdb->point_count++].point = point;
    int r = points_apply(gdb);
    if (r < 0)
        gdb->point_count--;
    ok_or_error(gdb, r);
}

static void do_point_clear(struct gdb *gdb, struct cursor *c)
{
    char type;
    struct debug_point point;
    if (!take_point(c, &type, &point)) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    int i = point_find(gdb, type, point.gva);
    if (i >= 0) {
        gdb->point_count--;
        memmove(&gdb->points[i], &gdb->points[i + 1],
                (gdb->point_count - (unsigned)i) * sizeof gdb->points[0]);
    }
    ok_or_error(gdb, i >= 0 ? points_apply(gdb) : 0);
}

static void go(struct gdb *gdb, const enum gdb_action *actions)
{
    gdb->running = true;
    gdb->target->go(gdb->arg, actions);
}

/* c and s, perhaps with an address to go on at. */
static void go_simple(struct gdb *gdb, struct cursor *c, bool step)
{
    uint64_t rip;
    unsigned cpus = gdb->target->cpus(gdb->arg);
    unsigned cpu = gdb->step_cpu < cpus ? gdb->step_cpu : gdb->cpu;
    if (take_number(c, &rip)) {
        struct arch_state state;
        int r = gdb->target->get_state(gdb->arg, cpu, &state);
        state.rip = rip;
        if (r == 0)
            r = gdb->target->set_state(gdb->arg, cpu, &state);
        if (r < 0) {
            ok_or_error(gdb, r);
            return;
        }
    }
    enum gdb_action actions[GDB_MAX_CPUS];
    for (unsigned i = 0; i < cpus; i++)
        actions[i] = !step ? GDB_CONTINUE : i == cpu ? GDB_STEP : GDB_HOLD;
    go(gdb, actions);
}

static void do_continue(struct gdb *gdb, struct cursor *c) { go_simple(gdb, c, false); }
static void do_step(struct gdb *gdb, struct cursor *c) { go_simple(gdb, c, true); }

/* ";action:thread" repeated: the first that names a vCPU, or none, counts for it. Others stand
 * still. */
static void do_vcont(struct gdb *gdb, struct cursor *c)
{
    if (take_char(c, '?')) {
        text_send(gdb, "vCont;c;C;s;S");
        return;
    }
    unsigned cpus = gdb->target->cpus(gdb->arg);
    enum gdb_action actions[GDB_MAX_CPUS] = { GDB_HOLD };
    bool moves = false;
    while (take_char(c, ';')) {
        uint64_t signal;
        unsigned cpu = UINT32_MAX;
        if (c->at == c->end)
            break;
        char letter = (char)*c->at++;
        enum gdb_action action = (letter | 0x20) == 's' ? GDB_STEP : GDB_CONTINUE;
        bool good = strchr("cCsS", letter) && letter;
        if (good && (letter == 'C' || letter == 'S')) /* a guest takes no signals */
            good = take_number(c, &signal);
        if (good && take_char(c, ':'))
            good = take_thread(gdb, c, &cpu);
        if (!good) {
            ok_or_error(gdb, -EINVAL);
            return;
        }
        for (unsigned i = 0; i < cpus; i++)
            if (actions[i] == GDB_HOLD && (cpu == UINT32_MAX || cpu == i)) {
                actions[i] = action;
                moves = true;
            }
    }
    if (moves)
        go(gdb, actions);
    else
        ok_or_error(gdb, -EINVAL);
}

static void do_thread_select(struct gdb *gdb, struct cursor *c)
{
    unsigned cpu;
    bool for_step = take_char(c, 'c');
    if ((!for_step && !take_char(c, 'g')) || !take_thread(gdb, c, &cpu)) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    if (for_step)
        gdb->step_cpu = cpu; /* UINT_MAX: no particular one */
    else if (cpu != UINT32_MAX)
        gdb->cpu = cpu;
    ok_or_error(gdb, 0);
}

static void do_thread_alive(struct gdb *gdb, struct cursor *c)
{
    unsigned cpu;
    ok_or_error(gdb, take_thread(gdb, c, &cpu) && cpu != UINT32_MAX ? 0 : -EINVAL);
}

static void do_threads(struct gdb *gdb, struct cursor *c)
{
    AUTO(buf_fini) struct buf list = { 0 };
    for (unsigned i = 0; i < gdb->target->cpus(gdb->arg); i++)
        buf_printf(&list, "%c%x", i ? ',' : 'm', i + 1);
    packet_send(gdb, list.data, list.len);
}

static void do_threads_more(struct gdb *gdb, struct cursor *c) { text_send(gdb, "l"); }

static void do_thread_info(struct gdb *gdb, struct cursor *c)
{
    static const char *const activities[] = { "running", "halted", "waiting for start-up" };
    unsigned cpu;
    struct arch_state state;
    if (!take_thread(gdb, c, &cpu) || cpu == UINT32_MAX ||
        gdb->target->get_state(gdb->arg, cpu, &state) < 0) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    char text[64];
    snprintf(text, sizeof text, "vCPU %u, %s", cpu,
             state.activity < 3 ? activities[state.activity] : "?");
    AUTO(buf_fini) struct buf hex = { 0 };
    hex_add(&hex, (const uint8_t *)text, strlen(text));
    packet_send(gdb, hex.data, hex.len);
}

static void do_current_thread(struct gdb *gdb, struct cursor *c)
{
    char text[16];
    snprintf(text, sizeof text, "QC%x", gdb->cpu + 1);
    text_send(gdb, text);
}

static void do_features(struct gdb *gdb, struct cursor *c)
{
    uint64_t offset, len;
    if (!take_number(c, &offset) || !take_char(c, ',') || !take_number(c, &len)) {
        ok_or_error(gdb, -EINVAL);
        return;
    }
    AUTO(buf_fini) struct buf xml = { 0 };
    target_xml(&xml);
    if (offset > xml.len)
        offset = xml.len;
    /* Escapes may double it. */
    if (len > GDB_MAX_PACKET / 2 - 8)
        len = GDB_MAX_PACKET / 2 - 8;
    bool last = len >= xml.len - offset;
    AUTO(buf_fini) struct buf body = { 0 };
    buf_add(&body, last ? "l" : "m", 1);
    buf_add(&body, xml.data + offset, last ? xml.len - offset : len);
    packet_send(gdb, body.data, body.len);
}

static void do_supported(struct gdb *gdb, struct cursor *c)
{
    char text[160];
    snprintf(
        text, sizeof text,
        "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;swbreak+;hwbreak+;vContSupported+",
        GDB_MAX_PACKET - 16);
    text_send(gdb, text);
}

static void do_no_ack(struct gdb *gdb, struct cursor *c)
{
    text_send(gdb, "OK");
    gdb->no_ack = true;
}

static void do_attached(struct gdb *gdb, struct cursor *c) { text_send(gdb, "1"); }

static void do_detach(struct gdb *gdb, struct cursor *c)
{
    text_send(gdb, "OK");
    gdb->point_count = 0;
    gdb->detached = true;
}

static void do_kill(struct gdb *gdb, struct cursor *c)
{
    gdb->detached = true;
    gdb->target->kill(gdb->arg);
}

static void do_vkill(struct gdb *gdb, struct cursor *c)
{
    text_send(gdb, "OK");
    do_kill(gdb, c);
}

/* The first that fits counts. */
static const struct {
    const char *begins;
    void (*run)(struct gdb *gdb, struct cursor *c);
} packets[] = {
    { "?", do_why },
    { "g", do_get_regs },
    { "G", do_set_regs },
    { "p", do_get_reg },
    { "P", do_set_reg },
    { "m", do_read },
    { "M", do_write_hex },
    { "X", do_write_binary },
    { "Z", do_point_set },
    { "z", do_point_clear },
    { "c", do_continue },
    { "s", do_step },
    { "vCont", do_vcont },
    { "vKill", do_vkill },
    { "H", do_thread_select },
    { "T", do_thread_alive },
    { "qfThreadInfo", do_threads },
    { "qsThreadInfo", do_threads_more },
    { "qThreadExtraInfo,", do_thread_info },
    { "qC", do_current_thread },
    { "qXfer:features:read:target.xml:", do_features },
    { "qSupported", do_supported },
    { "QStartNoAckMode", do_no_ack },
    { "qAttached", do_attached },
    { "D", do_detach },
    { "k", do_kill },
};

static void packet_run(struct gdb *gdb)
{
    struct cursor c = { .at = gdb->packet, .end = gdb->packet + gdb->len };
    for (size_t i = 0; i < ARRAY_LEN(packets); i++)
        if (take_text(&c, packets[i].begins)) {
            packets[i].run(gdb, &c);
            return;
        }
    text_send(gdb, ""); /* not known here */
}

/* ---- bytes ---- */

static void packet_end(struct gdb *gdb)
{
    gdb->state = GDB_IDLE;
    bool good = gdb->sum == gdb->sum_sent && !gdb->too_long;
    if (!gdb->no_ack)
        buf_add(&gdb->out, good ? "+" : "-", 1);
    /* While the target runs the debugger may only interrupt. */
    if (good && !gdb->running)
        packet_run(gdb);
}

static void byte_idle(struct gdb *gdb, uint8_t byte)
{
    if (byte == '$') {
        gdb->state = GDB_BODY;
        gdb->len = gdb->sum = 0;
        gdb->too_long = false;
    } else if (byte == INTERRUPT_BYTE && gdb->running) {
        gdb->target->stop(gdb->arg);
        gdb_stopped(gdb, gdb->cpu, NULL);
    } /* '+' and '-': the carrier loses nothing, so nothing is sent again */
}

static void byte_body(struct gdb *gdb, uint8_t byte)
{
    if (byte == '#') {
        gdb->state = GDB_SUM1;
        return;
    }
    gdb->sum = (uint8_t)(gdb->sum + byte);
    if (gdb->len < GDB_MAX_PACKET)
        gdb->packet[gdb->len++] = byte;
    else
        gdb->too_long = true;
}

bool gdb_feed(struct gdb *gdb, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len && !gdb->detached; i++) {
        switch (gdb->state) {
        case GDB_IDLE: byte_idle(gdb, data[i]); break;
        case GDB_BODY: byte_body(gdb, data[i]); break;
        case GDB_SUM1:
            gdb->sum_sent = (uint8_t)((hex_digit(data[i]) & 15) << 4);
            gdb->state = GDB_SUM2;
            break;
        case GDB_SUM2:
            gdb->sum_sent |= (uint8_t)(hex_digit(data[i]) & 15);
            packet_end(gdb);
            break;
        }
    }
    return !gdb->detached;
}

void gdb_init(struct gdb *gdb, const struct gdb_target *target, void *arg)
{
    *gdb = (struct gdb){ .target = target, .arg = arg };
    snprintf(gdb->last_stop, sizeof gdb->last_stop, "T%02xthread:1;", SIGNAL_TRAP);
}

void gdb_fini(struct gdb *gdb) { buf_fini(&gdb->out); }
