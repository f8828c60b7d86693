/*
 * A storage layer that does not draw fresh generations, for the negative control of the keystream accounting: linked into a
 * library of its own with --wrap=wal_random_generation, it makes every run of every server write under the same number.
 * No part of the product; the accounting must fail with it.
 */
#include "walcrypt/wal.h"

int __wrap_wal_random_generation(uint32_t *generation, struct err *err);

int
__wrap_wal_random_generation(uint32_t *generation, struct err *err)
{
	(void) err;
	*generation = 0x5EED;
	return 0;
}
