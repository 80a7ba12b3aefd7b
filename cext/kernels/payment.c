/* See payment.h. Offsets come from a scan of the same bytes, so reads within the input and witness sections need
 * no bounds beyond the sizes that stand there. */
#include "payment.h"

#include <string.h>

#include "sha256.h"

/* Half the order of the group: a signature's S may be no larger (BIP62). */
static const uint8_t HALF_ORDER[32] = {
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
};

enum { MIN_SIGNATURE = 40, MAX_DER = 72, SIGHASH_ALL = 1, KEY = 33, HEAD = 4, OUTPOINT = 36, SCRIPT_CODE = 25 };

/* Signature with its type, and key, of one input; data NULL where the input has none. */
typedef struct {
    wattd_span signature, key;
} unlock_t;

int wattd_is_p2pkh(const uint8_t *script, size_t size)
{
    return size == 25 && memcmp(script, "\x76\xa9\x14", 3) == 0 && script[23] == 0x88 && script[24] == 0xac;
}

int wattd_is_p2wpkh(const uint8_t *script, size_t size)
{
    return size == 22 && script[0] == 0 && script[1] == 20;
}

size_t wattd_compact_size(const uint8_t *data, size_t *value)
{
    size_t width = data[0] < 0xfd ? 1 : (size_t)1 + ((size_t)2 << (data[0] - 0xfd));
    if (width == 1) {
        *value = data[0];
        return 1;
    }
    *value = 0;
    for (size_t i = width - 1; i > 0; i--)
        *value = *value << 8 | data[i];
    return width;
}

static int is_der_integer(const uint8_t *at, size_t size)
{
    return at[0] == 0x02 && size != 0 && !(at[2] & 0x80) && !(size > 1 && at[2] == 0 && !(at[3] & 0x80));
}

/* Strict DER (BIP66) with an S of at most half the order. */
static int is_canonical_der(const uint8_t *der, size_t size)
{
    if (size < 8 || size > MAX_DER || der[0] != 0x30 || der[1] != size - 2)
        return 0;
    size_t r_size = der[3];
    if (r_size + 5 >= size)
        return 0;
    size_t s_size = der[5 + r_size];
    if (r_size + s_size + 6 != size)
        return 0;
    if (!is_der_integer(der + 2, r_size) || !is_der_integer(der + 4 + r_size, s_size))
        return 0;
    const uint8_t *s = der + 6 + r_size;
    while (s_size > 0 && *s == 0) {
        s++;
        s_size--;
    }
    return s_size < 32 || (s_size == 32 && memcmp(s, HALF_ORDER, 32) <= 0);
}

/* SHA-256 of a compressed key, which fits one block. */
static void hash_key(uint8_t digest[32], const uint8_t *key)
{
    uint32_t state[8];
    uint8_t block[64] = {0};
    memcpy(state, wattd_sha_initial, sizeof state);
    memcpy(block, key, KEY);
    block[KEY] = 0x80;
    wattd_store_be32(block + 60, 8 * KEY);
    wattd_sha->transform(state, block, 1);
    for (int i = 0; i < 8; i++)
        wattd_store_be32(digest + 4 * i, state[i]);
}

static int is_canonical(const unlock_t *unlock, const uint8_t *key_hash)
{
    const wattd_span *signature = &unlock->signature, *key = &unlock->key;
    uint8_t digest[32], hash[20];
    if (signature->size < MIN_SIGNATURE || !is_canonical_der(signature->data, signature->size - 1))
        return 0;
    if (signature->data[signature->size - 1] != SIGHASH_ALL)
        return 0;
    if (key->size != KEY || (key->data[0] != 2 && key->data[0] != 3))
        return 0;
    hash_key(digest, key->data);
    wattd_ripemd160(hash, digest, 32);
    return memcmp(hash, key_hash, 20) == 0;
}

/* The (signature, key) that a scriptSig pushes; 0 if it is anything else. */
static int script_pushes(const uint8_t *script, size_t size, unlock_t *unlock)
{
    if (size < 35 + MIN_SIGNATURE || script[0] != size - 35 || script[size - 34] != KEY)
        return 0;
    unlock->signature = (wattd_span){script + 1, size - 35};
    unlock->key = (wattd_span){script + size - KEY, KEY};
    return 1;
}

