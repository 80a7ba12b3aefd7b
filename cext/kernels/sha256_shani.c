/* SHA-256 with the x86 SHA extensions. Batches run two messages at once: a round instruction takes four cycles
 * to deliver but the next may start after two, so that a single message leaves half of the unit idle. */
#include "sha256.h"

#ifndef WATTD_X86

const wattd_sha_kernel *wattd_sha_shani(void) { return NULL; }

#else

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("sha,sse4.1,ssse3")))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* The hash state in the order that the instructions want, words from high to low. */
typedef struct {
    __m128i abef, cdgh;
} sha_state;

INLINE __m128i load_words(const uint8_t *at)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL);
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)at), swap);
}

/* From words a..h in memory order to the order of the instructions. */
INLINE sha_state pack(__m128i dcba, __m128i hgfe)
{
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    sha_state s = {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
    return s;
}

/* And back. */
INLINE void unpack(sha_state s, __m128i *dcba, __m128i *hgfe)
{
    __m128i feba = _mm_shuffle_epi32(s.abef, 0x1b), dchg = _mm_shuffle_epi32(s.cdgh, 0xb1);
    *dcba = _mm_blend_epi16(feba, dchg, 0xf0);
    *hgfe = _mm_alignr_epi8(dchg, feba, 8);
}

INLINE sha_state initial(void)
{
    return pack(_mm_loadu_si128((const __m128i *)wattd_sha_initial),
                _mm_loadu_si128((const __m128i *)(wattd_sha_initial + 4)));
}

INLINE __m128i constants(const uint32_t *table, int quad)
{
    return _mm_load_si128((const __m128i *)(table + 4 * quad));
}

INLINE void four_rounds(sha_state *s, __m128i kw)
{
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, kw);
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(kw, 0x0e));
}

/* Words 4(q+4) .. 4(q+4)+3 of the schedule from the sixteen words before them, m0 the oldest four. */
INLINE __m128i schedule(__m128i m0, __m128i m1, __m128i m2, __m128i m3)
{
    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(m0, m1), _mm_alignr_epi8(m3, m2, 4));
    return _mm_sha256msg2_epu32(sum, m3);
}

INLINE void add_state(sha_state *s, sha_state before)
{
    s->abef = _mm_add_epi32(s->abef, before.abef);
    s->cdgh = _mm_add_epi32(s->cdgh, before.cdgh);
}

#define QUAD(q, m0, m1, m2, m3)                                    \
    four_rounds(s, _mm_add_epi32(m0, constants(wattd_sha_k, q))); \
    if (q < 12)                                                    \
        m0 = schedule(m0, m1, m2, m3);

INLINE void compress(sha_state *s, const __m128i m[4])
{
    sha_state before = *s;
    __m128i m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3];
    QUAD(0, m0, m1, m2, m3) QUAD(1, m1, m2, m3, m0) QUAD(2, m2, m3, m0, m1) QUAD(3, m3, m0, m1, m2)
    QUAD(4, m0, m1, m2, m3) QUAD(5, m1, m2, m3, m0) QUAD(6, m2, m3, m0, m1) QUAD(7, m3, m0, m1, m2)
    QUAD(8, m0, m1, m2, m3) QUAD(9, m1, m2, m3, m0) QUAD(10, m2, m3, m0, m1) QUAD(11, m3, m0, m1, m2)
    QUAD(12, m0, m1, m2, m3) QUAD(13, m1, m2, m3, m0) QUAD(14, m2, m3, m0, m1) QUAD(15, m3, m0, m1, m2)
    add_state(s, before);
}

#define QUAD2(q, a0, a1, a2, a3, b0, b1, b2, b3)                   \
    {                                                              \
        __m128i k = constants(wattd_sha_k, q);                    \
        __m128i ka = _mm_add_epi32(a0, k), kb = _mm_add_epi32(b0, k); \
        s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, ka);     \
        r->cdgh = _mm_sha256rnds2_epu32(r->cdgh, r->abef, kb);     \
        s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(ka, 0x0e)); \
        r->abef = _mm_sha256rnds2_epu32(r->abef, r->cdgh, _mm_shuffle_epi32(kb, 0x0e)); \
        if (q < 12) {                                              \
            a0 = schedule(a0, a1, a2, a3);                         \
            b0 = schedule(b0, b1, b2, b3);                         \
        }                                                          \
    }
#define FOUR2(q)                                                   \
    QUAD2(q, a0, a1, a2, a3, b0, b1, b2, b3)                       \
    QUAD2(q + 1, a1, a2, a3, a0, b1, b2, b3, b0)                   \
    QUAD2(q + 2, a2, a3, a0, a1, b2, b3, b0, b1)                   \
    QUAD2(q + 3, a3, a0, a1, a2, b3, b0, b1, b2)

/* Two messages side by side. */
INLINE void compress_two(sha_state *s, sha_state *r, const __m128i a[4], const __m128i b[4])
{
    sha_state s_before = *s, r_before = *r;
    __m128i a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
    __m128i b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
    FOUR2(0) FOUR2(4) FOUR2(8) FOUR2(12)
    add_state(s, s_before);
    add_state(r, r_before);
}

/* The padding block of a 64-byte message, for one state or two: its schedule is known beforehand. */
INLINE void compress_pad64(sha_state *s, sha_state *r)
{
    sha_state s_before = *s, r_before = *r;
#pragma GCC unroll 16
    for (int q = 0; q < 16; q++) {
        __m128i kw = constants(wattd_sha_pad64, q);
        four_rounds(s, kw);
        four_rounds(r, kw);
    }
    add_state(s, s_before);
    add_state(r, r_before);
}

