# SPDX-License-Identifier: GPL-2.0-or-later
# Python's own test modules for what it asks of the kernel: signals, threads, processes, memory, sockets, time.
python3 -m test -j "$(nproc)" --timeout 1700 \
    test_ctypes test_mmap test_signal test_threading test_thread test_threadsignals test_queue test_subprocess \
    test_select test_poll test_epoll test_socket test_asyncio test_fork1 test_wait3 test_wait4 test_os test_posix \
    test_time test_faulthandler
echo good
