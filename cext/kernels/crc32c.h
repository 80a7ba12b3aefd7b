/* CRC32C (Castagnoli, RFC 3720 appendix B.4): a table, or the instruction that x86 and ARMv8 have for it. */
#ifndef WATTD_CRC32C_H
#define WATTD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name;
    /* Takes and returns the inverted register. */
    uint32_t (*update)(uint32_t crc, const uint8_t *data, size_t size);
} wattd_crc_kernel;

/* What this CPU can run, best first; NULL behind the last. */
extern const wattd_crc_kernel *wattd_crc_kernels[];

void wattd_crc_init(void);
int wattd_crc_use(const char *name);
uint32_t wattd_crc32c(uint32_t crc, const uint8_t *data, size_t size);

#endif
