/* Any bytes as a packed keyset: refused with an error, or a keyset that packs to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "walcrypt/digest.h"
#include "walcrypt/keyset.h"
#include "walcrypt/secmem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
check(const uint8_t *data, size_t len)
{
	struct err err = {0};
	struct keyset *ks = keyset_unpack(data, len, &err);
	uint8_t *packed;
	size_t n;

	if (ks == NULL) {
		if (err.class != ERR_DAMAGED || err.text[0] == '\0')
			abort();
		return;
	}
	packed = keyset_pack(ks, &n, &err);
	if (packed == NULL || n != len || memcmp(packed, data, n) != 0)
		abort();
	for (unsigned e = 0; e < KEYSET_MAX_EPOCHS; e++) {
		const struct keyset_epoch *found = keyset_wal_read(ks, e);

		if (found != NULL && found->number % KEYSET_MAX_EPOCHS != e)
			abort();
	}
	keyset_wal_write(ks, 1);
	secmem_free(packed);
	keyset_free(ks);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct err err = {0};
	uint8_t sum[DIGEST_MAX_LEN], *copy;
	struct digest *d;

	if (secmem_init(65536, &err) != 0)
		abort();
	check(data, len);
	if (len < 32)
		return 0;
	/* the same with its checksum made right: what a fuzzer would never find */
	copy = malloc(len);
	memcpy(copy, data, len);
	d = digest_new(DIGEST_SHA256, &err);
	digest_update(d, copy, len - 32, &err);
	digest_final(d, sum, &err);
	digest_free(d);
	memcpy(copy + len - 32, sum, 32);
	check(copy, len);
	free(copy);
	if (secmem_used() != 0)
		abort();
	return 0;
}
