/* Sixteen SHA-256 messages at once with AVX-512; what is left over, and single messages, go to `rest`. */
#include "sha256.h"

#ifndef WATTD_X86

const wattd_sha_kernel *wattd_sha_avx512(const wattd_sha_kernel *rest)
{
    (void)rest;
    return NULL;
}

#else

#include <immintrin.h>

#define LANES 16
#define VEC __m512i
#define TARGET __attribute__((target("avx512f,avx512bw")))
#define ADD(a, b) _mm512_add_epi32(a, b)
#define ROR(x, n) _mm512_ror_epi32(x, n)
#define SHR(x, n) _mm512_srli_epi32(x, n)
#define XOR3(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0x96)
#define CH(e, f, g) _mm512_ternarylogic_epi32(e, f, g, 0xca)
#define MAJ(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xe8)
#define SET1(x) _mm512_set1_epi32((int)(x))

static const wattd_sha_kernel *rest;

static inline __attribute__((always_inline)) TARGET __m512i swap_bytes(__m512i words)
{
    return _mm512_shuffle_epi8(
        words, _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL)));
}

/* Transposes sixteen rows of sixteen words. */
static inline __attribute__((always_inline)) TARGET void load_block(VEC w[16], const uint8_t *in, size_t stride)
{
    VEC t[16], u[16];
    for (int i = 0; i < 16; i += 2) {
        VEC x = _mm512_loadu_si512(in + i * stride), y = _mm512_loadu_si512(in + (i + 1) * stride);
        t[i] = _mm512_unpacklo_epi32(x, y);
        t[i + 1] = _mm512_unpackhi_epi32(x, y);
    }
    /* u[4k + j]: of the rows 4k .. 4k+3, word 4L + j in each 128-bit part L. */
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        VEC even0 = _mm512_shuffle_i32x4(u[j], u[4 + j], 0x88), odd0 = _mm512_shuffle_i32x4(u[j], u[4 + j], 0xdd);
        VEC even1 = _mm512_shuffle_i32x4(u[8 + j], u[12 + j], 0x88);
        VEC odd1 = _mm512_shuffle_i32x4(u[8 + j], u[12 + j], 0xdd);
        w[j] = swap_bytes(_mm512_shuffle_i32x4(even0, even1, 0x88));
        w[4 + j] = swap_bytes(_mm512_shuffle_i32x4(odd0, odd1, 0x88));
        w[8 + j] = swap_bytes(_mm512_shuffle_i32x4(even0, even1, 0xdd));
        w[12 + j] = swap_bytes(_mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
}

static inline __attribute__((always_inline)) TARGET void store_rows(uint8_t *out, __m512i rows)
{
    _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(rows));
    _mm_storeu_si128((__m128i *)(out + 4 * 32), _mm512_extracti32x4_epi32(rows, 1));
    _mm_storeu_si128((__m128i *)(out + 8 * 32), _mm512_extracti32x4_epi32(rows, 2));
    _mm_storeu_si128((__m128i *)(out + 12 * 32), _mm512_extracti32x4_epi32(rows, 3));
}

static inline __attribute__((always_inline)) TARGET void store_digests(uint8_t *out, const VEC s[8])
{
    for (int half = 0; half < 2; half++, s += 4, out += 16) {
        VEC low01 = _mm512_unpacklo_epi32(s[0], s[1]), high01 = _mm512_unpackhi_epi32(s[0], s[1]);
        VEC low23 = _mm512_unpacklo_epi32(s[2], s[3]), high23 = _mm512_unpackhi_epi32(s[2], s[3]);
        store_rows(out, swap_bytes(_mm512_unpacklo_epi64(low01, low23)));
        store_rows(out + 32, swap_bytes(_mm512_unpackhi_epi64(low01, low23)));
        store_rows(out + 64, swap_bytes(_mm512_unpacklo_epi64(high01, high23)));
        store_rows(out + 96, swap_bytes(_mm512_unpackhi_epi64(high01, high23)));
    }
}

#include "sha256_lanes.h"

static wattd_sha_kernel kernel = {"avx512", NULL, lanes_double64, lanes_double80, lanes_search};

const wattd_sha_kernel *wattd_sha_avx512(const wattd_sha_kernel *leftover)
{
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
        return NULL;
    rest = leftover;
    kernel.transform = leftover->transform;
    return &kernel;
}

#endif
