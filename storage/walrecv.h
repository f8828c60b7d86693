/*
 * walrecv: what a walreceiver writes, as it arrives, in pieces of pages.
 *
 * Pages that arrive encrypted are stored as they are, clear ones are encrypted under a generation drawn for the segment
 * file; which it is says the last page header in the stream (R5). A page that stands on disk under another generation
 * stays as long as what arrives is what it already says; from the first difference on it is replaced, through the
 * journal.
 */
#ifndef STORAGE_WALRECV_H
#define STORAGE_WALRECV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "storage/fdtable.h"

/* As pwrite. data is a private copy and is changed. */
ssize_t walrecv_write(int fd, struct file *f, uint8_t *data, size_t len, off_t off);

#endif
