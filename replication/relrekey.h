/*
 * relrekey: pages of relation files from one relation key to another, in a base backup.
 *
 * What comes encrypted is looked at once it is open, as the server would do it in a clear base backup: a page's
 * checksum must be right, unless the page is new or has an LSN at or behind the backup's start (it may have been
 * written while it was read; WAL puts it right). A page that fails is reported and passes: the owner fails the backup
 * at its end. Pages none of which looks like one were encrypted under another key: that ends the backup.
 * source: src/backend/backup/basebackup.c, sendFile.
 */
#ifndef REPLICATION_RELREKEY_H
#define REPLICATION_RELREKEY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"
#include "walcrypt/page.h"

struct relrekey_fault {
	uint32_t block; /* from the start of the fork */
	uint16_t stored, calculated;
};

struct relrekey_conf {
	const struct data_key *upstream, *downstream; /* NULL: clear. Copied into ciphers */
	bool verify;                                  /* page checksums; only of what comes encrypted */
	/* A page whose checksum is wrong. NULL: not wanted. */
	void (*on_fault)(void *arg, const struct relrekey_fault *fault);
	void *arg;
};

struct relrekey;
struct relrekey *relrekey_new(const struct relrekey_conf *conf, struct err *err);
void relrekey_free(struct relrekey *r); /* NULL allowed */
/* The backup's start, before the first page; 0 until then. */
void relrekey_start(struct relrekey *r, uint64_t lsn);
/* n pages in a row, the first at `at`. What becomes of them is put to `to`: pages itself, or what shares nothing with
 * it; then pages may be changed, too. ERR_WRONG_KEY when they do not open. */
int relrekey_pages(struct relrekey *r, const struct page_at *at, uint8_t *pages, uint8_t *to, uint32_t n,
                   struct err *err);

#endif
