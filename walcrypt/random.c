#include "walcrypt/random.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "walcrypt/crypto.h"
#include "walcrypt/secmem.h"

static int
fill(int (*generator)(unsigned char *, int), uint8_t *out, size_t len, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		size_t n = len - done < 65536 ? len - done : 65536;

		if (generator(out + done, (int)n) != 1) {
			secmem_wipe(out, len);
			return crypto_err(err, "could not get random bytes");
		}
		done += n;
	}
	return 0;
}

int
random_bytes(uint8_t *out, size_t len, struct err *err)
{
	/* the private generator: its output is never seen by a peer, unlike that of TLS */
	return fill(RAND_priv_bytes, out, len, err);
}

int
random_nonce(uint8_t *out, size_t len, struct err *err)
{
	return fill(RAND_bytes, out, len, err);
}

int
random_stir(const uint8_t *extra, size_t len, struct err *err)
{
	/* the threads' generators are seeded by this one, and anew when it has been */
	EVP_RAND_CTX *primary = RAND_get0_primary(NULL);

	if (primary == NULL || EVP_RAND_reseed(primary, 0, NULL, 0, extra, len) != 1)
		return crypto_err(err, "could not mix random bytes");
	return 0;
}
