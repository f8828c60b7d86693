/* Keysets made from others: another epoch, epochs merged, what is refused. */
#include "keymgr/keygen.h"

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/secmem.h"

static struct err err;

static bool
same_key(const struct data_key *a, const struct data_key *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

/* Does ks begin with all that `from` is? */
static bool
begins_with(const struct keyset *ks, const struct keyset *from)
{
	if (keyset_nepochs(ks) < keyset_nepochs(from) || keyset_method(ks) != keyset_method(from) ||
	    keyset_system_identifier(ks) != keyset_system_identifier(from) ||
	    !same_key(keyset_relation(ks), keyset_relation(from)))
		return false;
	for (size_t i = 0; i < keyset_nepochs(from); i++) {
		const struct keyset_epoch *a = keyset_epoch_at(ks, i), *b = keyset_epoch_at(from, i);

		if (a->number != b->number || a->after_timeline != b->after_timeline || !same_key(&a->key, &b->key))
			return false;
	}
	return true;
}

static void
extended(void)
{
	struct keyset *first = keyset_generate(KEY_AES192, 7, &err), *ks = keyset_merge(first, first, 0, &err), *more;
	const struct keyset_epoch *last;
	int n = 1;

	ok(keyset_nepochs(ks) == 1 && begins_with(ks, first), "merged with itself: as it was");
	for (; (more = keyset_extend(ks, (uint32_t)n, &err)) != NULL; n++) {
		last = keyset_epoch_at(more, keyset_nepochs(more) - 1);
		if (!begins_with(more, ks) || last->number != (uint32_t)n + 1 || last->after_timeline != (uint32_t)n ||
		    last->key.len != 24 || same_key(&last->key, &keyset_epoch_at(ks, keyset_nepochs(ks) - 1)->key))
			break;
		keyset_free(ks);
		ks = more;
	}
	is_int(n, KEYSET_MAX_EPOCHS, "an epoch behind the last, until there are 128 with fresh keys");
	ok(more == NULL, "... and no more");
	is_err(&err, ERR_REFUSED, "WAL key epoch 1 is needed no more before", "... refused");
	keyset_free(ks);
	ks = keyset_extend(first, 9, &err);
	ok(keyset_extend(ks, 8, &err) == NULL, "for timelines that the last one is for already");
	is_err(&err, ERR_REFUSED, "WAL key epoch 2 waits for timelines after 9, which are above 8", "... refused");
	more = keyset_extend(ks, 9, &err);
	ok(more != NULL && keyset_wal_write(more, 10)->number == 3 && keyset_wal_write(more, 9)->number == 1,
	   "two for the same timelines: the later one counts");
	keyset_free(more);
	keyset_free(ks);
	keyset_free(first);
}

static int
merge_once(void *arg)
{
	const struct keyset *const *pair = arg;
	struct keyset *ks;

	err = (struct err){0};
	if ((ks = keyset_merge(pair[0], pair[1], 0, &err)) == NULL)
		return err.class == ERR_FAILED ? -1 : 1;
	keyset_free(ks);
	return 0;
}

static void
merged(void)
{
	struct keyset *a = sample_keyset(KEY_AES256), *b = sample_keyset_other(KEY_AES256), *shared, *ks, *far;

	ok(keyset_merge(b, a, 0, &err) == NULL, "two keys for one epoch");
	is_err(&err, ERR_REFUSED, "WAL key epoch 1 is not the same in both keysets", "... refused");
	ok(strstr(err.detail, "with another key") != NULL, "... and said why");

	shared = keyset_generate_sharing(a, 7, &err);
	ok(keyset_shares_wal_key(a, shared) && !same_key(keyset_relation(a), keyset_relation(shared)), "a shared WAL key");
	ks = keyset_extend(shared, 12, &err);
	far = keyset_merge(a, ks, 3, &err);
	ok(far != NULL && keyset_nepochs(far) == 4 && begins_with(far, a) &&
	       same_key(&keyset_epoch_at(far, 3)->key, &keyset_epoch_at(ks, 3)->key),
	   "the epoch that the other has above");
	keyset_free(far);
	far = keyset_merge(a, ks, 4, &err);
	ok(far != NULL && keyset_nepochs(far) == 3, "... or none");
	keyset_free(far);
	ok(failmalloc_each(merge_once, (const struct keyset *[]){a, ks}) > 1, "each allocation failing: reported");
	keyset_free(ks);
	keyset_free(shared);
	keyset_free(b);
	keyset_free(a);
}

int
main(void)
{
	sample_secmem(1 << 20);
	extended();
	merged();
	is_int(secmem_used(), 0, "no key is left in memory");
	return tap_done();
}
