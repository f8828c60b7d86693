#include "ctl/keygen.h"

#include <stdio.h>

#include "walcrypt/secmem.h"

/* relation NULL: a fresh one. from NULL: a fresh epoch 1. */
static struct keyset *
keyset_make(enum key_method method, uint64_t system_identifier, const struct data_key *relation,
            const struct keyset *from, struct err *err)
{
	size_t n = from != NULL ? keyset_nepochs(from) : 1;
	struct keyset_epoch *epochs = secmem_alloc(n * sizeof(*epochs), err);
	struct data_key *fresh = epochs != NULL ? secmem_alloc(sizeof(*fresh), err) : NULL;
	struct keyset *ks = NULL;

	if (fresh == NULL || (relation == NULL && key_generate(method, fresh, err) != 0))
		goto done;
	if (from != NULL)
		for (size_t i = 0; i < n; i++)
			epochs[i] = *keyset_epoch_at(from, i);
	else {
		epochs[0].number = 1;
		if (key_generate(method, &epochs[0].key, err) != 0)
			goto done;
	}
	ks = keyset_new(method, system_identifier, relation != NULL ? relation : fresh, epochs, n, err);
done:
	secmem_free(fresh);
	secmem_free(epochs);
	return ks;
}

struct keyset *
keyset_generate(enum key_method method, uint64_t system_identifier, struct err *err)
{
	return keyset_make(method, system_identifier, NULL, NULL, err);
}

struct keyset *
keyset_generate_sharing(const struct keyset *other, uint64_t system_identifier, struct err *err)
{
	return keyset_make(keyset_method(other), system_identifier, NULL, other, err);
}

struct keyset *
keyset_bind(const struct keyset *ks, uint64_t system_identifier, struct err *err)
{
	return keyset_make(keyset_method(ks), system_identifier, keyset_relation(ks), ks, err);
}

void
keyset_describe(const struct keyset *ks, char out[static 256])
{
	const struct data_key *relation = keyset_relation(ks);
	const struct keyset_epoch *epoch = keyset_epoch_at(ks, keyset_nepochs(ks) - 1);
	char relation_id[KEY_ID_HEX_LEN] = "?", wal_id[KEY_ID_HEX_LEN] = "?";
	struct err ignored;

	key_id_hex(relation->bytes, (size_t)relation->len, relation_id, &ignored);
	key_id_hex(epoch->key.bytes, (size_t)epoch->key.len, wal_id, &ignored);
	snprintf(out, 256, "%s: relation key %s, WAL key %s (epoch %u)", key_method_name(keyset_method(ks)), relation_id,
	         wal_id, epoch->number);
}
