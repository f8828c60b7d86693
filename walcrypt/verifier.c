#include "walcrypt/verifier.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/base64.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

#define PREFIX "SCRAM-SHA-256$"

/* base64 up to the character end (0: the text's own), which is passed over; NULL when there is none. */
static const char *
field(const char *p, char end, uint8_t *out, size_t max, int *n)
{
	size_t len = end != '\0' ? strcspn(p, (char[]){end, '\0'}) : strlen(p);

	if (p[len] != end || (*n = base64_decode(p, len, out, max)) < 0)
		return NULL;
	return p + len + (end != '\0');
}

static bool
parse(const char *text, struct verifier *v)
{
	const char *p = text;
	char *end;
	long n;
	int salt_len, stored, server;

	if (strncmp(p, PREFIX, strlen(PREFIX)) != 0)
		return false;
	p += strlen(PREFIX);
	if (*p < '1' || *p > '9')
		return false;
	errno = 0;
	n = strtol(p, &end, 10);
	if (errno != 0 || n > INT_MAX || *end != ':')
		return false;
	v->iterations = (unsigned)n;
	if ((p = field(end + 1, '$', v->salt, sizeof(v->salt), &salt_len)) == NULL || salt_len == 0)
		return false;
	v->salt_len = (size_t)salt_len;
	return (p = field(p, ':', v->stored_key, sizeof(v->stored_key), &stored)) != NULL && stored == VERIFIER_KEY_LEN &&
	       field(p, '\0', v->server_key, sizeof(v->server_key), &server) != NULL && server == VERIFIER_KEY_LEN;
}

int
verifier_parse(const char *text, struct verifier *v, struct err *err)
{
	memset(v, 0, sizeof(*v));
	if (parse(text, v))
		return 0;
	secmem_wipe(v, sizeof(*v));
	err_set(err, ERR_USAGE, "not a SCRAM-SHA-256 verifier");
	return err_hint(err, "It is pg_authid.rolpassword of a role whose password was set with password_encryption = "
	                     "'scram-sha-256'.");
}

int
verifier_mock(const char *user, const uint8_t secret[static VERIFIER_SECRET_LEN], const struct verifier *like,
              struct verifier *v, struct err *err)
{
	uint8_t mac[32], number = 0;
	struct digest *d = NULL;
	int rc = -1;

	memset(v, 0, sizeof(*v));
	v->iterations = like != NULL ? like->iterations : VERIFIER_ITERATIONS;
	v->salt_len = like != NULL ? like->salt_len : VERIFIER_SALT_LEN;
	for (size_t at = 0; at < v->salt_len; at += sizeof(mac), number++) {
		uint8_t full[DIGEST_MAX_LEN];
		size_t n = v->salt_len - at < sizeof(mac) ? v->salt_len - at : sizeof(mac);

		digest_free(d);
		d = digest_new_hmac(secret, VERIFIER_SECRET_LEN, err);
		if (d == NULL || digest_update(d, &number, 1, err) != 0 || digest_update(d, user, strlen(user), err) != 0 ||
		    digest_final(d, full, err) != (int)sizeof(mac))
			goto out;
		memcpy(v->salt + at, full, n);
	}
	rc = 0;
out:
	digest_free(d);
	return rc;
}

int
verifier_check(const struct verifier *v, const void *text, size_t len, const uint8_t proof[static VERIFIER_KEY_LEN],
               struct err *err)
{
	uint8_t key[VERIFIER_KEY_LEN], hash[DIGEST_MAX_LEN];
	struct digest *d = NULL;
	int rc = -1;

	/* ClientProof = ClientKey XOR HMAC(StoredKey, AuthMessage), and StoredKey = H(ClientKey) */
	if (hmac_sha256(v->stored_key, sizeof(v->stored_key), text, len, key, err) != 0)
		return -1;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] ^= proof[i];
	if ((d = digest_new(DIGEST_SHA256, err)) != NULL && digest_update(d, key, sizeof(key), err) == 0 &&
	    digest_final(d, hash, err) == VERIFIER_KEY_LEN)
		rc = secmem_equal(hash, v->stored_key, VERIFIER_KEY_LEN) ? 1 : 0;
	digest_free(d);
	secmem_wipe(key, sizeof(key));
	return rc;
}

int
verifier_sign(const struct verifier *v, const void *text, size_t len, uint8_t out[static VERIFIER_KEY_LEN],
              struct err *err)
{
	return hmac_sha256(v->server_key, sizeof(v->server_key), text, len, out, err);
}
