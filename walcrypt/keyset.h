/*
 * keyset: one relation key and the WAL key's epochs; opaque, in secure memory, immutable once made (so shared freely
 * between threads).
 *
 * Packed form (what a pipe carries from `walcrypt-ctl unlock` to a server; never stored): docs/formats/keyset.md.
 *   "WCKS" | version u32 = 1 | method u32 | system identifier u64 | nepochs u32 | relation key [32]
 *   then per epoch: number u32 | after_timeline u32 | key[32];  then SHA-256 of all before.  Integers little-endian.
 */
#ifndef WALCRYPT_KEYSET_H
#define WALCRYPT_KEYSET_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

#define KEYSET_MAX_EPOCHS 128

struct keyset;

struct keyset_epoch {
	uint32_t number;         /* 1, 2, ... ascending */
	uint32_t after_timeline; /* used for timelines above this one; 0 for epoch 1; never falling */
	struct data_key key;
};

/* Make one from its parts (copied). nepochs 1..128, numbers ascending within a window of 128, all keys of the method's
 * length; else ERR_DAMAGED. system_identifier 0: not bound to a cluster yet. */
struct keyset *keyset_new(enum key_method method, uint64_t system_identifier, const struct data_key *relation,
                          const struct keyset_epoch *epochs, size_t nepochs, struct err *err);
struct keyset *keyset_unpack(const uint8_t *data, size_t len, struct err *err);
/* out in secmem, to be freed with secmem_free; NULL on error. */
uint8_t *keyset_pack(const struct keyset *ks, size_t *len, struct err *err);
void keyset_free(struct keyset *ks); /* wipes; NULL allowed */

enum key_method keyset_method(const struct keyset *ks);
uint64_t keyset_system_identifier(const struct keyset *ks);
const struct data_key *keyset_relation(const struct keyset *ks);
size_t keyset_nepochs(const struct keyset *ks);
const struct keyset_epoch *keyset_epoch_at(const struct keyset *ks, size_t i);
/* The epoch whose number modulo 128 is epoch7, or NULL. */
const struct keyset_epoch *keyset_wal_read(const struct keyset *ks, unsigned epoch7);
/* The highest epoch whose after_timeline is below tli; never NULL for tli >= 1 (epoch 1 has after_timeline 0), else
 * NULL. */
const struct keyset_epoch *keyset_wal_write(const struct keyset *ks, uint32_t tli);

#endif
