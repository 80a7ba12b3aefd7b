#include "txscan.h"

/* Largest compact size that Bitcoin Core's deserialiser takes (MAX_SIZE of serialize.h). */
#define MAX_COMPACT_SIZE 0x02000000u
/* An input is at least prevout 36, empty script 1, sequence 4; an output value 8, empty script 1. */
#define MIN_INPUT_BYTES 41
#define MIN_OUTPUT_BYTES 9

typedef struct {
    const uint8_t *at, *end;
    const char *fault;
} cursor;

static size_t left(const cursor *c) { return (size_t)(c->end - c->at); }

/* After a fault the cursor stands at the end, so that every later read fails too and the first fault is kept. */
static size_t fail(cursor *c, const char *fault)
{
    if (!c->fault)
        c->fault = fault;
    c->at = c->end;
    return 0;
}

static inline void skip(cursor *c, size_t size)
{
    if (size > left(c))
        fail(c, "tx-truncated");
    else
        c->at += size;
}

static size_t wide_size(cursor *c, uint8_t first)
{
    static const uint64_t smallest[3] = {0xfd, 0x10000, 0x100000000};
    size_t width = (size_t)1 << (first - 0xfc);
    uint64_t value = 0;
    if (width > left(c))
        return fail(c, "tx-truncated");
    for (size_t i = 0; i < width; i++)
        value |= (uint64_t)c->at[i] << (8 * i);
    c->at += width;
    if (value < smallest[first - 0xfd])
        return fail(c, "non-canonical-compactsize");
    if (value > MAX_COMPACT_SIZE)
        return fail(c, "oversized-compactsize");
    return (size_t)value;
}

static inline size_t compact_size(cursor *c)
{
    if (c->at == c->end)
        return fail(c, "tx-truncated");
    uint8_t first = *c->at++;
    return first < 0xfd ? first : wide_size(c, first);
}

/* The length of a vector whose elements take at least `smallest` bytes each. */
static size_t count(cursor *c, size_t smallest)
{
    size_t n = compact_size(c);
    return n * smallest > left(c) ? fail(c, "tx-too-many") : n;
}

static void scan_witness(cursor *c, size_t n_in)
{
    size_t items = 0;
    for (size_t i = 0; i < n_in && !c->fault; i++) {
        size_t n = count(c, 1);
        items += n;
        for (size_t j = 0; j < n && !c->fault; j++)
            skip(c, compact_size(c));
    }
    if (!items)
        fail(c, "superfluous-witness");
}

const char *wattd_scan_tx(const uint8_t *data, size_t size, size_t offset, wattd_tx_parts *parts)
{
    if (offset > size)
        return "tx-truncated";
    cursor c = {data + offset, data + size, NULL};
    uint8_t flags = 0;

    skip(&c, 4);
    parts->body_at = (size_t)(c.at - data);
    parts->n_in = count(&c, MIN_INPUT_BYTES);
    if (parts->n_in == 0) {
        if (c.at == c.end)
            return c.fault ? c.fault : "tx-truncated";
        flags = *c.at;
        if (flags > 1)
            return "unknown-tx-flags";
        if (flags) {
            c.at++;
            parts->body_at = (size_t)(c.at - data);
            parts->n_in = count(&c, MIN_INPUT_BYTES);
        }
    }
    for (size_t i = 0; i < parts->n_in && !c.fault; i++) {
        skip(&c, 36);
        skip(&c, compact_size(&c) + 4);
    }
    /* An empty input vector followed by flags 0 is, to Bitcoin Core, a transaction without outputs: the flags
     * byte reads as their count. */
    parts->outputs_at = (size_t)(c.at - data);
    parts->n_out = count(&c, MIN_OUTPUT_BYTES);
    for (size_t i = 0; i < parts->n_out && !c.fault; i++) {
        skip(&c, 8);
        skip(&c, compact_size(&c));
    }
    parts->witness_at = flags ? (size_t)(c.at - data) : 0;
    if (flags && !c.fault)
        scan_witness(&c, parts->n_in);
    skip(&c, 4);
    parts->end = (size_t)(c.at - data);
    return c.fault;
}
