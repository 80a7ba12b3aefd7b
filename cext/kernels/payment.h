/* Signatures of plain payments, judged from the raw bytes without running the script interpreter.
 *
 * A payment is plain when every input spends P2PKH or P2WPKH with one canonical signature of type ALL. The pure
 * twin is `consensus.fastpath.signature_items`, which says why the verdict is that of the interpreter. */
#ifndef WATTD_PAYMENT_H
#define WATTD_PAYMENT_H

#include <stddef.h>
#include <stdint.h>

/* The functions of libsecp256k1 that are called; its opaque structs have 64 bytes each. */
typedef struct {
    const void *context;
    int (*pubkey_parse)(const void *context, void *key, const uint8_t *data, size_t size);
    int (*parse_der)(const void *context, void *signature, const uint8_t *data, size_t size);
    int (*verify)(const void *context, const void *signature, const uint8_t *message, const void *key);
} wattd_secp;

typedef struct {
    const uint8_t *data;
    size_t size;
} wattd_span;

/* A scanned transaction (txscan.h) and the coin value of each input. */
typedef struct {
    wattd_span raw;
    size_t body_at, n_in, outputs_at, n_out, witness_at;
    const wattd_span *coins;
} wattd_payment;

enum { WATTD_FORGED = 0, WATTD_HOLDS = 1, WATTD_UNJUDGED = 2 };

enum { WATTD_COIN_HEAD = 12, WATTD_P2PKH_COIN = 12 + 25, WATTD_P2WPKH_COIN = 12 + 22 };

/* Whether a coin value or output script has the bytes of the template. */
int wattd_is_p2pkh(const uint8_t *script, size_t size);
int wattd_is_p2wpkh(const uint8_t *script, size_t size);

/* Reads the CompactSize at `data`, which a scan has checked; returns how wide it is. */
size_t wattd_compact_size(const uint8_t *data, size_t *value);

/* Returns a verdict; `scratch` has room for WATTD_SCRATCH(raw.size) bytes. */
#define WATTD_SCRATCH(size) ((size) + 64)
int wattd_judge(const wattd_payment *payment, const wattd_secp *secp, uint8_t *scratch);

/* Judges payments until none is left, any number of threads at once: each takes the next few at *next, which
 * starts as 0. `scratch` belongs to the thread and has room for the largest. */
void wattd_judge_shared(const wattd_payment *payments, size_t count, size_t *next, const wattd_secp *secp,
                        uint8_t *scratch, uint8_t *verdicts);

void wattd_ripemd160(uint8_t out[20], const uint8_t *data, size_t size);

#endif
