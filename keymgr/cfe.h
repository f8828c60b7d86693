/*
 * cfe: the key files of Cluster File Encryption, PostgreSQL's patches of 2019 to 2021: relation.wkey and wal.wkey, 48
 * bytes each, without anything that says which is which. walcrypt's own have the same bytes (docs/formats/keydir.md).
 */
#ifndef KEYMGR_CFE_H
#define KEYMGR_CFE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "keymgr/provider.h"
#include "walcrypt/keyset.h"

/*
 * The keys in folder, as a keyset with one epoch. With wal_only the WAL key alone is read, and the relation key is a
 * fresh one. A file missing: os_errno ENOENT; neither opens: ERR_WRONG_KEY; one of the two, not 48 bytes, of two
 * lengths of keys, or the same key twice: ERR_DAMAGED.
 */
struct keyset *cfe_read(const char *folder, const struct kek *kek, bool wal_only, uint64_t system_identifier,
                        struct err *err);
/* Write the relation key and the WAL key of the newest epoch (with wal_only: the latter) into folder, which is made;
 * ERR_REFUSED when it exists. Durable. */
int cfe_write(const char *folder, const struct keyset *ks, const struct kek *kek, bool wal_only, struct err *err);

#endif
