/*
 * sharedlock: the server's shared memory, locked in RAM when its setting walcrypt.lock_shared_memory is on.
 *
 * Shared buffers hold clear pages; without this they may reach swap space. The setting stands in postgresql.conf and
 * is read when memory is mapped.
 */
#ifndef STORAGE_SHAREDLOCK_H
#define STORAGE_SHAREDLOCK_H

#include <stddef.h>

/* The server has mapped shared memory. 0, or -1 with errno when it could not be locked: the caller unmaps it then. In
 * the postmaster that ends the start, with a line that names the limit. */
int sharedlock_mapped(void *addr, size_t len);

#endif
