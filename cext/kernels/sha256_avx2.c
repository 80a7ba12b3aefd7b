/* Eight SHA-256 messages at once with AVX2, for processors without the SHA extensions; the rest as in AVX-512. */
#include "sha256.h"

#ifndef WATTD_X86

const wattd_sha_kernel *wattd_sha_avx2(const wattd_sha_kernel *rest)
{
    (void)rest;
    return NULL;
}

#else

#include <immintrin.h>

#define LANES 8
#define VEC __m256i
#define TARGET __attribute__((target("avx2")))
#define XOR(a, b) _mm256_xor_si256(a, b)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define SHR(x, n) _mm256_srli_epi32(x, n)
#define ROR(x, n) _mm256_or_si256(SHR(x, n), _mm256_slli_epi32(x, 32 - (n)))
#define XOR3(a, b, c) XOR(XOR(a, b), c)
#define CH(e, f, g) XOR(g, _mm256_and_si256(e, XOR(f, g)))
#define MAJ(a, b, c) _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(c, _mm256_or_si256(a, b)))
#define SET1(x) _mm256_set1_epi32((int)(x))

static const wattd_sha_kernel *rest;

static inline __attribute__((always_inline)) TARGET __m256i swap_bytes(__m256i words)
{
    return _mm256_shuffle_epi8(
        words, _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL)));
}

/* Transposes eight rows of eight words. */
static inline __attribute__((always_inline)) TARGET void transpose(VEC to[8], const VEC from[8])
{
    VEC t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(from[i], from[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(from[i], from[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        to[j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x20);
        to[4 + j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x31);
    }
}

static inline __attribute__((always_inline)) TARGET void load_block(VEC w[16], const uint8_t *in, size_t stride)
{
    for (int half = 0; half < 2; half++) {
        VEC rows[8];
        for (int i = 0; i < 8; i++)
            rows[i] = swap_bytes(_mm256_loadu_si256((const __m256i *)(in + i * stride + 32 * half)));
        transpose(w + 8 * half, rows);
    }
}

static inline __attribute__((always_inline)) TARGET void store_digests(uint8_t *out, const VEC s[8])
{
    VEC rows[8];
    transpose(rows, s);
    for (int i = 0; i < 8; i++)
        _mm256_storeu_si256((__m256i *)(out + 32 * i), swap_bytes(rows[i]));
}

#include "sha256_lanes.h"

static wattd_sha_kernel kernel = {"avx2", NULL, lanes_double64, lanes_double80, lanes_search};

const wattd_sha_kernel *wattd_sha_avx2(const wattd_sha_kernel *leftover)
{
    if (!__builtin_cpu_supports("avx2"))
        return NULL;
    rest = leftover;
    kernel.transform = leftover->transform;
    return &kernel;
}

#endif
