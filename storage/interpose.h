/* interpose: what the interposed calls share. The calls themselves have libc's prototypes and live in interpose_*.c. */
#ifndef STORAGE_INTERPOSE_H
#define STORAGE_INTERPOSE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "storage/fdtable.h"

/* Visible from outside; everything else in this library is hidden by storage/exports.map. */
#define INTERPOSED __attribute__((visibility("default")))
/* The second name of a call whose offsets have 64 bits anyway. */
#define INTERPOSED_ALIAS(of) INTERPOSED __attribute__((alias(of)))

/* pread and pwrite of a file that is not FILE_NONE, with any view. */
ssize_t interpose_pread(int fd, struct file *f, void *buf, size_t len, off_t off);
ssize_t interpose_pwritev(int fd, struct file *f, const struct iovec *iov, int n, off_t off);
/* open, with everything that depends on the name. */
int interpose_open(int dir, const char *path, int flags, mode_t mode);
/* Refuse a call on a file of ours, saying which and why. Sets errno to ENOTSUP, returns -1. */
int interpose_refuse(const char *call, int fd);

#endif
