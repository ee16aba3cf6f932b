/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD addresses: every part, and the sentence for each mistake. */
#include "block/nbd_uri.h"

#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_parts(void **state)
{
    struct nbd_uri uri;
    struct err err;
    assert_int_equal(nbd_uri_parse("nbd://host/", &uri, &err), 0);
    assert_string_equal(uri.host, "host");
    assert_string_equal(uri.port, "10809");
    assert_string_equal(uri.export, "");
    assert_false(uri.tls);
    assert_int_equal(uri.connections, 4);
    nbd_uri_fini(&uri);

    assert_int_equal(
        nbd_uri_parse("nbds://al%69ce@[::1]:99/a%2fb/c?tls-psk-file=/k%26&connections=1&"
                      "reconnect=0",
                      &uri, &err),
        0);
    assert_true(uri.tls);
    assert_string_equal(uri.user, "alice");
    assert_string_equal(uri.host, "::1");
    assert_string_equal(uri.port, "99");
    assert_string_equal(uri.export, "a/b/c");
    assert_string_equal(uri.psk, "/k&");
    assert_int_equal(uri.connections, 1);
    assert_int_equal(uri.reconnect_s, 0);
    nbd_uri_fini(&uri);

    assert_int_equal(nbd_uri_parse("nbd+unix:///disk?socket=/run/s", &uri, &err), 0);
    assert_null(uri.host);
    assert_string_equal(uri.export, "disk");
    assert_string_equal(uri.socket, "/run/s");
    nbd_uri_fini(&uri);

    assert_int_equal(nbd_uri_parse("nbds+unix://?socket=s&tls-certificates=/c", &uri, &err), 0);
    assert_string_equal(uri.socket, "s");
    assert_string_equal(uri.certificates, "/c");
    nbd_uri_fini(&uri);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "http://x/", "begins with nbd://" },
        { "nbd:x", "there are nbd://" },
        { "nbd:///x", "names no host" },
        { "nbd://h:0/", "port" },
        { "nbd://h:70000/", "port" },
        { "nbd://h:x/", "port" },
        { "nbd://[::1/", "lacks its ']'" },
        { "nbd://[::1]x/", "goes on with 'x/'" },
        { "nbd://h/%4", "two hexadecimal" },
        { "nbd://h/%00", "two hexadecimal" },
        { "nbd://h/%gg", "two hexadecimal" },
        { "nbd://h/?socket=/s", "goes with nbd+unix" },
        { "nbd+unix:///", "lacks ?socket" },
        { "nbd+unix:///?sock=/s", "known are socket" },
        { "nbd+unix:///?socket=", "needs a value" },
        { "nbd://h/?connections=0", "connections" },
        { "nbd://h/?timeout=soon", "timeout" },
        { "nbd://h/?tls-psk-file=/k", "go with nbds" },
        { "nbds://h/?tls-psk-file=/k&tls-certificates=/c", "either" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct nbd_uri uri;
        struct err err;
        if (nbd_uri_parse(bad[i].text, &uri, &err) != -EINVAL || !strstr(err.text, bad[i].says))
            fail_msg("%s: %s", bad[i].text, err.text);
        nbd_uri_fini(&uri);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
