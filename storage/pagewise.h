/* pagewise: reads of parts of pages, made of reads of whole ones: a page is only decrypted as a whole. */
#ifndef STORAGE_PAGEWISE_H
#define STORAGE_PAGEWISE_H

#include <stdint.h>
#include <sys/types.h>

#include "storage/fdtable.h"

/* Whole pages, decrypted: len and off are multiples of 8192, buf is 4 KiB-aligned; as pread returns. */
typedef ssize_t pagewise_reader(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off);

/* Bytes [off, off + len), whatever they are; as pread returns. Not for two threads at once. */
ssize_t pagewise_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off, pagewise_reader *read_pages);

#endif
