#include "crc32c.h"

#include <string.h>

static uint32_t table[256];

static uint32_t table_update(uint32_t crc, const uint8_t *data, size_t size)
{
    for (; size; size--, data++)
        crc = table[(crc ^ *data) & 0xff] ^ crc >> 8;
    return crc;
}

static const wattd_crc_kernel table_kernel = {"table", table_update};

#if defined(__x86_64__) && defined(__GNUC__)

#include <nmmintrin.h>

static __attribute__((target("sse4.2"))) uint32_t sse42_update(uint32_t crc, const uint8_t *data, size_t size)
{
    uint64_t wide = crc, word;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size; size--, data++)
        crc = _mm_crc32_u8(crc, *data);
    return crc;
}

static const wattd_crc_kernel sse42_kernel = {"sse42", sse42_update};

static const wattd_crc_kernel *hardware(void) { return __builtin_cpu_supports("sse4.2") ? &sse42_kernel : NULL; }

#elif defined(__aarch64__) && defined(__GNUC__) && defined(__AARCH64EL__) && defined(__linux__)

#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#ifdef __clang__
#define TARGET __attribute__((target("crc")))
#else
#define TARGET __attribute__((target("+crc")))
#endif

static TARGET uint32_t armv8_update(uint32_t crc, const uint8_t *data, size_t size)
{
    uint64_t word;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&word, data, 8);
        crc = __crc32cd(crc, word);
    }
    for (; size; size--, data++)
        crc = __crc32cb(crc, *data);
    return crc;
}

static const wattd_crc_kernel armv8_kernel = {"armv8", armv8_update};

static const wattd_crc_kernel *hardware(void) { return getauxval(AT_HWCAP) & HWCAP_CRC32 ? &armv8_kernel : NULL; }

#else

static const wattd_crc_kernel *hardware(void) { return NULL; }

#endif

const wattd_crc_kernel *wattd_crc_kernels[3];
static const wattd_crc_kernel *chosen = &table_kernel;

void wattd_crc_init(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        table[byte] = crc;
    }
    size_t n = 0;
    if (hardware())
        wattd_crc_kernels[n++] = hardware();
    wattd_crc_kernels[n++] = &table_kernel;
    wattd_crc_kernels[n] = NULL;
    chosen = wattd_crc_kernels[0];
}

int wattd_crc_use(const char *name)
{
    for (size_t i = 0; wattd_crc_kernels[i]; i++)
        if (!strcmp(wattd_crc_kernels[i]->name, name)) {
            chosen = wattd_crc_kernels[i];
            return 1;
        }
    return 0;
}

uint32_t wattd_crc32c(uint32_t crc, const uint8_t *data, size_t size) { return ~chosen->update(~crc, data, size); }
