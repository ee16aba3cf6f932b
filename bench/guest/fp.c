/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Floating point: SSE2 double, AVX2+FMA float, x87. Results are checked bit by bit. */
#include "bench.h"
#include <immintrin.h>
#include <string.h>

/* Results of a known-good machine. */
#define SCALAR_BITS 0x4070331477841ce0ull
#define AVX2_BITS 0x45283ec4u
#define X87_MANT 0xe7623051f99a9ad2ull

/* --- matmul_sse2: 64x64 doubles -----------------------------------------------
 * The numbers are inexact on purpose: some engines have a fast path that only
 * opens once the inexact flag is up, as it is in most real programs. The order
 * of the sums is fixed, so the result can still be compared exactly. */

#define M 64
static double ma[M][M] __attribute__((aligned(64))), mb[M][M] __attribute__((aligned(64))),
    mc[M][M] __attribute__((aligned(64)));

static int matmul_setup(void)
{
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            ma[i][j] = ((i * 3 + j * 7) % 17 - 8) * 0.1;
            mb[i][j] = (i * 5 + j * 11) % 13 * 0.3;
        }
    return SETUP_OK;
}

static void matmul_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j += 8) {
                __m128d c0 = _mm_setzero_pd(), c1 = c0, c2 = c0, c3 = c0;
                for (int k = 0; k < M; k++) {
                    __m128d a = _mm_set1_pd(ma[i][k]);
                    c0 = _mm_add_pd(c0, _mm_mul_pd(a, _mm_load_pd(&mb[k][j])));
                    c1 = _mm_add_pd(c1, _mm_mul_pd(a, _mm_load_pd(&mb[k][j + 2])));
                    c2 = _mm_add_pd(c2, _mm_mul_pd(a, _mm_load_pd(&mb[k][j + 4])));
                    c3 = _mm_add_pd(c3, _mm_mul_pd(a, _mm_load_pd(&mb[k][j + 6])));
                }
                _mm_store_pd(&mc[i][j], c0);
                _mm_store_pd(&mc[i][j + 2], c1);
                _mm_store_pd(&mc[i][j + 4], c2);
                _mm_store_pd(&mc[i][j + 6], c3);
            }
        CLOBBER();
    }
    double got = 0, want = 0;
    for (int i = 0; i < M; i++) {
        double s = 0;
        for (int k = 0; k < M; k++)
            s += ma[i][k] * mb[k][M - 1 - i];
        want += s;
        got += mc[i][M - 1 - i];
    }
    if (got != want)
        bench_fail("%.17g != %.17g", got, want);
}

/* --- scalar_sse2: scalar double, dependent chain with divide and sqrt ------ */

static void scalar_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        double x = 1.5, s = 0;
        uint64_t bits;
        for (int i = 1; i <= 500; i++) {
            double d = i;
            KEEP(i);
            x = x * 1.0009765625 + 0.25 / d;
            __asm__("sqrtsd %1, %0" : "=x"(d) : "x"(x));
            s += d - (double)(int)d;
        }
        memcpy(&bits, &s, 8);
        if (bits != SCALAR_BITS)
            bench_fail("bits %016lx", (unsigned long)bits);
    }
}

/* --- avx2: float polynomial, FMA ------------------------------------------- */

#define AV 2048
static float av[AV] __attribute__((aligned(64)));

static int avx2_setup(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return SETUP_SKIP;
    for (int i = 0; i < AV; i++)
        av[i] = (float)i / AV;
    return SETUP_OK;
}

__attribute__((target("avx2,fma"))) static void avx2_run(uint64_t n)
{
    const __m256 c0 = _mm256_set1_ps(1.0f), c1 = _mm256_set1_ps(0.5f), c2 = _mm256_set1_ps(0.25f),
                 c3 = _mm256_set1_ps(-0.125f), c4 = _mm256_set1_ps(0.0625f);
    for (uint64_t r = 0; r < n; r++) {
        __m256 sum = _mm256_setzero_ps();
        uint32_t bits;
        for (int i = 0; i < AV; i += 16) {
            __m256 x = _mm256_load_ps(av + i), y = _mm256_load_ps(av + i + 8);
            __m256 p = c4, q = c4;
            p = _mm256_fmadd_ps(p, x, c3);
            q = _mm256_fmadd_ps(q, y, c3);
            p = _mm256_fmadd_ps(p, x, c2);
            q = _mm256_fmadd_ps(q, y, c2);
            p = _mm256_fmadd_ps(p, x, c1);
            q = _mm256_fmadd_ps(q, y, c1);
            p = _mm256_fmadd_ps(p, x, c0);
            q = _mm256_fmadd_ps(q, y, c0);
            sum = _mm256_add_ps(sum, _mm256_add_ps(p, q));
        }
        __m128 t = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
        t = _mm_hadd_ps(t, t);
        t = _mm_hadd_ps(t, t);
        bits = (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(t));
        if (bits != AVX2_BITS)
            bench_fail("bits %08x", bits);
    }
}

/* --- x87: 80-bit add, multiply, divide, square root ------------------------ */

static void x87_run(uint64_t n)
{
    for (uint64_t r = 0; r < n; r++) {
        long double s = 0, x = 1;
        uint64_t mant;
        for (int i = 1; i <= 500; i++) {
            x = x * 1.0078125L + 1.0L / i;
            long double q = x;
            __asm__("fsqrt" : "+t"(q));
            s = s + q;
        }
        memcpy(&mant, &s, 8);
        if (mant != X87_MANT)
            bench_fail("mantissa %016lx", (unsigned long)mant);
    }
}

const struct bench fp_benches[] = {
    /* flops: 2 per inner step */
    { "matmul_sse2", "Mflop/s", 2.0 * M *M *M / 1e6, matmul_setup, matmul_run, NULL },
    { "scalar_sse2", "Mflop/s", 500 * 6 / 1e6, NULL, scalar_run, NULL },
    { "avx2", "Mflop/s", AV * 9.0 / 1e6, avx2_setup, avx2_run, NULL },
    { "x87", "Mflop/s", 500 * 5 / 1e6, NULL, x87_run, NULL },
    { 0 },
};
