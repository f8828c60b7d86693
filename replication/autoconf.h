/*
 * autoconf: postgresql.auto.conf, which holds the guard: the line that names the storage layer in
 * shared_preload_libraries, so that no server starts on an encrypted directory without it. pg_verifybackup does not
 * look at this file, and of several lines for one setting the server takes the last.
 */
#ifndef REPLICATION_AUTOCONF_H
#define REPLICATION_AUTOCONF_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "replication/buffer.h"

#define AUTOCONF_MAX (1u << 20) /* a larger file is refused */
#define AUTOCONF_LAYER "libwalcrypt-storage"

/*
 * The file without the guard that an earlier step put in (lines that set shared_preload_libraries and name the layer,
 * and walcrypt's own comments), then `lines`. Other lines stay as they are. out keeps the fault when it has no room.
 */
void autoconf_put(struct buffer *out, const char *text, size_t len, const char *lines);

/*
 * The lines that put the guard in behind libraries, a list as SHOW shared_preload_libraries gives it; the layer's own
 * entries in it are left out. guard NULL: a line that names the others alone, or nothing when the layer is not in the
 * list. malloc'ed; NULL with err set.
 */
char *autoconf_guard(const char *libraries, const char *guard, struct err *err);

#endif
