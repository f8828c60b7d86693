/* walfile: reading WAL as clear pages, and writing it under this run's generation (W2, W5, R1). */
#ifndef STORAGE_WALFILE_H
#define STORAGE_WALFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "storage/fdtable.h"

/* As pread. */
ssize_t walfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off);
/* As pwrite, through out, a private buffer of len bytes aligned for O_DIRECT; data may be out. Others may be copying
 * records into data's last page meanwhile. */
ssize_t walfile_write(int fd, struct file *f, const uint8_t *data, uint8_t *out, size_t len, off_t off);

/* A file that restore_command brought, before it gets a segment's name: its clear pages are encrypted into a new file
 * that takes its place. 0, or -1 with errno. */
int walfile_restored(const char *path, const char *becomes);

#endif
