/*
 * PostgreSQL's own page checksum, from its own header: the one place in the core that knows a server's struct.
 * PageHeaderData and the algorithm are the same in 15 to 18.
 */
#include <postgres_fe.h>

/* it defines a function of the server's name: hidden, so that it is neither seen by a server nor kept from being
 * inlined */
#pragma GCC visibility push(hidden)
#include <storage/checksum_impl.h>
#pragma GCC visibility pop

#include "walcrypt/page.h"

#if defined(__x86_64__)
/* The algorithm was made for wide registers; flatten draws it in here, where it may use them. */
__attribute__((target("avx2"), flatten)) static uint16_t
checksum_wide(PGChecksummablePage *page, uint32_t block)
{
	return pg_checksum_page((char *)page, block);
}
#endif

uint16_t
page_checksum(const uint8_t *page, uint32_t block)
{
	/* the server's function writes into the page while it computes, and wants it aligned */
	PGChecksummablePage copy;

	memcpy(&copy, page, sizeof(copy));
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return checksum_wide(&copy, block);
#endif
	return pg_checksum_page((char *)&copy, block);
}
