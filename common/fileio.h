/*
 * fileio: reads and writes that go on until all is done. By system calls made directly, because the storage layer
 * interposes libc's functions and uses these too.
 */
#ifndef COMMON_FILEIO_H
#define COMMON_FILEIO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Until len bytes or the end; how many there were, or -1 with errno. fileio_read: from where the descriptor stands (a
 * pipe, too); fileio_pread: from offset. */
ssize_t fileio_read(int fd, void *data, size_t len);
ssize_t fileio_pread(int fd, void *data, size_t len, uint64_t offset);
/* All of it: 0, or -1 with errno (ENOSPC when nothing more can be written). */
int fileio_pwrite(int fd, const void *data, size_t len, uint64_t offset);

#endif
