/*
 * guard: the lines in postgresql.auto.conf that keep a server without the storage layer from starting on an encrypted
 * directory: the layer as the last of shared_preload_libraries (docs/storage.md).
 */
#ifndef CTL_GUARD_H
#define CTL_GUARD_H

#include <stdbool.h>

#include "common/err.h"

/* Put them in, unless the layer is named there already. existing: what shared_preload_libraries holds. Durable. */
int guard_add(const char *datadir, const char *existing, struct err *err);
/* Take the layer out again; other libraries of the list stay. Durable; nothing to do is no error. */
int guard_remove(const char *datadir, struct err *err);
/* 1: the layer is named in postgresql.auto.conf; 0: it is not; -1: error. */
int guard_there(const char *datadir, struct err *err);

#endif
