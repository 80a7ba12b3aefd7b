/* Loaded before libc into a process: every fsync and fdatasync takes so many milliseconds longer as stand
 * in the first four bytes of the file $WATTD_SLOW_DISK. It is looked at again while a call waits, so a disk
 * that was stuck is fast at once when it shall be. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile uint32_t *delay_ms;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WATTD_SLOW_DISK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(uint32_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        delay_ms = page;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void wait_for_the_disk(void)
{
    if (delay_ms == NULL || *delay_ms == 0)
        return;
    int64_t started = now_ms();
    struct timespec step = {0, 5 * 1000000};
    while (now_ms() - started < (int64_t)*delay_ms)
        nanosleep(&step, NULL);
}

int fsync(int fd)
{
    wait_for_the_disk();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    wait_for_the_disk();
    return (int)syscall(SYS_fdatasync, fd);
}
