/* keystore: the folder that holds a key directory for each keyset, beside files of other kinds (the ledger). */
#ifndef KEYMGR_KEYSTORE_H
#define KEYMGR_KEYSTORE_H

#include <limits.h>
#include <stddef.h>

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

#endif
