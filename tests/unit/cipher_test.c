/* AES-XTS and AES-CTR against published vectors; each row also backwards, in place, split, tampered and truncated. */
#include "walcrypt/cipher.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/secmem.h"

static void
ctr_row(const struct vector *v)
{
	uint8_t key[32], iv[16], pt[256], ct[256], out[256];
	size_t key_len = vector_bytes(v, 0, key, sizeof(key)), len = vector_bytes(v, 2, pt, sizeof(pt));
	struct err err = {0};
	struct cipher *c = cipher_new(CIPHER_CTR, key, key_len, &err);
	bool splits = true;

	vector_bytes(v, 1, iv, sizeof(iv));
	vector_bytes(v, 3, ct, sizeof(ct));
	if (!ok(c != NULL, "ctr.txt:%d: a cipher", v->number))
		return;
	ok(cipher_run(c, iv, pt, out, len, &err) == 0 && memcmp(out, ct, len) == 0, "ctr.txt:%d: encrypts", v->number);
	ok(cipher_run(c, iv, out, out, len, &err) == 0 && memcmp(out, pt, len) == 0, "ctr.txt:%d: decrypts in place",
	   v->number);
	for (size_t from = 0; from < 16 && from < len; from++)
		splits &= cipher_run_from(c, iv, from, pt + from, out + from, len - from, &err) == 0 &&
		          memcmp(out + from, ct + from, len - from) == 0;
	ok(splits, "ctr.txt:%d: the same from any byte of the first block on", v->number);
	iv[15] ^= 1;
	ok(cipher_run(c, iv, pt, out, len, &err) == 0 && memcmp(out, ct, len) != 0,
	   "ctr.txt:%d: another counter, other bytes", v->number);
	cipher_free(c);
}

static void
xts_row(const struct vector *v)
{
	uint8_t key[64], iv[16], pt[512], ct[512], out[512];
	size_t key_len = vector_bytes(v, 0, key, sizeof(key)), len = vector_bytes(v, 2, pt, sizeof(pt));
	struct err err = {0};
	struct cipher *enc = cipher_new(CIPHER_XTS_ENCRYPT, key, key_len, &err);
	struct cipher *dec = cipher_new(CIPHER_XTS_DECRYPT, key, key_len, &err);
	size_t same = 0;

	vector_bytes(v, 1, iv, sizeof(iv));
	vector_bytes(v, 3, ct, sizeof(ct));
	if (!ok(enc != NULL && dec != NULL, "xts.txt:%d: ciphers", v->number))
		return;
	ok(cipher_run(enc, iv, pt, out, len, &err) == 0 && memcmp(out, ct, len) == 0, "xts.txt:%d: encrypts", v->number);
	ok(cipher_run(dec, iv, ct, out, len, &err) == 0 && memcmp(out, pt, len) == 0, "xts.txt:%d: decrypts", v->number);
	memcpy(out, pt, len);
	ok(cipher_run(enc, iv, out, out, len, &err) == 0 && memcmp(out, ct, len) == 0, "xts.txt:%d: encrypts in place",
	   v->number);
	ok(cipher_run(dec, iv, out, out, len, &err) == 0 && memcmp(out, pt, len) == 0, "xts.txt:%d: decrypts in place",
	   v->number);
	ct[0] ^= 1;
	cipher_run(dec, iv, ct, out, len, &err);
	for (size_t i = 16; i < len; i++)
		same += out[i] == pt[i];
	ok(memcmp(out, pt, 16) != 0 && (len % 16 != 0 || same == len - 16),
	   "xts.txt:%d: a changed bit spoils its block only", v->number);
	iv[0] ^= 1;
	ok(cipher_run(enc, iv, pt, out, len, &err) == 0 && memcmp(out + len - 16, ct + len - 16, 16) != 0,
	   "xts.txt:%d: another tweak, other bytes", v->number);
	memset(out, 7, len);
	err = (struct err){0};
	ok(cipher_run(enc, iv, pt, out, 15, &err) != 0 && out[0] == 0 && out[14] == 0 && out[15] == 7,
	   "xts.txt:%d: less than a block is refused, out zeroed", v->number);
	is_err(&err, ERR_FAILED, "could not encrypt", "... and said");
	cipher_free(enc);
	cipher_free(dec);
}

static int
make(void *arg)
{
	static const uint8_t key[64] = {1};
	struct err err = {0};
	struct cipher *c = cipher_new(CIPHER_XTS_ENCRYPT, key, 64, &err);

	(void)arg;
	if (c == NULL)
		return err.class == ERR_NONE ? 1 : -1;
	cipher_free(c);
	return 0;
}

int
main(void)
{
	struct vector v;
	uint8_t key[64] = {0};
	struct err err = {0};
	int n = 0;

	sample_secmem(65536);
	for (vector_open(&v, "ctr.txt"); vector_next(&v); n++)
		ctr_row(&v);
	ok(n >= 15, "CTR rows: %d", n);
	n = 0;
	for (vector_open(&v, "xts.txt"); vector_next(&v); n++)
		xts_row(&v);
	ok(n >= 40, "XTS rows: %d", n);

	ok(cipher_new(CIPHER_XTS_ENCRYPT, key, 48, &err) == NULL, "no XTS-AES-192");
	is_err(&err, ERR_FAILED, "48 bytes", "... and said");
	err = (struct err){0};
	ok(cipher_new(CIPHER_XTS_ENCRYPT, key, 64, &err) == NULL, "equal halves of an XTS key are refused");
	is_err(&err, ERR_FAILED, "could not set up a cipher", "... and said");
	ok(cipher_new(CIPHER_CTR, key, 64, &err) == NULL, "no CTR with a key of 64 bytes");
	cipher_free(NULL);
	ok(failmalloc_each(make, NULL) >= 0, "making one with each allocation failing");
	return tap_done();
}
