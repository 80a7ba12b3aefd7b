/* SHA-256 with the ARMv8 cryptography extension (Raspberry Pi 5 has it, Raspberry Pi 4 does not). */
#include "sha256.h"

#ifndef WATTD_ARM

const wattd_sha_kernel *wattd_sha_armv8(void) { return NULL; }

#else

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif
#endif

#ifdef __clang__
#define TARGET __attribute__((target("sha2")))
#else
#define TARGET __attribute__((target("+crypto")))
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef struct {
    uint32x4_t abcd, efgh;
} sha_state;

INLINE sha_state load_state(const uint32_t words[8])
{
    sha_state s = {vld1q_u32(words), vld1q_u32(words + 4)};
    return s;
}

INLINE void four_rounds(sha_state *s, uint32x4_t kw)
{
    uint32x4_t abcd = s->abcd;
    s->abcd = vsha256hq_u32(abcd, s->efgh, kw);
    s->efgh = vsha256h2q_u32(s->efgh, abcd, kw);
}

INLINE void add_state(sha_state *s, sha_state before)
{
    s->abcd = vaddq_u32(s->abcd, before.abcd);
    s->efgh = vaddq_u32(s->efgh, before.efgh);
}

#define QUAD(q, m0, m1, m2, m3)                                    \
    four_rounds(s, vaddq_u32(m0, vld1q_u32(wattd_sha_k + 4 * (q)))); \
    if ((q) < 12)                                                  \
        m0 = vsha256su1q_u32(vsha256su0q_u32(m0, m1), m2, m3);
#define FOUR(q)                                                    \
    QUAD(q, m0, m1, m2, m3) QUAD(q + 1, m1, m2, m3, m0) QUAD(q + 2, m2, m3, m0, m1) QUAD(q + 3, m3, m0, m1, m2)

INLINE void compress(sha_state *s, const uint32x4_t m[4])
{
    sha_state before = *s;
    uint32x4_t m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3];
    FOUR(0) FOUR(4) FOUR(8) FOUR(12)
    add_state(s, before);
}

INLINE void compress_pad64(sha_state *s)
{
    sha_state before = *s;
    for (int q = 0; q < 16; q++)
        four_rounds(s, vld1q_u32(wattd_sha_pad64 + 4 * q));
    add_state(s, before);
}

INLINE void load_block(uint32x4_t m[4], const uint8_t *at)
{
    for (int i = 0; i < 4; i++)
        m[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(at + 16 * i)));
}

/* The state of the outer hash of the digest in `s`. */
INLINE sha_state outer_state(sha_state s)
{
    const uint32_t mark[4] = {0x80000000, 0, 0, 0}, length[4] = {0, 0, 0, 256};
    uint32x4_t m[4] = {s.abcd, s.efgh, vld1q_u32(mark), vld1q_u32(length)};
    s = load_state(wattd_sha_initial);
    compress(&s, m);
    return s;
}

INLINE void outer(uint8_t *out, sha_state s)
{
    s = outer_state(s);
    vst1q_u8(out, vrev32q_u8(vreinterpretq_u8_u32(s.abcd)));
    vst1q_u8(out + 16, vrev32q_u8(vreinterpretq_u8_u32(s.efgh)));
}

static TARGET void armv8_transform(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    uint32x4_t m[4];
    sha_state s = load_state(state);
    for (; blocks; blocks--, data += 64) {
        load_block(m, data);
        compress(&s, m);
    }
    vst1q_u32(state, s.abcd);
    vst1q_u32(state + 4, s.efgh);
}

static TARGET void armv8_double64(uint8_t *out, const uint8_t *in, size_t count)
{
    uint32x4_t m[4];
    for (; count; count--, in += 64, out += 32) {
        sha_state s = load_state(wattd_sha_initial);
        load_block(m, in);
        compress(&s, m);
        compress_pad64(&s);
        outer(out, s);
    }
}

static TARGET void armv8_double80(uint8_t *out, const uint8_t *in, size_t count)
{
    uint32x4_t m[4];
    uint8_t tail[64];
    for (; count; count--, in += 80, out += 32) {
        sha_state s = load_state(wattd_sha_initial);
        load_block(m, in);
        compress(&s, m);
        wattd_tail80(tail, in);
        load_block(m, tail);
        compress(&s, m);
        outer(out, s);
    }
}

static TARGET uint64_t armv8_search(
    const uint32_t middle[8], const uint32_t tail[3], uint32_t first, uint64_t count, uint32_t top)
{
    uint32_t words[16] = {tail[0], tail[1], tail[2], 0, 0x80000000};
    uint32x4_t m[4];
    words[15] = 640;
    for (uint64_t done = 0; done < count; done++) {
        sha_state s = load_state(middle);
        words[3] = wattd_swap32(first + (uint32_t)done);
        for (int i = 0; i < 4; i++)
            m[i] = vld1q_u32(words + 4 * i);
        compress(&s, m);
        s = outer_state(s);
        if (wattd_swap32(vgetq_lane_u32(s.efgh, 3)) <= top)
            return done;
    }
    return count;
}

static const wattd_sha_kernel kernel = {"armv8", armv8_transform, armv8_double64, armv8_double80, armv8_search};

const wattd_sha_kernel *wattd_sha_armv8(void)
{
#ifdef __linux__
    return getauxval(AT_HWCAP) & HWCAP_SHA2 ? &kernel : NULL;
#elif defined(__APPLE__)
    return &kernel; /* Every Apple processor of this architecture has it. */
#else
    return NULL;
#endif
}

#endif
