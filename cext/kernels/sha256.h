/* SHA-256 (FIPS 180-4) kernels for the double hashes of the ledger, chosen by a run-time CPU check.
 *
 * A kernel is a table of functions. Batches read item i at in + i * item size and write digest i at
 * out + i * 32; `out` may be `in`, since each group of items is read whole before its digests are written
 * and a digest is never longer than its item. */
#ifndef WATTD_SHA256_H
#define WATTD_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const char *name;
    /* Absorbs `blocks` blocks of 64 bytes. */
    void (*transform)(uint32_t state[8], const uint8_t *data, size_t blocks);
    /* Double hashes of `count` items of 64 bytes: one level of a Merkle tree. */
    void (*double64)(uint8_t *out, const uint8_t *in, size_t count);
    /* Double hashes of `count` items of 80 bytes: block headers. */
    void (*double80)(uint8_t *out, const uint8_t *in, size_t count);
    /* Of the headers whose nonces go from `start` on, the first of `count` whose double hash, as a little-endian
     * number, has highest 32 bits of at most `top`: its index, or `count`. `middle` is the state after the
     * header's first 64 bytes, `tail` the three big-endian words behind them. */
    uint64_t (*search)(const uint32_t middle[8], const uint32_t tail[3], uint32_t start, uint64_t count, uint32_t top);
} wattd_sha_kernel;

extern const uint32_t wattd_sha_initial[8];
extern const uint32_t wattd_sha_k[64];

/* Round constants plus message schedule of the block that pads a 64-byte message: it never changes. */
extern uint32_t wattd_sha_pad64[64];

/* What this CPU can run, best first; NULL behind the last. Filled by wattd_sha_init. */
extern const wattd_sha_kernel *wattd_sha_kernels[];
extern const wattd_sha_kernel *wattd_sha;

void wattd_sha_init(void);

/* Returns 0 when no kernel that runs here has that name. */
int wattd_sha_use(const char *name);

void wattd_sha256d(uint8_t out[32], const uint8_t *data, size_t size);
void wattd_sha256d_many(uint8_t *out, const uint8_t *data, size_t item_size, size_t count);

/* The hash of a leaf of `size` bytes, and the fold in place of `count` >= 1 such hashes to their root, in the first
 * 32 bytes: the tree of RFC 6962, section 2.1. */
void wattd_tree_leaf(uint8_t out[32], const uint8_t *data, size_t size);
void wattd_tree_fold(uint8_t *nodes, size_t count);

/* Returns the first nonce of `count` from `start` on for which the header's double hash is, as a little-endian
 * number, at most `target` (32 bytes, little-endian); -1 if there is none. start + count is at most 2^32. */
int64_t wattd_pow_search(const uint8_t header[80], uint32_t start, uint64_t count, const uint8_t target[32]);

/* Folds `count` >= 1 leaves of 32 bytes in place; `leaves` must have room for one more. The root is then in
 * the first 32 bytes. Returns whether two neighbours of a level are equal (CVE-2012-2459). */
int wattd_merkle_fold(uint8_t *leaves, size_t count);

/* The kernels. The functions that look at the CPU return NULL when it, or the compiler, lacks what they need. */
extern const wattd_sha_kernel wattd_sha_portable;
const wattd_sha_kernel *wattd_sha_shani(void);
const wattd_sha_kernel *wattd_sha_avx2(const wattd_sha_kernel *rest);
const wattd_sha_kernel *wattd_sha_avx512(const wattd_sha_kernel *rest);
const wattd_sha_kernel *wattd_sha_armv8(void);

#if defined(__x86_64__) && defined(__GNUC__)
#define WATTD_X86 1
#endif
#if defined(__aarch64__) && defined(__GNUC__) && defined(__AARCH64EL__)
#define WATTD_ARM 1
#endif

static inline uint32_t wattd_load_be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint32_t wattd_swap32(uint32_t x)
{
    return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24;
}

static inline void wattd_store_be32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

/* The second block of an 80-byte message: its last 16 bytes, the end mark, and the length of 640 bits. */
static inline void wattd_tail80(uint8_t block[64], const uint8_t *item)
{
    memcpy(block, item + 64, 16);
    memset(block + 16, 0, 48);
    block[16] = 0x80;
    block[62] = 640 >> 8;
    block[63] = 640 & 0xff;
}

#endif
