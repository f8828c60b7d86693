#include "walcrypt/random.h"

#include <openssl/rand.h>

#include "walcrypt/crypto.h"
#include "walcrypt/secmem.h"

int
random_bytes(uint8_t *out, size_t len, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		size_t n = len - done < 65536 ? len - done : 65536;

		/* the private generator: its output is never seen by a peer, unlike that of TLS */
		if (RAND_priv_bytes(out + done, (int)n) != 1) {
			secmem_wipe(out, len);
			return crypto_err(err, "could not get random bytes");
		}
		done += n;
	}
	return 0;
}
