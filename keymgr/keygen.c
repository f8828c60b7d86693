#include "keymgr/keygen.h"

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

struct keyset *
keyset_extend(const struct keyset *ks, uint32_t after_timeline, struct err *err)
{
	size_t n = keyset_nepochs(ks);
	const struct keyset_epoch *first = keyset_epoch_at(ks, 0), *last = keyset_epoch_at(ks, n - 1);
	struct keyset_epoch *epochs;
	struct keyset *more = NULL;

	if (last->number - first->number + 1 >= KEYSET_MAX_EPOCHS) {
		err_set(err, ERR_REFUSED, "WAL key epoch %u is needed no more before there can be another one", first->number);
		err_detail(err, "A page of WAL names its epoch modulo %d.", KEYSET_MAX_EPOCHS);
		err_hint(err, "walcrypt-ctl key retire takes away what nothing needs.");
		return NULL;
	}
	if (after_timeline < last->after_timeline) {
		err_set(err, ERR_REFUSED, "WAL key epoch %u waits for timelines after %u, which are above %u", last->number,
		        last->after_timeline, after_timeline);
		return NULL;
	}
	if ((epochs = secmem_alloc((n + 1) * sizeof(*epochs), err)) == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		epochs[i] = *keyset_epoch_at(ks, i);
	epochs[n].number = last->number + 1;
	epochs[n].after_timeline = after_timeline;
	if (key_generate(keyset_method(ks), &epochs[n].key, err) == 0)
		more = keyset_new(keyset_method(ks), keyset_system_identifier(ks), keyset_relation(ks), epochs, n + 1, err);
	secmem_free(epochs);
	return more;
}

/* Of one number: are they the same epoch? */
static bool
same_epoch(const struct keyset_epoch *a, const struct keyset_epoch *b)
{
	return a->after_timeline == b->after_timeline && a->key.len == b->key.len &&
	       secmem_equal(a->key.bytes, b->key.bytes, sizeof(a->key.bytes));
}

struct keyset *
keyset_merge(const struct keyset *ks, const struct keyset *other, uint32_t above, struct err *err)
{
	size_t na = keyset_nepochs(ks), nb = keyset_nepochs(other), n = 0;
	struct keyset_epoch *epochs = secmem_alloc((na + nb) * sizeof(*epochs), err);
	struct keyset *merged = NULL;

	for (size_t i = 0, j = 0; epochs != NULL && (i < na || j < nb);) {
		const struct keyset_epoch *a = keyset_epoch_at(ks, i), *b = keyset_epoch_at(other, j);

		if (a != NULL && b != NULL && a->number == b->number && !same_epoch(a, b)) {
			err_set(err, ERR_REFUSED, "WAL key epoch %u is not the same in both keysets", a->number);
			err_detail(err, "One begins after timeline %u, the other after %u%s.", a->after_timeline, b->after_timeline,
			           a->after_timeline == b->after_timeline ? ", with another key" : "");
			goto done;
		}
		if (b == NULL || (a != NULL && a->number <= b->number)) {
			j += b != NULL && a->number == b->number;
			epochs[n++] = *a;
			i++;
		} else {
			if (b->number > above)
				epochs[n++] = *b;
			j++;
		}
	}
	if (epochs != NULL && epochs[n - 1].number - epochs[0].number >= KEYSET_MAX_EPOCHS) {
		err_set(err, ERR_REFUSED, "WAL key epochs %u and %u do not fit into one keyset", epochs[0].number,
		        epochs[n - 1].number);
		err_detail(err, "A page of WAL names its epoch modulo %d.", KEYSET_MAX_EPOCHS);
	} else if (epochs != NULL)
		merged = keyset_new(keyset_method(ks), keyset_system_identifier(ks), keyset_relation(ks), epochs, n, err);
done:
	secmem_free(epochs);
	return merged;
}

struct keyset *
keyset_without(const struct keyset *ks, uint32_t number, struct err *err)
{
	size_t n = 0;
	struct keyset_epoch *epochs = secmem_alloc(keyset_nepochs(ks) * sizeof(*epochs), err);
	struct keyset *less = NULL;

	for (size_t i = 0; epochs != NULL && i < keyset_nepochs(ks); i++)
		if (keyset_epoch_at(ks, i)->number != number)
			epochs[n++] = *keyset_epoch_at(ks, i);
	if (epochs != NULL && n == 0)
		err_set(err, ERR_REFUSED, "WAL key epoch %u is the only one of its keyset", number);
	else if (epochs != NULL)
		less = keyset_new(keyset_method(ks), keyset_system_identifier(ks), keyset_relation(ks), epochs, n, err);
	secmem_free(epochs);
	return less;
}

bool
keyset_shares_wal_key(const struct keyset *a, const struct keyset *b)
{
	for (size_t i = 0; i < keyset_nepochs(a); i++)
		for (size_t j = 0; j < keyset_nepochs(b); j++) {
			const struct keyset_epoch *x = keyset_epoch_at(a, i), *y = keyset_epoch_at(b, j);

			if (x->number == y->number && same_epoch(x, y))
				return true;
		}
	return false;
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
