# SPDX-License-Identifier: GPL-2.0-or-later
# Java: javac, then a program under the interpreter, each compiler, and each collector, which must all agree.
cat >Work.java <<'END'
import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

public class Work {
    interface Shape { double area(); }
    record Circle(double r) implements Shape { public double area() { return Math.PI * r * r; } }
    record Square(double a) implements Shape { public double area() { return a * a; } }

    static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

    public static void main(String[] args) throws Exception {
        long h = 0;
        for (int i = 0; i < 3000000; i++) h = Long.rotateLeft(h, 5) ^ (i * 0x9E3779B97F4A7C15L);
        double f = 0;
        Shape[] shapes = new Shape[1000];
        for (int i = 0; i < shapes.length; i++) shapes[i] = i % 3 == 0 ? new Circle(i) : new Square(i);
        for (int r = 0; r < 300; r++) for (Shape s : shapes) f += s.area() / (r + 1);
        int[] ints = new Random(42).ints(300000).toArray();
        Arrays.sort(ints);
        for (int i = 0; i < ints.length; i += 11) h = h * 31 + ints[i];
        Map<String, Integer> map = new TreeMap<>();
        for (int i = 0; i < 50000; i++) map.merge(Integer.toString(i * 7919 % 5003, 36), i, Integer::sum);
        h = h * 31 + map.hashCode();
        BigInteger big = BigInteger.ONE;
        for (int i = 1; i < 800; i++) big = big.multiply(BigInteger.valueOf(i)).add(BigInteger.TEN.modPow(BigInteger.valueOf(i), BigInteger.valueOf(1000003)));
        byte[] sha = MessageDigest.getInstance("SHA-256").digest(big.toByteArray());
        long count = 0;
        for (int i = 0; i < 2000; i++)
            try { Object o = i % 2 == 0 ? null : "x"; count += o.hashCode(); } catch (NullPointerException e) { count += 7; }
        ExecutorService pool = Executors.newFixedThreadPool(4);
        AtomicLong atomic = new AtomicLong();
        long[] locked = new long[1];
        List<Future<?>> all = new ArrayList<>();
        for (int t = 0; t < 4; t++)
            all.add(pool.submit(() -> {
                for (int i = 0; i < 100000; i++) {
                    atomic.incrementAndGet();
                    if (i % 10 == 0) synchronized (locked) { locked[0]++; }
                }
            }));
        for (Future<?> one : all) one.get();
        pool.shutdown();
        long garbage = IntStream.range(0, 300000).parallel().mapToObj(i -> new int[i % 50]).mapToLong(a -> a.length).sum();
        System.out.println("same java: " + h + " " + f + " " + Arrays.hashCode(sha) + " " + count + " " + atomic + " " + locked[0]
            + " " + garbage + " " + fib(25));
    }
}
END
javac Work.java
for options in -Xint "-XX:TieredStopAtLevel=1" "-XX:-TieredCompilation" "" -Xcomp -XX:+UseSerialGC -XX:+UseParallelGC \
    -XX:+UseG1GC "-XX:+UseZGC" "-XX:+UseShenandoahGC" "-XX:UseAVX=0" "-XX:UseSSE=2"; do
    echo "java $options"
    # shellcheck disable=SC2086
    java -Xmx256m $options Work
done
echo good
