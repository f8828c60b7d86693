/* The keyset: packed form (the decoder's vectors), what it refuses, which epoch serves which page. */
#include "walcrypt/keyset.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

#define MAX (24 + 32 + 129 * 40 + 32)

static void
reseal(uint8_t *data, size_t len)
{
	struct err err = {0};
	struct digest *d = digest_new(DIGEST_SHA256, &err);
	uint8_t out[DIGEST_MAX_LEN];

	digest_update(d, data, len - 32, &err);
	digest_final(d, out, &err);
	digest_free(d);
	memcpy(data + len - 32, out, 32);
}

static void
row(const struct vector *v)
{
	static uint8_t data[MAX], copy[MAX];
	size_t len = vector_bytes(v, 1, data, sizeof(data)), n;
	struct err err = {0};
	struct keyset *ks = keyset_unpack(data, len, &err);
	struct data_key key;
	uint8_t *packed;
	bool refused = true;

	if (!ok(ks != NULL, "keyset.txt:%d: unpacked", v->number))
		return;
	key = *keyset_relation(ks);
	ok(keyset_system_identifier(ks) == UINT64_C(7300000000000000007) && keyset_nepochs(ks) == 2 &&
	       key.len == key_method_len(keyset_method(ks)),
	   "... its parts");
	ok(keyset_epoch_at(ks, 1)->number == 2 && keyset_epoch_at(ks, 1)->after_timeline == 3 &&
	       keyset_epoch_at(ks, 2) == NULL,
	   "... its epochs");
	packed = keyset_pack(ks, &n, &err);
	ok(packed != NULL && n == len && memcmp(packed, data, len) == 0, "... packed alike");
	secmem_free(packed);
	keyset_free(ks);
	for (size_t i = 0; i < len; i++) {
		data[i] ^= 0x20;
		refused &= keyset_unpack(data, len, &err) == NULL && err.class == ERR_DAMAGED;
		data[i] ^= 0x20;
	}
	ok(refused, "... changed anywhere: refused");
	for (size_t i = 0; i < len; i++)
		refused &= keyset_unpack(data, i, &err) == NULL && err.class == ERR_DAMAGED;
	ok(refused && keyset_unpack(data, len + 1, &err) == NULL, "... cut anywhere or longer: refused");

	/* sealed again after the change: the fields themselves are looked at */
	struct {
		size_t at;
		uint8_t value;
		const char *part;
	} bad[] = {{4, 2, "version 2"},        {8, 9, "method 9"},       {20, 0, "cut off"},      {20, 200, "cut off"},
	           {20, 1, "cut off"},         {56, 0, "epoch number"},  {56, 2, "out of order"}, {60, 1, "epoch 1 begins"},
	           {96, 200, "or more apart"}, {96, 1, "epoch 1 begins"}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memcpy(copy, data, len);
		copy[bad[i].at] = bad[i].value;
		reseal(copy, len);
		ok(keyset_unpack(copy, len, &err) == NULL, "keyset.txt:%d: byte %zu made %d", v->number, bad[i].at,
		   bad[i].value);
		is_err(&err, ERR_DAMAGED, bad[i].part, "... is refused and said");
	}
	if (key.len < 32) {
		memcpy(copy, data, len);
		copy[24 + 31] = 1;
		reseal(copy, len);
		ok(keyset_unpack(copy, len, &err) == NULL, "bytes behind a short key");
		is_err(&err, ERR_DAMAGED, "behind", "... are refused");
	}
}

static void
epochs(void)
{
	struct keyset_epoch e[130];
	struct data_key relation;
	struct keyset *ks;
	struct err err = {0};

	memset(e, 0, sizeof(e));
	sample_key(&relation, KEY_AES128, 1);
	for (uint32_t i = 0; i < 130; i++) {
		e[i].number = i + 1;
		e[i].after_timeline = i / 2 * 2;
		sample_key(&e[i].key, KEY_AES128, 2 + i);
	}
	ok(keyset_new(KEY_AES128, 1, &relation, e, 129, &err) == NULL, "129 epochs are too many");
	ok(keyset_new(KEY_AES128, 1, &relation, e, 0, &err) == NULL, "none are too few");
	ks = keyset_new(KEY_AES128, 1, &relation, e, 128, &err);
	ok(ks != NULL, "128 are not");
	is_int(keyset_wal_read(ks, 0)->number, 128, "epoch 128 is written as 0");
	is_int(keyset_wal_read(ks, 127)->number, 127, "epoch 127 as 127");
	is_int(keyset_wal_write(ks, 1)->number, 2, "timeline 1: epochs 1 and 2 begin before it, the higher writes");
	is_int(keyset_wal_write(ks, 2)->number, 2, "timeline 2: those after timeline 2 do not begin yet");
	is_int(keyset_wal_write(ks, 3)->number, 4, "timeline 3: they do");
	is_int(keyset_wal_write(ks, UINT32_MAX)->number, 128, "the last timeline: the highest");
	ok(keyset_wal_write(ks, 0) == NULL, "no epoch for timeline 0");
	keyset_free(ks);
	ks = keyset_new(KEY_AES128, 0, &relation, e + 2, 128, &err);
	ok(ks != NULL && keyset_wal_read(ks, 2)->number == 130 && keyset_wal_write(ks, 2) == NULL &&
	       keyset_system_identifier(ks) == 0,
	   "the window moves on, and epoch 1 is gone");
	keyset_free(ks);
	ok(keyset_new(KEY_AES256, 1, &relation, e, 1, &err) == NULL, "keys of another length");
	is_err(&err, ERR_DAMAGED, "16 bytes where the method asks for 32", "... are refused");
	e[1].key.len = 32;
	ok(keyset_new(KEY_AES128, 1, &relation, e, 2, &err) == NULL, "one WAL key of another length");
	is_err(&err, ERR_DAMAGED, "WAL key", "... too");
}

static int
there_and_back(void *arg)
{
	struct err err = {0};
	size_t len;
	uint8_t *packed = keyset_pack(arg, &len, &err);
	struct keyset *ks = packed != NULL ? keyset_unpack(packed, len, &err) : NULL;
	struct keyset *copy = NULL;

	if (ks != NULL)
		copy = keyset_new(keyset_method(ks), 1, keyset_relation(ks), keyset_epoch_at(ks, 0), 1, &err);
	secmem_free(packed);
	keyset_free(ks);
	keyset_free(copy);
	return copy != NULL ? 0 : err.class == ERR_NONE ? 1 : -1;
}

int
main(void)
{
	struct keyset *ks;
	struct vector v;
	int n = 0;

	sample_secmem(65536);
	for (vector_open(&v, "keyset.txt"); vector_next(&v);)
		if (strcmp(v.word[0], "pack") == 0) {
			row(&v);
			n++;
		}
	ok(n == 3, "rows: %d", n);
	epochs();
	keyset_free(NULL);
	ks = sample_keyset(KEY_AES192);
	ok(failmalloc_each(there_and_back, ks) > 0, "with each allocation failing");
	keyset_free(ks);
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
