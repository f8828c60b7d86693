/* relfile: reading and writing relation files page by page (DESIGN sections 5 and 7, R3). */
#ifndef STORAGE_RELFILE_H
#define STORAGE_RELFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "storage/fdtable.h"

/* As pread: bytes as the server wrote them, at any offset and length. -1 with errno set. */
ssize_t relfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off);
/* As preadv into buffers of whole pages, with one system call. */
ssize_t relfile_readv(int fd, const struct file *f, const struct iovec *iov, int n, off_t off);
/* As pwrite of whole pages, through out, a private buffer of len bytes aligned for O_DIRECT; data may be out. Others
 * may change data meanwhile (hint bits). Short only by whole pages. */
ssize_t relfile_write(int fd, const struct file *f, const uint8_t *data, uint8_t *out, size_t len, off_t off);

#endif
