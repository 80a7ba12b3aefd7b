/* Double hashes of LANES messages at once, one 32-bit lane each. Included by a file that has defined
 *   LANES, VEC, TARGET, ADD(a, b), ROR(x, n), SHR(x, n), XOR3(a, b, c), CH(e, f, g), MAJ(a, b, c), SET1(x),
 *   load_block(w, in, stride): w[t] = big-endian word t of each of the messages at in + lane * stride,
 *   store_digests(out, s): digest of lane i, from s[word], to out + 32 * i,
 * and `rest`, the kernel for what is left over when the number of messages is no multiple of LANES.
 * The portable kernel is the case of one lane. */

#define BIG0(x) XOR3(ROR(x, 2), ROR(x, 13), ROR(x, 22))
#define BIG1(x) XOR3(ROR(x, 6), ROR(x, 11), ROR(x, 25))
#define SMALL0(x) XOR3(ROR(x, 7), ROR(x, 18), SHR(x, 3))
#define SMALL1(x) XOR3(ROR(x, 17), ROR(x, 19), SHR(x, 10))

#define ROUND(a, b, c, d, e, f, g, h, kw)                          \
    {                                                              \
        VEC t1 = ADD(ADD(h, kw), ADD(BIG1(e), CH(e, f, g)));       \
        d = ADD(d, t1);                                            \
        h = ADD(t1, ADD(BIG0(a), MAJ(a, b, c)));                   \
    }
#define EIGHT(KW, t)                                               \
    ROUND(a, b, c, d, e, f, g, h, KW(t))                           \
    ROUND(h, a, b, c, d, e, f, g, KW(t + 1))                       \
    ROUND(g, h, a, b, c, d, e, f, KW(t + 2))                       \
    ROUND(f, g, h, a, b, c, d, e, KW(t + 3))                       \
    ROUND(e, f, g, h, a, b, c, d, KW(t + 4))                       \
    ROUND(d, e, f, g, h, a, b, c, KW(t + 5))                       \
    ROUND(c, d, e, f, g, h, a, b, KW(t + 6))                       \
    ROUND(b, c, d, e, f, g, h, a, KW(t + 7))

#define KW_FIRST(t) ADD(w[t], SET1(wattd_sha_k[t]))
#define KW_NEXT(t)                                                                                        \
    ADD(w[(t) % 16] = ADD(ADD(w[(t) % 16], SMALL0(w[(t + 1) % 16])), ADD(w[(t + 9) % 16], SMALL1(w[(t + 14) % 16]))), \
        SET1(wattd_sha_k[t]))
#define KW_PAD(t) SET1(wattd_sha_pad64[t])

#define BEGIN VEC a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7]
#define END                                                                            \
    s[0] = ADD(s[0], a), s[1] = ADD(s[1], b), s[2] = ADD(s[2], c), s[3] = ADD(s[3], d); \
    s[4] = ADD(s[4], e), s[5] = ADD(s[5], f), s[6] = ADD(s[6], g), s[7] = ADD(s[7], h)

static inline __attribute__((always_inline)) TARGET void compress(VEC s[8], VEC w[16])
{
    BEGIN;
    EIGHT(KW_FIRST, 0) EIGHT(KW_FIRST, 8)
    EIGHT(KW_NEXT, 16) EIGHT(KW_NEXT, 24) EIGHT(KW_NEXT, 32)
    EIGHT(KW_NEXT, 40) EIGHT(KW_NEXT, 48) EIGHT(KW_NEXT, 56)
    END;
}

static inline __attribute__((always_inline)) TARGET void compress_pad64(VEC s[8])
{
    BEGIN;
    EIGHT(KW_PAD, 0) EIGHT(KW_PAD, 8) EIGHT(KW_PAD, 16) EIGHT(KW_PAD, 24)
    EIGHT(KW_PAD, 32) EIGHT(KW_PAD, 40) EIGHT(KW_PAD, 48) EIGHT(KW_PAD, 56)
    END;
}

static inline __attribute__((always_inline)) TARGET void start(VEC s[8])
{
    for (int i = 0; i < 8; i++)
        s[i] = SET1(wattd_sha_initial[i]);
}

/* Hashes the digests in `s`. */
static inline __attribute__((always_inline)) TARGET void outer_state(VEC s[8], VEC w[16])
{
    for (int i = 0; i < 8; i++)
        w[i] = s[i];
    w[8] = SET1(0x80000000);
    for (int i = 9; i < 15; i++)
        w[i] = SET1(0);
    w[15] = SET1(256);
    start(s);
    compress(s, w);
}

static inline __attribute__((always_inline)) TARGET void outer(uint8_t *out, VEC s[8], VEC w[16])
{
    outer_state(s, w);
    store_digests(out, s);
}

static TARGET void lanes_double64(uint8_t *out, const uint8_t *in, size_t count)
{
    VEC s[8], w[16];
    for (; count >= LANES; count -= LANES, in += 64 * LANES, out += 32 * LANES) {
        load_block(w, in, 64);
        start(s);
        compress(s, w);
        compress_pad64(s);
        outer(out, s, w);
    }
    if (count)
        rest->double64(out, in, count);
}

static TARGET void lanes_double80(uint8_t *out, const uint8_t *in, size_t count)
{
    VEC s[8], w[16];
    uint8_t tails[LANES * 64];
    for (; count >= LANES; count -= LANES, in += 80 * LANES, out += 32 * LANES) {
        for (int i = 0; i < LANES; i++)
            wattd_tail80(tails + 64 * i, in + 80 * i);
        load_block(w, in, 80);
        start(s);
        compress(s, w);
        load_block(w, tails, 64);
        compress(s, w);
        outer(out, s, w);
    }
    if (count)
        rest->double80(out, in, count);
}

static TARGET uint64_t lanes_search(
    const uint32_t middle[8], const uint32_t tail[3], uint32_t first, uint64_t count, uint32_t top)
{
    VEC s[8], w[16];
    uint32_t words[LANES];
    uint64_t done = 0;
    for (; count - done >= LANES; done += LANES) {
        for (int i = 0; i < LANES; i++)
            words[i] = wattd_swap32(first + (uint32_t)done + i);
        for (int i = 0; i < 3; i++)
            w[i] = SET1(tail[i]);
        memcpy(&w[3], words, sizeof words);
        w[4] = SET1(0x80000000);
        for (int i = 5; i < 15; i++)
            w[i] = SET1(0);
        w[15] = SET1(640);
        for (int i = 0; i < 8; i++)
            s[i] = SET1(middle[i]);
        compress(s, w);
        outer_state(s, w);
        memcpy(words, &s[7], sizeof words);
        for (int i = 0; i < LANES; i++)
            if (wattd_swap32(words[i]) <= top)
                return done + i;
    }
    if (count > done)
        done += rest->search(middle, tail, first + (uint32_t)done, count - done, top);
    return done;
}
