/*
 * walsend: what a physical walsender (or a base backup) reads of WAL: the bytes on disk.
 *
 * A page whose beginning was sent under one generation must not be continued under another: the receiver would get a
 * page that nobody can read (R7). Such a read fails; the client comes back and starts at the segment's beginning.
 */
#ifndef STORAGE_WALSEND_H
#define STORAGE_WALSEND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* As pread; -1 with EAGAIN when the page that off lies in is not the one that was sent before. */
ssize_t walsend_read(int fd, uint8_t *buf, size_t len, off_t off);

#endif
