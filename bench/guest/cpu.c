/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Integer workloads. Each checks its result, so a wrong engine is caught. */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Results of a known-good machine. */
#define ALU_CRC 0xd749
#define INTERP_STEPS 1438
#define INTERP_COUNT 20303
#define DIV_SUM 0xf5fab7b5d33b730bull

/* --- alu_mix: list walk/reverse, int matrix, state machine, crc16 ------- */

struct node {
    struct node *next;
    int16_t key, val;
};

#define LIST_N 64
#define MAT_N 12

static struct node pool[LIST_N];
static int16_t mat_a[MAT_N][MAT_N], mat_b[MAT_N][MAT_N];
static const char text[] = "5012,1234,-874,+122,35.54400,.1234500,-110.700,+0.64400,5.500e+3,"
                           "-.123e-2,-87e+832,+0.6e-12,T0.3e-1F,-T.T++Tq,1T3.4e4z,34.0e-T^,";

static uint16_t crc16(uint16_t crc, uint32_t data, int bits)
{
    while (bits--) {
        unsigned x = (crc ^ data) & 1;
        data >>= 1;
        crc >>= 1;
        if (x)
            crc ^= 0xA001;
    }
    return crc;
}

static uint16_t list_part(uint16_t crc, int seed)
{
    struct node *head = NULL, *rev = NULL, *p;
    for (int i = 0; i < LIST_N; i++) {
        pool[i].key = (int16_t)((i * 37 + seed) & 63);
        pool[i].val = (int16_t)(i ^ seed);
        pool[i].next = head;
        head = &pool[i];
    }
    while (head) { /* insertion sort by key while reversing */
        struct node *n = head, **q = &rev;
        head = head->next;
        while (*q && (*q)->key < n->key)
            q = &(*q)->next;
        n->next = *q;
        *q = n;
    }
    for (p = rev; p; p = p->next)
        crc = crc16(crc, (uint16_t)(p->key * 3 + p->val), 16);
    return crc;
}

static uint16_t matrix_part(uint16_t crc, int seed)
{
    int32_t sum = 0;
    for (int i = 0; i < MAT_N; i++)
        for (int j = 0; j < MAT_N; j++) {
            mat_a[i][j] = (int16_t)(i * j + seed);
            mat_b[i][j] = (int16_t)((i + 1) * (j + 3) - seed);
        }
    for (int i = 0; i < MAT_N; i++)
        for (int j = 0; j < MAT_N; j++) {
            int32_t c = 0;
            for (int k = 0; k < MAT_N; k++) {
                int32_t t = mat_a[i][k] * mat_b[k][j];
                c += ((t >> 2) & 0xf) * ((t >> 5) & 0x7f);
            }
            sum += c % (i + j + 7);
            crc = crc16(crc, (uint32_t)(c >> 1), 16);
        }
    return crc16(crc, (uint32_t)sum, 32);
}

static uint16_t state_part(uint16_t crc, int seed)
{
    enum { START, SIGN, INT, FLOAT, EXP, SCI, BAD, NSTATE } s = START;
    uint32_t count[NSTATE] = { 0 };
    for (size_t i = 0; i + 1 < sizeof text; i++) {
        char c = text[(i + (unsigned)seed) % (sizeof text - 1)];
        int digit = c >= '0' && c <= '9';
        if (c == ',') {
            count[s]++;
            s = START;
            continue;
        }
        switch (s) {
        case START: s = digit ? INT : c == '+' || c == '-' ? SIGN : c == '.' ? FLOAT : BAD; break;
        case SIGN: s = digit ? INT : c == '.' ? FLOAT : BAD; break;
        case INT: s = digit ? INT : c == '.' ? FLOAT : c == 'e' ? EXP : BAD; break;
        case FLOAT: s = digit ? FLOAT : c == 'e' ? EXP : BAD; break;
        case EXP: s = digit || c == '+' || c == '-' ? SCI : BAD; break;
        case SCI: s = digit ? SCI : BAD; break;
        default: break;
        }
    }
    for (int i = 0; i < NSTATE; i++)
        crc = crc16(crc, count[i], 16);
    return crc;
}

static void alu_run(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t crc = 0xffff;
        for (int s = 0; s < 4; s++) {
            crc = list_part(crc, s * 5 + 1);
            crc = matrix_part(crc, s);
            crc = state_part(crc, s * 7);
        }
        if (crc != ALU_CRC)
            bench_fail("crc %04x", crc);
    }
}

