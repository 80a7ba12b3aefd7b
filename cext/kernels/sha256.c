/* The choice of a kernel, and what is built on kernels: messages of any length and Merkle trees. */
#include "sha256.h"

#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

const uint32_t wattd_sha_initial[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

const uint32_t wattd_sha_k[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

uint32_t wattd_sha_pad64[64] __attribute__((aligned(64)));
const wattd_sha_kernel *wattd_sha_kernels[6];
const wattd_sha_kernel *wattd_sha = &wattd_sha_portable;

/* Expands w[0..15] to the whole message schedule. */
static void expand(uint32_t w[64])
{
    for (int t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + w[t - 7] + (ROR(x, 7) ^ ROR(x, 18) ^ x >> 3) + (ROR(y, 17) ^ ROR(y, 19) ^ y >> 10);
    }
}

/* Writes the hash of the digest in `state`. */
static void finish_double(const wattd_sha_kernel *kernel, uint8_t out[32], const uint32_t state[8])
{
    uint8_t block[64] = {0};
    uint32_t outer[8];
    for (int i = 0; i < 8; i++)
        wattd_store_be32(block + 4 * i, state[i]);
    block[32] = 0x80;
    block[62] = 256 >> 8;
    memcpy(outer, wattd_sha_initial, sizeof outer);
    kernel->transform(outer, block, 1);
    for (int i = 0; i < 8; i++)
        wattd_store_be32(out + 4 * i, outer[i]);
}

void wattd_sha_init(void)
{
    memset(wattd_sha_pad64, 0, sizeof wattd_sha_pad64);
    wattd_sha_pad64[0] = 0x80000000;
    wattd_sha_pad64[15] = 512;
    expand(wattd_sha_pad64);
    for (int t = 0; t < 64; t++)
        wattd_sha_pad64[t] += wattd_sha_k[t];

    const wattd_sha_kernel *armv8 = wattd_sha_armv8(), *shani = wattd_sha_shani();
    const wattd_sha_kernel *rest = shani ? shani : &wattd_sha_portable;
    /* Eight AVX2 lanes lose to the SHA instructions, sixteen AVX-512 lanes win. */
    const wattd_sha_kernel *ranked[] = {
        wattd_sha_avx512(rest), armv8, shani, wattd_sha_avx2(rest), &wattd_sha_portable,
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof ranked / sizeof *ranked; i++)
        if (ranked[i])
            wattd_sha_kernels[n++] = ranked[i];
    wattd_sha_kernels[n] = NULL;
    wattd_sha = wattd_sha_kernels[0];
}

int wattd_sha_use(const char *name)
{
    for (size_t i = 0; wattd_sha_kernels[i]; i++)
        if (!strcmp(wattd_sha_kernels[i]->name, name)) {
            wattd_sha = wattd_sha_kernels[i];
            return 1;
        }
    return 0;
}

void wattd_sha256d(uint8_t out[32], const uint8_t *data, size_t size)
{
    const wattd_sha_kernel *kernel = wattd_sha;
    if (size == 64) {
        kernel->double64(out, data, 1);
        return;
    }
    if (size == 80) {
        kernel->double80(out, data, 1);
        return;
    }
    uint32_t state[8];
    uint8_t tail[128] = {0};
    size_t left = size % 64, padded = left < 56 ? 64 : 128;
    memcpy(state, wattd_sha_initial, sizeof state);
    kernel->transform(state, data, size / 64);
    if (left)
        memcpy(tail, data + size - left, left);
    tail[left] = 0x80;
    wattd_store_be32(tail + padded - 8, (uint32_t)((uint64_t)size >> 29));
    wattd_store_be32(tail + padded - 4, (uint32_t)((uint64_t)size << 3));
    kernel->transform(state, tail, padded / 64);
    finish_double(kernel, out, state);
}

void wattd_sha256d_many(uint8_t *out, const uint8_t *data, size_t item_size, size_t count)
{
    if (item_size == 64)
        wattd_sha->double64(out, data, count);
    else if (item_size == 80)
        wattd_sha->double80(out, data, count);
    else
        for (size_t i = 0; i < count; i++)
            wattd_sha256d(out + 32 * i, data + item_size * i, item_size);
}

/* Pads what is left of a message of `size` bytes, `left` of which stand in `tail`, and writes the digest. */
static void finish_single(const wattd_sha_kernel *kernel, uint8_t out[32], uint32_t state[8], uint8_t tail[128],
                          size_t left, size_t size)
{
    size_t padded = left < 56 ? 64 : 128;
    memset(tail + left, 0, padded - left);
    tail[left] = 0x80;
    wattd_store_be32(tail + padded - 8, (uint32_t)((uint64_t)size >> 29));
    wattd_store_be32(tail + padded - 4, (uint32_t)((uint64_t)size << 3));
    kernel->transform(state, tail, padded / 64);
    for (int i = 0; i < 8; i++)
        wattd_store_be32(out + 4 * i, state[i]);
}

void wattd_tree_leaf(uint8_t out[32], const uint8_t *data, size_t size)
{
    const wattd_sha_kernel *kernel = wattd_sha;
    uint32_t state[8];
    uint8_t tail[128];
    size_t total = size + 1, left = total;
    memcpy(state, wattd_sha_initial, sizeof state);
    tail[0] = 0x00;
    if (total < 64) {
        memcpy(tail + 1, data, size);
    } else {
        memcpy(tail + 1, data, 63);
        kernel->transform(state, tail, 1);
        data += 63;
        size -= 63;
        kernel->transform(state, data, size / 64);
        left = size % 64;
        memcpy(tail, data + size - left, left);
    }
    finish_single(kernel, out, state, tail, left, total);
}

void wattd_tree_fold(uint8_t *nodes, size_t count)
{
    const wattd_sha_kernel *kernel = wattd_sha;
    for (; count > 1; count = (count + 1) / 2) {
        for (size_t i = 0; i < count / 2; i++) {
            uint32_t state[8];
            uint8_t message[128];
            message[0] = 0x01;
            memcpy(message + 1, nodes + 64 * i, 64);
            memcpy(state, wattd_sha_initial, sizeof state);
            kernel->transform(state, message, 1);
            message[0] = message[64];
            finish_single(kernel, nodes + 32 * i, state, message, 1, 65);
        }
        if (count & 1)
            memmove(nodes + 32 * (count / 2), nodes + 32 * (count - 1), 32);
    }
}

int64_t wattd_pow_search(const uint8_t header[80], uint32_t start, uint64_t count, const uint8_t target[32])
{
    const wattd_sha_kernel *kernel = wattd_sha;
    uint32_t middle[8], tail[3];
    uint8_t trial[80], hash[32];
    uint32_t top = wattd_swap32(wattd_load_be32(target + 28));
    memcpy(middle, wattd_sha_initial, sizeof middle);
    kernel->transform(middle, header, 1);
    for (int i = 0; i < 3; i++)
        tail[i] = wattd_load_be32(header + 64 + 4 * i);
    memcpy(trial, header, sizeof trial);
    for (uint64_t at = 0; at < count; at++) {
        at += kernel->search(middle, tail, start + (uint32_t)at, count - at, top);
        if (at >= count)
            break;
        uint32_t nonce = start + (uint32_t)at;
        wattd_store_be32(trial + 76, wattd_swap32(nonce));
        wattd_sha256d(hash, trial, sizeof trial);
        int i = 31;
        while (i > 0 && hash[i] == target[i])
            i--;
        if (hash[i] <= target[i])
            return nonce;
    }
    return -1;
}

int wattd_merkle_fold(uint8_t *leaves, size_t count)
{
    int mutated = 0;
    while (count > 1) {
        for (size_t i = 0; i + 1 < count; i += 2)
            mutated |= !memcmp(leaves + 32 * i, leaves + 32 * i + 32, 32);
        if (count & 1)
            memcpy(leaves + 32 * count, leaves + 32 * count - 32, 32);
        count = (count + 1) / 2;
        wattd_sha->double64(leaves, leaves, count);
    }
    return mutated;
}
