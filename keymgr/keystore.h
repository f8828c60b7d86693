/* keystore: the folder that holds a key directory for each keyset, beside files of other kinds (the ledger). */
#ifndef KEYMGR_KEYSTORE_H
#define KEYMGR_KEYSTORE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct keystore_names {
	char (*name)[NAME_MAX + 1];
	size_t n;
};

/* The keysets that are there, sorted by name; one whose change or making was cut off counts. Free with
 * keystore_names_free, also after -1. */
int keystore_names(const char *keystore, struct keystore_names *names, struct err *err);
void keystore_names_free(struct keystore_names *names);

/* Is it its owner's alone? ERR_REFUSED when others may look in, or when it belongs to somebody else and we are not
 * root.
 */
int keystore_check(const char *keystore, struct err *err);

/*
 * Make the folder if it is not there, and lock it: whoever puts keysets into it or takes them out is alone with it, as
 * two would draw two WAL keys for one cluster. patience_ms: how long another one is waited for, then ERR_REFUSED; -1:
 * any time. The descriptor, to be closed, or -1.
 */
int keystore_lock(const char *keystore, int patience_ms, struct err *err);

/*
 * A keyset of this cluster, whose WAL key a new one shares: of several with the same WAL key the one that knows the
 * latest epoch; name is empty when there is none. among: look at these alone (NULL: at all). ERR_REFUSED when they have
 * different WAL keys.
 */
int keystore_relative(const char *keystore, uint64_t system_identifier, const char *const *among, size_t n,
                      char name[static NAME_MAX + 1], struct err *err);

#endif
