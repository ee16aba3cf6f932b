# SPDX-License-Identifier: GPL-2.0-or-later
# node: V8's compilers compute what its interpreter computes; workers, WebAssembly, garbage collection, crypto.
cat >work.js <<'END'
const crypto = require('crypto');
let h = 0;
const add = x => { h = (Math.imul(h, 31) + x) | 0; };
for (let i = 0; i < 2000000; i++) add(i ^ (h >>> 3));
const floats = new Float64Array(100000);
for (let i = 0; i < floats.length; i++) floats[i] = Math.sin(i) * Math.sqrt(i) / (1 + Math.cos(i) ** 2);
floats.sort();
let f = 0;
for (const x of floats) f += x;
const map = new Map();
for (let i = 0; i < 100000; i++) map.set('k' + (i * 7919 % 50021), { i, s: String(i).padStart(8, '0') });
for (const [k, v] of map) add(k.length + v.s.charCodeAt(7));
const words = Array.from({ length: 20000 }, (_, i) => (i * 2654435761 % 4294967296).toString(36)).sort();
for (const m of words.join(' ').matchAll(/([a-f]+)(\d+)?/g)) add(m[0].length + (m[2] ? +m[2].slice(0, 8) : 0));
let big = 1n;
for (let i = 1n; i < 1500n; i++) big *= i;
class Node { constructor(d) { this.l = d ? new Node(d - 1) : null; this.r = d ? new Node(d - 1) : null; }
    count() { return 1 + (this.l ? this.l.count() + this.r.count() : 0); } }
for (let i = 0; i < 20; i++) add(new Node(14).count());
// A WebAssembly module by hand: 3 * (the sum of i * i from the argument down to 1)
const wasm = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 126, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0,
    10, 35, 1, 33, 1, 1, 126, 3, 64, 32, 1, 32, 0, 173, 32, 0, 173, 126, 124, 33, 1, 32, 0, 65, 1, 107, 34, 0, 13, 0, 11,
    32, 1, 66, 3, 126, 11]);
let w = 0n;
if (typeof WebAssembly === 'object')
    w = new WebAssembly.Instance(new WebAssembly.Module(wasm)).exports.f(1000000);
let sum = 0n;
for (let i = 1n; i <= 1000000n; i++) sum += i * i;
const hash = crypto.createHash('sha256').update(big.toString()).digest('hex').slice(0, 16);
if (typeof WebAssembly === 'object' && w !== BigInt.asIntN(64, sum * 3n)) throw new Error('wasm ' + w);
console.log('same js:', h, f, hash, map.size, words[777], sum);
END
cat >workers.js <<'END'
// Threads that share memory: every increment counts.
const { Worker, isMainThread, workerData } = require('worker_threads');
const N = 4, ROUNDS = 200000;
if (isMainThread) {
    const shared = new Int32Array(new SharedArrayBuffer(64));
    let left = N;
    for (let i = 0; i < N; i++)
        new Worker(__filename, { workerData: shared }).on('exit', () => {
            if (--left == 0) {
                console.log('same workers:', shared[0], shared[1]);
                console.log('same workers:', N * ROUNDS, N * 1000);
            }
        });
} else {
    for (let i = 0; i < ROUNDS; i++) Atomics.add(workerData, 0, 1);
    for (let i = 0; i < 1000; i++) {
        while (Atomics.compareExchange(workerData, 2, 0, 1) !== 0) Atomics.wait(workerData, 2, 1, 1);
        workerData[1]++;
        Atomics.store(workerData, 2, 0);
        Atomics.notify(workerData, 2, 1);
    }
}
END
for options in "" --jitless --no-opt --always-sparkplug --always-opt --stress-compaction "--max-lazy --interrupt-budget=1000" \
    --no-enable-avx --no-enable-sse4-1; do
    echo "node $options"
    # shellcheck disable=SC2086
    node $options work.js
done
for i in 1 2 3 4 5; do
    node workers.js
done
echo good
