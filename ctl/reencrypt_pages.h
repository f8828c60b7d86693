/* reencrypt_pages: pages under the old key -> pages under the new one, in a thread's own buffers. */
#ifndef CTL_REENCRYPT_PAGES_H
#define CTL_REENCRYPT_PAGES_H

#include "ctl/reencrypt_list.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

#define REENCRYPT_PAGES_AT_ONCE 128
#define REENCRYPT_BUFFER_LEN (REENCRYPT_PAGES_AT_ONCE * PAGE_LEN)

struct reencrypt;

/* What one thread needs: ciphers, and buffers of REENCRYPT_BUFFER_LEN, aligned for direct I/O. */
struct reencrypt_pages {
	struct page_cipher *page_from, *page_to; /* NULL: clear */
	struct wal_cipher *wal_from, *wal_to;
	uint8_t *in, *clear, *out; /* one allocation, of in; any may hold plaintext: wiped at the end */
};

/* What is wrong with a file's pages. */
struct reencrypt_damage {
	uint64_t n; /* pages that are no pages under the old key */
	uint32_t first;
};

int reencrypt_pages_init(struct reencrypt_pages *p, const struct reencrypt *r, struct err *err);
void reencrypt_pages_free(struct reencrypt_pages *p);
/* n pages of file e, from offset, in p->in: under the new key into p->out, and decrypted again to see that they are.
 * generation: of a WAL file. */
int reencrypt_pages_turn(struct reencrypt_pages *p, const struct reencrypt *r, const struct reencrypt_entry *e,
                         uint32_t generation, uint32_t n, uint64_t offset, struct reencrypt_damage *damage,
                         struct err *err);

#endif