/* Cuts the witness at *at; 0 if it has neither no elements nor two short ones. */
static int cut_witness(const uint8_t *raw, size_t *at, unlock_t *unlock)
{
    size_t elements = raw[(*at)++];
    unlock->signature.data = unlock->key.data = NULL;
    if (elements == 0)
        return 1;
    if (elements != 2 || raw[*at] > 0xfc)
        return 0;
    unlock->signature = (wattd_span){raw + *at + 1, raw[*at]};
    *at += 1 + unlock->signature.size;
    if (raw[*at] > 0xfc)
        return 0;
    unlock->key = (wattd_span){raw + *at + 1, raw[*at]};
    *at += 1 + unlock->key.size;
    return 1;
}

static uint8_t *append(uint8_t *to, const void *data, size_t size)
{
    memcpy(to, data, size);
    return to + size;
}

static uint8_t *append_code(uint8_t *to, const uint8_t *key_hash)
{
    to = append(to, "\x19\x76\xa9\x14", 4);
    to = append(to, key_hash, 20);
    return append(to, "\x88\xac", 2);
}

static const uint8_t *outputs_end(const wattd_payment *p)
{
    return p->witness_at ? p->raw.data + p->witness_at : p->raw.data + p->raw.size - 4;
}

/* The message of a P2PKH input: every input without its script, but this one with the script that it spends. */
static void legacy_message(uint8_t message[32], const wattd_payment *p, size_t index, const uint8_t *key_hash,
                           uint8_t *scratch)
{
    const uint8_t *raw = p->raw.data;
    size_t count, at = p->body_at + wattd_compact_size(raw + p->body_at, &count);
    uint8_t *to = append(scratch, raw, HEAD);
    to = append(to, raw + p->body_at, at - p->body_at);
    for (size_t i = 0; i < p->n_in; i++) {
        to = append(to, raw + at, OUTPOINT);
        if (i == index)
            to = append_code(to, key_hash);
        else
            *to++ = 0;
        at += OUTPOINT + 1 + raw[at + OUTPOINT];
        to = append(to, raw + at, 4);
        at += 4;
    }
    to = append(to, raw + p->outputs_at, (size_t)(outputs_end(p) - raw) - p->outputs_at);
    to = append(to, raw + p->raw.size - 4, 4);
    to = append(to, "\x01\0\0\0", 4);
    wattd_sha256d(message, scratch, (size_t)(to - scratch));
}

/* What all inputs' messages share under BIP143: hashes of outpoints, sequences and outputs. */
typedef struct {
    int known;
    uint8_t outpoints[32], sequences[32], outputs[32];
} shared_t;

static void share(shared_t *shared, const wattd_payment *p, uint8_t *scratch)
{
    const uint8_t *raw = p->raw.data;
    size_t count, start = p->body_at + wattd_compact_size(raw + p->body_at, &count), at = start;
    uint8_t *to = scratch;
    for (size_t i = 0; i < p->n_in; i++) {
        to = append(to, raw + at, OUTPOINT);
        at += OUTPOINT + 1 + raw[at + OUTPOINT] + 4;
    }
    wattd_sha256d(shared->outpoints, scratch, (size_t)(to - scratch));
    to = scratch;
    at = start;
    for (size_t i = 0; i < p->n_in; i++) {
        at += OUTPOINT + 1 + raw[at + OUTPOINT] + 4;
        to = append(to, raw + at - 4, 4);
    }
    wattd_sha256d(shared->sequences, scratch, (size_t)(to - scratch));
    at = p->outputs_at + wattd_compact_size(raw + p->outputs_at, &count);
    wattd_sha256d(shared->outputs, raw + at, (size_t)(outputs_end(p) - raw) - at);
    shared->known = 1;
}

