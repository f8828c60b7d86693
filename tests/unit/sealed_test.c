/* Bytes under a passphrase: scrypt's vectors of RFC 7914, what is sealed opens, and what is refused. */
#include "walcrypt/sealed.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

static struct err err;

static void
vectors(void)
{
	struct vector v;
	uint8_t pass[64], salt[64], want[64], out[64];

	vector_open(&v, "scrypt.txt");
	while (vector_next(&v)) {
		size_t np = vector_bytes(&v, 0, pass, sizeof(pass)), ns = vector_bytes(&v, 1, salt, sizeof(salt));

		vector_bytes(&v, 5, want, sizeof(want));
		ok(scrypt_derive((const char *)pass, np, salt, ns, (uint32_t)vector_number(&v, 2),
		                 (uint32_t)vector_number(&v, 3), (uint32_t)vector_number(&v, 4), out, sizeof(out), &err) == 0,
		   "scrypt.txt:%d", v.number);
		is_mem(out, want, sizeof(want), "... its key");
	}
	ok(scrypt_derive("x", 1, salt, 8, 24, 64, 1, out, 64, &err) == -1, "parameters that ask for too much memory");
	is_err(&err, ERR_DAMAGED, "out of bounds", "... refused");
	ok(scrypt_derive("x", 1, salt, 8, 0, 8, 1, out, 64, &err) == -1 &&
	       scrypt_derive("x", 1, salt, 8, 10, 0, 1, out, 64, &err) == -1 &&
	       scrypt_derive("x", 1, salt, 8, 10, 8, 17, out, 64, &err) == -1 &&
	       scrypt_derive("x", 1, salt, 8, 25, 1, 1, out, 64, &err) == -1,
	   "... and none, or silly ones");
}

/* A checksum that fits again, as somebody would make it who changes the file on purpose. */
static void
resum(uint8_t *data, size_t len)
{
	struct digest *d = digest_new(DIGEST_SHA256, &err);
	uint8_t out[DIGEST_MAX_LEN];

	digest_update(d, data, len - 32, &err);
	digest_final(d, out, &err);
	digest_free(d);
	memcpy(data + len - 32, out, 32);
}

static void
sealing(void)
{
	uint8_t data[300], *sealed, *again, *open;
	size_t len, n = 0;
	bool refused = true;

	sample_noise(5, data, sizeof(data));
	sealed = sealed_make("TEST", "correct horse", 13, data, sizeof(data), &len, &err);
	ok(sealed != NULL && len == sizeof(data) + SEALED_OVERHEAD, "sealed");
	again = sealed_make("TEST", "correct horse", 13, data, sizeof(data), &n, &err);
	ok(again != NULL && memcmp(sealed + 20, again + 20, 32) != 0 && memcmp(sealed + 72, again + 72, 300) != 0,
	   "never twice the same");
	free(again);
	open = sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err);
	if (ok(open != NULL && n == sizeof(data), "it opens"))
		is_mem(open, data, sizeof(data), "... to what was in it");
	secmem_free(open);
	ok(sealed_open("TEST", "it", "correct horsf", 13, sealed, len, &n, &err) == NULL, "another passphrase");
	is_err(&err, ERR_WRONG_KEY, "the passphrase does not open it", "... is told");
	ok(sealed_open("TEXT", "it", "correct horse", 13, sealed, len, &n, &err) == NULL, "another kind of file");
	is_err(&err, ERR_DAMAGED, "is not such a file", "... is told");
	for (size_t i = 0; i < len; i += 7) {
		sealed[i] ^= 4;
		refused = refused && sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err) == NULL &&
		          err.class == ERR_DAMAGED;
		sealed[i] ^= 4;
		refused = refused && sealed_open("TEST", "it", "correct horse", 13, sealed, i, &n, &err) == NULL &&
		          err.class == ERR_DAMAGED;
	}
	ok(refused, "a bit changed, bytes missing: damaged");
	for (size_t i = 20; i < len - 32; i += 97) {
		sealed[i] ^= 1;
		resum(sealed, len);
		refused = refused && sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err) == NULL;
		sealed[i] ^= 1;
	}
	sealed[16] = 2; /* scrypt's p: in the header, which is authenticated */
	resum(sealed, len);
	ok(refused && sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err) == NULL,
	   "... with a new checksum, too");
	sealed[16] = 1;
	sealed[4] = 2;
	resum(sealed, len);
	ok(sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err) == NULL, "a later version");
	is_err(&err, ERR_REFUSED, "it has format 2; this version of walcrypt knows formats up to 1", "... is told");
	sealed[4] = 0;
	resum(sealed, len);
	ok(sealed_open("TEST", "it", "correct horse", 13, sealed, len, &n, &err) == NULL, "none");
	is_err(&err, ERR_DAMAGED, "it is damaged: it has format 0", "... is damage");
	free(sealed);
	sealed = sealed_make("TEST", "", 0, data, 0, &len, &err);
	open = sealed_open("TEST", "it", "", 0, sealed, len, &n, &err);
	ok(open != NULL && n == 0, "nothing under nothing");
	secmem_free(open);
	free(sealed);
}

static int
seal_once(void *arg)
{
	size_t len = 0, n;
	uint8_t *sealed, *open;

	err = (struct err){0};
	if ((sealed = sealed_make("TEST", "abcdefgh", 8, arg, 32, &len, &err)) == NULL)
		return err.class == ERR_FAILED ? -1 : 1;
	open = sealed_open("TEST", "it", "abcdefgh", 8, sealed, len, &n, &err);
	free(sealed);
	if (open == NULL)
		return err.class == ERR_FAILED ? -1 : 1;
	secmem_free(open);
	return 0;
}

int
main(void)
{
	uint8_t data[32] = {1};

	sample_secmem(1 << 18);
	vectors();
	sealing();
	ok(failmalloc_each(seal_once, data) > 3, "each allocation failing: reported");
	is_int(secmem_used(), 0, "no key is left in memory");
	return tap_done();
}
