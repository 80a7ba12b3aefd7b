/* The kernel that every machine can run: one message at a time, in plain C. */
#include "sha256.h"

#define LANES 1
#define VEC uint32_t
#define TARGET
#define ADD(a, b) ((a) + (b))
#define SHR(x, n) ((x) >> (n))
#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define XOR3(a, b, c) ((a) ^ (b) ^ (c))
#define CH(e, f, g) ((g) ^ ((e) & ((f) ^ (g))))
#define MAJ(a, b, c) (((a) & (b)) | ((c) & ((a) | (b))))
#define SET1(x) ((uint32_t)(x))

static const wattd_sha_kernel *const rest = &wattd_sha_portable;

static inline void load_block(VEC w[16], const uint8_t *in, size_t stride)
{
    (void)stride;
    for (int t = 0; t < 16; t++)
        w[t] = wattd_load_be32(in + 4 * t);
}

static inline void store_digests(uint8_t *out, const VEC s[8])
{
    for (int i = 0; i < 8; i++)
        wattd_store_be32(out + 4 * i, s[i]);
}

#include "sha256_lanes.h"

static void portable_transform(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    uint32_t w[16];
    for (; blocks; blocks--, data += 64) {
        load_block(w, data, 64);
        compress(state, w);
    }
}

const wattd_sha_kernel wattd_sha_portable = {"portable", portable_transform, lanes_double64, lanes_double80, lanes_search};
