# SPDX-License-Identifier: GPL-2.0-or-later
# Python's own test modules for what it asks of the kernel: signals, threads, processes, memory, sockets, time.
# Two depend on how busy the host is: testInterrupted*Timeout of test_socket fails where the CPU is taken away for 50 ms in a
# bad moment, as a signal between Python's last look for one and poll() is only noticed when poll() has timed out (natively,
# too, with a debugger that waits at poll()); test_check_output_timeout wants a Python to start within 3 s.
python3 -m test -j "$(nproc)" --timeout 1700 --ignore 'testInterrupted*Timeout' --ignore test_check_output_timeout \
    test_ctypes test_mmap test_signal test_threading test_thread test_threadsignals test_queue test_subprocess \
    test_select test_poll test_epoll test_socket test_asyncio test_fork1 test_wait3 test_wait4 test_os test_posix \
    test_time test_faulthandler
echo good