/* The message of a P2WPKH input (BIP143); `input` is where it stands, without a scriptSig. */
static void witness_message(uint8_t message[32], const wattd_payment *p, const uint8_t *input,
                            const uint8_t *key_hash, const uint8_t *amount, shared_t *shared, uint8_t *scratch)
{
    uint8_t image[4 + 32 + 32 + OUTPOINT + 1 + SCRIPT_CODE + 8 + 4 + 32 + 4 + 4], *to = image;
    if (!shared->known)
        share(shared, p, scratch);
    to = append(to, p->raw.data, HEAD);
    to = append(to, shared->outpoints, 32);
    to = append(to, shared->sequences, 32);
    to = append(to, input, OUTPOINT);
    to = append_code(to, key_hash);
    to = append(to, amount, 8);
    to = append(to, input + OUTPOINT + 1, 4);
    to = append(to, shared->outputs, 32);
    to = append(to, p->raw.data + p->raw.size - 4, 4);
    append(to, "\x01\0\0\0", 4);
    wattd_sha256d(message, image, sizeof image);
}

static int holds(const wattd_secp *secp, const unlock_t *unlock, const uint8_t message[32])
{
    uint64_t key[8], signature[8];
    return secp->pubkey_parse(secp->context, key, unlock->key.data, unlock->key.size) &&
           secp->parse_der(secp->context, signature, unlock->signature.data, unlock->signature.size - 1) &&
           secp->verify(secp->context, signature, message, key);
}

/* Whether every input and witness is short enough that its size is one byte. */
static int is_short(const wattd_payment *p)
{
    const uint8_t *raw = p->raw.data;
    size_t count, at = p->body_at + wattd_compact_size(raw + p->body_at, &count);
    unlock_t unlock;
    for (size_t i = 0; i < p->n_in; i++) {
        if (raw[at + OUTPOINT] > 0xfc)
            return 0;
        at += OUTPOINT + 1 + raw[at + OUTPOINT] + 4;
    }
    at = p->witness_at;
    for (size_t i = 0; at && i < p->n_in; i++)
        if (!cut_witness(raw, &at, &unlock))
            return 0;
    return 1;
}

int wattd_judge(const wattd_payment *p, const wattd_secp *secp, uint8_t *scratch)
{
    const uint8_t *raw = p->raw.data;
    size_t count, at = p->body_at + wattd_compact_size(raw + p->body_at, &count), witness = p->witness_at;
    shared_t shared = {0};
    int verdict = WATTD_HOLDS;
    if (!is_short(p))
        return WATTD_UNJUDGED;
    for (size_t i = 0; i < p->n_in; i++) {
        const uint8_t *input = raw + at, *coin = p->coins[i].data, *script = coin + WATTD_COIN_HEAD, *key_hash;
        size_t size = input[OUTPOINT];
        uint8_t message[32];
        unlock_t unlock = {{NULL, 0}, {NULL, 0}};
        int legacy = p->coins[i].size == WATTD_P2PKH_COIN && wattd_is_p2pkh(script, 25);
        if (witness)
            cut_witness(raw, &witness, &unlock);
        if (legacy) {
            key_hash = script + 3;
            if (unlock.key.data || !script_pushes(input + OUTPOINT + 1, size, &unlock))
                return WATTD_UNJUDGED;
        } else {
            if (p->coins[i].size != WATTD_P2WPKH_COIN || !wattd_is_p2wpkh(script, 22) || size || !unlock.key.data)
                return WATTD_UNJUDGED;
            key_hash = script + 2;
        }
        if (!is_canonical(&unlock, key_hash))
            return WATTD_UNJUDGED;
        if (legacy)
            legacy_message(message, p, i, key_hash, scratch);
        else
            witness_message(message, p, input, key_hash, coin + 4, &shared, scratch);
        if (verdict == WATTD_HOLDS && !holds(secp, &unlock, message))
            verdict = WATTD_FORGED;  /* the inputs behind it may yet need the interpreter */
        at += OUTPOINT + 1 + size + 4;
    }
    return verdict;
}

/* So few that threads end within a fraction of a millisecond of each other, so many that they rarely meet. */
enum { TAKEN_AT_ONCE = 8 };

void wattd_judge_shared(const wattd_payment *payments, size_t count, size_t *next, const wattd_secp *secp,
                        uint8_t *scratch, uint8_t *verdicts)
{
    for (;;) {
        size_t at = __atomic_fetch_add(next, TAKEN_AT_ONCE, __ATOMIC_RELAXED);
        if (at >= count)
            return;
        size_t end = count - at < TAKEN_AT_ONCE ? count : at + TAKEN_AT_ONCE;
        for (; at < end; at++)
            verdicts[at] = (uint8_t)wattd_judge(payments + at, secp, scratch);
    }
}
