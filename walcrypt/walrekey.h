/*
 * walrekey: encrypted WAL of one keyset as the holder of another one must get it (docs/formats/wal.md, section 8).
 *
 * By page header: the reader has the very key of the page's epoch: the bytes pass untouched. It has another one there,
 * or lacks the epoch: the page is translated to the epoch that the reader's keyset writes for its timeline; the
 * generation is kept (W5), and raw-zero granules stay raw zeros (W3). The reader is clear: the page is opened.
 */
#ifndef WALCRYPT_WALREKEY_H
#define WALCRYPT_WALREKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/wal.h"

struct walrekey;

/* to NULL: the reader is clear. Both must outlive it. One object per thread. */
struct walrekey *walrekey_new(const struct keyset *from, const struct keyset *to, struct err *err);
void walrekey_free(struct walrekey *r); /* NULL allowed */

/*
 * data[0..len): the bytes from `off` on of a page with header h, in place; off and len are multiples of 8, within the
 * page. text, when not NULL, gets len bytes of what PostgreSQL wrote there. h: encrypted; its magic, info, tli,
 * pageaddr, epoch7 and len must be known, its generation where the range goes beyond the header.
 * errors  ERR_WRONG_KEY: `from` lacks the epoch, data untouched; ERR_REFUSED: h is a clear page's
 */
int walrekey_range(struct walrekey *r, const struct wal_header *h, size_t off, uint8_t *data, uint8_t *text, size_t len,
                   struct err *err);
/* Do pages with this header pass untouched? */
bool walrekey_passes(const struct walrekey *r, const struct wal_header *h);

#endif