/* --- qsort: 1M ints ----------------------------------------------------- */

#define SORT_N (1 << 20)
static int *sort_v;

static int cmp_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int sort_setup(void)
{
    sort_v = malloc(SORT_N * sizeof *sort_v);
    return sort_v ? (memset(sort_v, 1, SORT_N * sizeof *sort_v), SETUP_OK) : SETUP_FAIL;
}

static void sort_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        uint64_t s = 88172645463325252ull + r;
        uint32_t a = 0, b = 0;
        for (int i = 0; i < SORT_N; i++)
            a += sort_v[i] = (int)rng_next(&s);
        qsort(sort_v, SORT_N, sizeof *sort_v, cmp_int);
        b = sort_v[0];
        for (int i = 1; i < SORT_N; i++) {
            if (sort_v[i - 1] > sort_v[i])
                bench_fail("order at %d", i);
            b += sort_v[i];
        }
        if (a != b)
            bench_fail("sum");
    }
}

/* --- hash: open addressing, insert / find / delete ----------------------- */

#define HASH_BITS 16
#define HASH_N (1u << HASH_BITS)
static struct {
    uint64_t key, val;
} htab[HASH_N];

static uint64_t mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t hslot(uint64_t key)
{
    uint32_t i = (uint32_t)(mix64(key) >> (64 - HASH_BITS));
    while (htab[i].key && htab[i].key != key)
        i = (i + 1) & (HASH_N - 1);
    return i;
}

static void hash_run(uint64_t n)
{
    enum { K = 20000 };
    for (uint64_t r = 0; r < n; r++) {
        uint64_t hit = 0, sum = 0;
        for (uint32_t i = 0; i < HASH_N; i++) /* not memset: that is measured elsewhere */
            htab[i].key = 0;
        for (uint64_t k = 1; k <= K; k++) {
            uint32_t i = hslot(k * 7919);
            htab[i].key = k * 7919;
            htab[i].val = k;
        }
        for (uint64_t k = 1; k <= 2 * K; k++) {
            uint32_t i = hslot(k * 7919);
            if (htab[i].key)
                hit++, sum += htab[i].val;
        }
        if (hit != K || sum != (uint64_t)K * (K + 1) / 2)
            bench_fail("hits %lu", (unsigned long)hit);
    }
}

/* --- sha256 in plain C --------------------------------------------------- */

static const uint32_t K256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ROR(a, 7) ^ ROR(a, 18) ^ a >> 3) +
               (ROR(b, 17) ^ ROR(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ROR(s[4], 6) ^ ROR(s[4], 11) ^ ROR(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + K256[i] + w[i];
        uint32_t t2 = (ROR(s[0], 2) ^ ROR(s[0], 13) ^ ROR(s[0], 22)) +
                      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6];
        s[6] = s[5];
        s[5] = s[4];
        s[4] = s[3] + t1;
        s[3] = s[2];
        s[2] = s[1];
        s[1] = s[0];
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

static const uint32_t sha_iv[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};
static uint8_t sha_buf[16384];
static uint32_t sha_want[8];

static int sha_setup(void)
{
    uint8_t b[64] = { 'a', 'b', 'c', 0x80, [63] = 24 };
    uint32_t h[8];
    memcpy(h, sha_iv, sizeof h);
    sha_block(h, b);
    if (h[0] != 0xba7816bf || h[7] != 0xf20015ad)
        bench_fail("test vector %08x", h[0]);
    for (size_t i = 0; i < sizeof sha_buf; i++)
        sha_buf[i] = (uint8_t)(i * 7 + (i >> 8));
    return SETUP_OK;
}

static void sha_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        uint32_t h[8];
        memcpy(h, sha_iv, sizeof h);
        for (size_t i = 0; i < sizeof sha_buf; i += 64)
            sha_block(h, sha_buf + i);
        if (!sha_want[0])
            memcpy(sha_want, h, sizeof h);
        else if (memcmp(sha_want, h, sizeof h))
            bench_fail("digest changed");
    }
}

/* --- interp: a small bytecode VM with computed goto ---------------------- */

