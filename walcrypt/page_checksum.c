/*
 * PostgreSQL's own page checksum, from its own header: the one place in the core that knows a server's struct.
 * PageHeaderData and the algorithm are the same in 15 to 18.
 */
#include "postgres_fe.h"

#include "storage/checksum_impl.h"

#include "walcrypt/page.h"

uint16_t
page_checksum(const uint8_t *page, uint32_t block)
{
	/* the server's function writes into the page while it computes, and wants it aligned */
	PGChecksummablePage copy;

	memcpy(&copy, page, sizeof(copy));
	return pg_checksum_page((char *)&copy, block);
}
