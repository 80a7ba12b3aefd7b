/* One pass over a serialised transaction: where its parts are. Accepts what Bitcoin Core's UnserializeTransaction
 * (BIP144) accepts; the pure twin in cext/_pure.py is the same function, and says what the fields mean. */
#ifndef WATTD_TXSCAN_H
#define WATTD_TXSCAN_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    size_t end, body_at, n_in, outputs_at, n_out, witness_at;
} wattd_tx_parts;

/* Returns NULL, or the code of the fault. */
const char *wattd_scan_tx(const uint8_t *data, size_t size, size_t offset, wattd_tx_parts *parts);

#endif