enum {
    OP_PUSH,
    OP_LOAD,
    OP_STORE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_SHR,
    OP_ODD,
    OP_JNZ,
    OP_JMP,
    OP_INC,
    OP_HALT
};

/* Collatz steps of 1..59; v0 = i, v1 = x, v2 = steps. Jump targets are absolute. */
static const uint8_t prog[] = {
    /*  0 */ OP_PUSH, 1,  OP_STORE, 0,
    /*  4 */ OP_LOAD, 0,  OP_STORE, 1,
    /*  8 */ OP_LOAD, 1,  OP_PUSH,  1, OP_SUB,  OP_JNZ,   17,
    /* 15 */ OP_JMP,  45,
    /* 17 */ OP_INC,  2,  OP_LOAD,  1, OP_ODD,  OP_JNZ,   33,
    /* 24 */ OP_LOAD, 1,  OP_PUSH,  1, OP_SHR,  OP_STORE, 1,      OP_JMP, 8,
    /* 33 */ OP_LOAD, 1,  OP_PUSH,  3, OP_MUL,  OP_PUSH,  1,      OP_ADD, OP_STORE, 1,
    OP_JMP,           8,
    /* 45 */ OP_INC,  0,  OP_LOAD,  0, OP_PUSH, 60,       OP_SUB, OP_JNZ, 4,
    /* 54 */ OP_HALT,
};

static uint64_t vm_run(int64_t *steps_out)
{
    /* label table order follows the enum above */
    static const void *const go[] = {
        &&push, &&load, &&store, &&add, &&sub, &&mul, &&shr, &&odd, &&jnz, &&jmp, &&inc, &&halt,
    };
    int64_t st[16], var[4] = { 0 }, *sp = st;
    const uint8_t *pc = prog;
    uint64_t count = 0;
#define NEXT()           \
    do {                 \
        count++;         \
        goto *go[*pc++]; \
    } while (0)
    NEXT();
push:
    *sp++ = *pc++;
    NEXT();
load:
    *sp++ = var[*pc++];
    NEXT();
store:
    var[*pc++] = *--sp;
    NEXT();
add:
    sp--;
    sp[-1] += *sp;
    NEXT();
sub:
    sp--;
    sp[-1] -= *sp;
    NEXT();
mul:
    sp--;
    sp[-1] *= *sp;
    NEXT();
shr:
    sp--;
    sp[-1] >>= *sp;
    NEXT();
jnz:
    sp--;
    pc = *sp ? prog + *pc : pc + 1;
    NEXT();
jmp:
    pc = prog + *pc;
    NEXT();
inc:
    var[*pc++]++;
    NEXT();
odd:
    sp[-1] &= 1;
    NEXT();
halt:
    *steps_out = var[2];
    return count;
}

static void interp_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        int64_t steps = 0;
        uint64_t c = vm_run(&steps);
        if (steps != INTERP_STEPS || c != INTERP_COUNT)
            bench_fail("steps %ld count %lu", (long)steps, (unsigned long)c);
    }
}

/* --- fib: call/ret -------------------------------------------------------- */

__attribute__((noipa, noinline, optimize("no-optimize-sibling-calls"))) static uint64_t fib(
    uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void fib_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++)
        if (fib(18) != 2584)
            bench_fail("fib");
}

/* --- div: 64-bit division ------------------------------------------------- */

static void div_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        uint64_t a = 0xfedcba9876543210ull, s = 0;
        for (uint64_t d = 3; d < 1003; d++) {
            KEEP(a);
            s += a / d + a % d;
        }
        if (s != DIV_SUM)
            bench_fail("sum %lx", (unsigned long)s);
    }
}

const struct bench cpu_benches[] = {
    { "alu_mix", "iter/s", 1, NULL, alu_run, NULL },
    { "qsort", "Melem/s", SORT_N / 1e6, sort_setup, sort_run, NULL },
    { "hash", "Mops/s", 0.06, NULL, hash_run, NULL },
    { "sha256", "MB/s", sizeof sha_buf / 1e6, sha_setup, sha_run, NULL },
    { "div64", "Mops/s", 1e-3, NULL, div_run, NULL },
    { "interp", "Mops/s", INTERP_COUNT / 1e6, NULL, interp_run, NULL },
    { "fib", "Mcalls/s", 8361 / 1e6, NULL, fib_run, NULL },
    { 0 },
};
