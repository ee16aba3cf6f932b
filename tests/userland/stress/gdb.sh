# SPDX-License-Identifier: GPL-2.0-or-later
# gdb: breakpoints, conditions, stepping, the CPU's watch points, threads, calls into the program, core files.
cat >work.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int shared;
static double last;

static int leaf(int x)
{
    shared = x * 3;
    last = x / 7.0;
    return shared + 1;
}

static int inner(int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += leaf(i);
    return sum;
}

static void *thread(void *arg)
{
    return (void *)(long)inner((int)(long)arg);
}

int main(void)
{
    pthread_t threads[3];
    setbuf(stdout, NULL);
    printf("inner=%d\n", inner(100));
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, thread, (void *)(50 + i));
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("end %g\n", last);
    abort();
}
END
gcc -g -O1 -fno-inline -o work work.c -pthread
cat >script <<'END'
set pagination off
set confirm off
set debuginfod enabled off
break leaf if x == 42
run
echo @1 \n
print x
backtrace 3
delete
watch shared
continue
echo @2 \n
print shared
delete
break leaf
ignore 3 10
continue
echo @3 \n
print x
finish
stepi 20
next
next
tbreak leaf
delete 3
hbreak thread
continue
continue
echo @4 \n
info threads
delete
rwatch last
continue
echo @5 \n
delete
print inner(10)
print $xmm0.v2_double[0] * 0 + 1.5
generate-core-file core
continue
echo @6 \n
backtrace 3
kill
END
gdb -batch -nx -x script ./work >out 2>&1 </dev/null || true
cat out
wanted() { grep -qE "$1" out || { echo "gdb did not say: $1"; exit 1; }; }
wanted '^\$1 = 42'
wanted '^#1 .* inner \(n=(100|n@entry=100|<optimized out>)'
wanted 'Old value = 123'
wanted 'New value = 126'
wanted '^\$2 = 126'
wanted '^\$3 = 53'
wanted 'Value returned is .* = 160'
wanted 'hit .*thread \(arg='
wanted 'inner=14950'
wanted '= 145$'
wanted '= 1.5$'
wanted 'SIGABRT'
wanted 'in (__GI_)?raise|pthread_kill'
gdb -batch -nx -ex 'info threads' -ex 'print shared' ./work core >out 2>&1 || true
cat out
wanted 'Thread 0x'
# Stepping through a whole program, one instruction at a time.
cat >tiny.c <<'END'
int main(void)
{
    volatile int x = 0;
    for (int i = 0; i < 300; i++)
        x += i;
    return x == 44850 ? 0 : 1;
}
END
gcc -g -o tiny tiny.c
gdb -batch -nx -ex 'break main' -ex run -ex 'stepi 1500' -ex 'print i' -ex 'continue' ./tiny >out 2>&1
cat out
wanted 'exited normally'
echo good
