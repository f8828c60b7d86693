/* keygen: keysets made from parts: fresh keys, keys shared with another keyset, a system identifier bound. */
#ifndef CTL_KEYGEN_H
#define CTL_KEYGEN_H

#include "walcrypt/keyset.h"

/* Fresh relation key, one fresh WAL epoch. */
struct keyset *keyset_generate(enum key_method method, uint64_t system_identifier, struct err *err);
/* Fresh relation key, the WAL key (all epochs) of another keyset; its method, too. */
struct keyset *keyset_generate_sharing(const struct keyset *other, uint64_t system_identifier, struct err *err);
/* The same keys under another system identifier. */
struct keyset *keyset_bind(const struct keyset *ks, uint64_t system_identifier, struct err *err);
/* "AES256: relation key 0123..., WAL key 4567... (epoch 1)", as programs print it. */
void keyset_describe(const struct keyset *ks, char out[static 256]);

#endif
