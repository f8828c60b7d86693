/* keygen: keysets made from parts: fresh keys, keys shared with another keyset, a system identifier bound. */
#ifndef KEYMGR_KEYGEN_H
#define KEYMGR_KEYGEN_H

#include <stdbool.h>

#include "walcrypt/keyset.h"

/* Fresh relation key, one fresh WAL epoch. */
struct keyset *keyset_generate(enum key_method method, uint64_t system_identifier, struct err *err);
/* Fresh relation key, the WAL key (all epochs) of another keyset; its method, too. */
struct keyset *keyset_generate_sharing(const struct keyset *other, uint64_t system_identifier, struct err *err);
/* The same keys under another system identifier. */
struct keyset *keyset_bind(const struct keyset *ks, uint64_t system_identifier, struct err *err);
/* The same keys, and a fresh WAL epoch behind the last one, for timelines above after_timeline. ERR_REFUSED when that
 * timeline is below the last epoch's, or the first one is 128 epochs back. */
struct keyset *keyset_extend(const struct keyset *ks, uint32_t after_timeline, struct err *err);
/* The same keys, and the epochs of the other numbered above `above` that it lacks. ERR_REFUSED when both have an epoch
 * of one number and mean different ones. */
struct keyset *keyset_merge(const struct keyset *ks, const struct keyset *other, uint32_t above, struct err *err);
/* The same keys without that epoch. ERR_REFUSED when it has no other. */
struct keyset *keyset_without(const struct keyset *ks, uint32_t number, struct err *err);
/* Do two keysets know one WAL key, the same epoch of both? */
bool keyset_shares_wal_key(const struct keyset *a, const struct keyset *b);
/* "AES256: relation key 0123..., WAL key 4567... (epoch 1)", as programs print it. */
void keyset_describe(const struct keyset *ks, char out[static 256]);

#endif
