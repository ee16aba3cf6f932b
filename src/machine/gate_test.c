/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When a gate frees, and for whom it waits. Looks inside: what is freed too early shows nowhere
 * else. */
#include "machine/gate.c"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned waiting(const struct gate *g)
{
    unsigned count = 0;
    for (const struct gate_retired *r = g->retired; r; r = r->next)
        count++;
    return count;
}

static void test_retire(void **state)
{
    struct gate g;
    gate_init(&g);
    gate_retire(&g, NULL);
    gate_retire(&g, malloc(1));
    assert_int_equal(waiting(&g), 0); /* nobody inside: freed at once */

    for (unsigned start = 0; start < 2; start++) {
        unsigned token = gate_enter(&g);
        for (unsigned i = 1; i <= 6; i++) {
            gate_retire(&g, malloc(1));
            assert_int_equal(waiting(&g), i);
        }
        /* One who came later holds up only what was retired since. */
        while (g.parity % 2 == token)
            gate_retire(&g, malloc(1));
        unsigned later = gate_enter(&g);
        gate_leave(&g, token);
        gate_retire(&g, malloc(1));
        assert_int_equal(waiting(&g), 1);
        unsigned nested = gate_enter(&g);
        gate_leave(&g, later);
        gate_retire(&g, malloc(1));
        assert_true(waiting(&g) >= 1);
        gate_leave(&g, nested);
        gate_retire(&g, malloc(1));
        assert_int_equal(waiting(&g), 0);
        gate_retire(&g, malloc(1)); /* the other parity next */
    }
    gate_fini(&g);
}

struct reader {
    struct gate *g;
    _Atomic bool go;   /* it may leave soon */
    _Atomic int stage; /* 1: inside, 2: about to leave */
};

static void *reader_run(void *arg)
{
    struct reader *r = arg;
    unsigned token = gate_enter(r->g);
    r->stage = 1;
    while (!r->go)
        usleep(100);
    usleep(20000);
    r->stage = 2;
    gate_leave(r->g, token);
    return NULL;
}

static void test_wait(void **state)
{
    struct gate g;
    gate_init(&g);
    gate_wait(&g);
    for (unsigned i = 0; i < 4; i++) {
        struct reader r = { .g = &g };
        pthread_t thread;
        pthread_create(&thread, NULL, reader_run, &r);
        while (!r.stage)
            usleep(100);
        gate_retire(&g, malloc(1)); /* flips the parity in every round */
        assert_int_equal(waiting(&g), 1);
        r.go = true;
        gate_wait(&g);
        assert_int_equal(r.stage, 2);
        assert_int_equal(waiting(&g), 0);
        pthread_join(thread, NULL);
        if (i & 1)
            gate_retire(&g, malloc(1));
    }
    gate_fini(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retire),
        cmocka_unit_test(test_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