INLINE void load_block(__m128i m[4], const uint8_t *at)
{
    for (int i = 0; i < 4; i++)
        m[i] = load_words(at + 16 * i);
}

/* The one block of the outer hash: the digest in `s`, the end mark, and the length of 256 bits. */
INLINE void digest_block(__m128i m[4], sha_state s)
{
    unpack(s, &m[0], &m[1]);
    m[2] = _mm_set_epi32(0, 0, 0, (int)0x80000000);
    m[3] = _mm_set_epi32(256, 0, 0, 0);
}

INLINE void store_digest(uint8_t *out, sha_state s)
{
    __m128i words[2];
    unpack(s, &words[0], &words[1]);
    for (int i = 0; i < 2; i++)
        _mm_storeu_si128((__m128i *)(out + 16 * i), load_words((const uint8_t *)&words[i]));
}

static TARGET void shani_transform(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    __m128i m[4], dcba, hgfe;
    sha_state s = pack(_mm_loadu_si128((const __m128i *)state), _mm_loadu_si128((const __m128i *)(state + 4)));
    for (; blocks; blocks--, data += 64) {
        load_block(m, data);
        compress(&s, m);
    }
    unpack(s, &dcba, &hgfe);
    _mm_storeu_si128((__m128i *)state, dcba);
    _mm_storeu_si128((__m128i *)(state + 4), hgfe);
}

INLINE void outer_two(uint8_t *out_s, uint8_t *out_r, sha_state s, sha_state r)
{
    __m128i a[4], b[4];
    digest_block(a, s);
    digest_block(b, r);
    s = r = initial();
    compress_two(&s, &r, a, b);
    store_digest(out_s, s);
    store_digest(out_r, r);
}

INLINE void outer_one(uint8_t *out, sha_state s)
{
    __m128i m[4];
    digest_block(m, s);
    s = initial();
    compress(&s, m);
    store_digest(out, s);
}

static TARGET void shani_double64(uint8_t *out, const uint8_t *in, size_t count)
{
    __m128i a[4], b[4];
    for (; count >= 2; count -= 2, in += 128, out += 64) {
        sha_state s = initial(), r = s;
        load_block(a, in);
        load_block(b, in + 64);
        compress_two(&s, &r, a, b);
        compress_pad64(&s, &r);
        outer_two(out, out + 32, s, r);
    }
    if (count) {
        sha_state s = initial(), unused = s;
        load_block(a, in);
        compress(&s, a);
        compress_pad64(&s, &unused);
        outer_one(out, s);
    }
}

static TARGET void shani_double80(uint8_t *out, const uint8_t *in, size_t count)
{
    __m128i a[4], b[4];
    uint8_t tail[2][64];
    for (; count >= 2; count -= 2, in += 160, out += 64) {
        sha_state s = initial(), r = s;
        load_block(a, in);
        load_block(b, in + 80);
        wattd_tail80(tail[0], in);
        wattd_tail80(tail[1], in + 80);
        compress_two(&s, &r, a, b);
        load_block(a, tail[0]);
        load_block(b, tail[1]);
        compress_two(&s, &r, a, b);
        outer_two(out, out + 32, s, r);
    }
    if (count) {
        sha_state s = initial();
        load_block(a, in);
        compress(&s, a);
        wattd_tail80(tail[0], in);
        load_block(a, tail[0]);
        compress(&s, a);
        outer_one(out, s);
    }
}

static TARGET uint64_t shani_search(
    const uint32_t middle[8], const uint32_t tail[3], uint32_t first, uint64_t count, uint32_t top)
{
    const sha_state begin = pack(_mm_loadu_si128((const __m128i *)middle), _mm_loadu_si128((const __m128i *)(middle + 4)));
    __m128i a[4], b[4], low, high;
    /* An odd last nonce is tried together with the one behind it, which does not count. */
    for (uint64_t done = 0; done < count; done += 2) {
        sha_state s = begin, r = begin;
        uint32_t nonce = first + (uint32_t)done;
        a[0] = _mm_set_epi32((int)wattd_swap32(nonce), (int)tail[2], (int)tail[1], (int)tail[0]);
        b[0] = _mm_set_epi32((int)wattd_swap32(nonce + 1), (int)tail[2], (int)tail[1], (int)tail[0]);
        a[1] = b[1] = _mm_set_epi32(0, 0, 0, (int)0x80000000);
        a[2] = b[2] = _mm_setzero_si128();
        a[3] = b[3] = _mm_set_epi32(640, 0, 0, 0);
        compress_two(&s, &r, a, b);
        digest_block(a, s);
        digest_block(b, r);
        s = r = initial();
        compress_two(&s, &r, a, b);
        unpack(s, &low, &high);
        if (wattd_swap32((uint32_t)_mm_extract_epi32(high, 3)) <= top)
            return done;
        unpack(r, &low, &high);
        if (wattd_swap32((uint32_t)_mm_extract_epi32(high, 3)) <= top)
            return done + 1 < count ? done + 1 : count;
    }
    return count;
}

static const wattd_sha_kernel kernel = {"shani", shani_transform, shani_double64, shani_double80, shani_search};

const wattd_sha_kernel *wattd_sha_shani(void)
{
    /* By hand, since __builtin_cpu_supports does not know "sha" before gcc 11 and clang 18. */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 29))
        return NULL;
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3") ? &kernel : NULL;
}

#endif
