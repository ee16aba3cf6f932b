/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ring of a disk is bound: no other operation, no other file, no further registration. */
#include "block/raw_uring.c"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int answer(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    assert_int_equal(io_uring_submit(ring), 1);
    assert_int_equal(io_uring_wait_cqe(ring, &cqe), 0);
    int r = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return r;
}

static void test_bound(void **state)
{
    if (!raw_uring_works()) {
        print_message("skipped: io_uring is refused here\n");
        skip();
    }
    char path[] = "/tmp/uring-test-XXXXXX", data[16] = "bound";
    struct iovec iov = { data, sizeof data };
    int fd = mkostemp(path, O_CLOEXEC), event = eventfd(0, EFD_CLOEXEC);
    struct io_uring ring;
    assert_int_equal(uring_make(&ring, fd, event), 0);

    io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
    assert_int_equal(answer(&ring), -EACCES);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(answer(&ring), -EACCES);
    io_uring_prep_writev(io_uring_get_sqe(&ring), fd, &iov, 1, 0); /* by descriptor */
    assert_int_equal(answer(&ring), -EACCES);
    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_writev(sqe, 1, &iov, 1, 0); /* a second fixed file */
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(answer(&ring), -EBADF);
    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_writev(sqe, 0, &iov, 1, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(answer(&ring), sizeof data);
    assert_int_equal(uring_register(&ring, IORING_UNREGISTER_FILES, NULL, 0), -EACCES);

    io_uring_queue_exit(&ring);
    close(fd);
    close(event);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_bound) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
