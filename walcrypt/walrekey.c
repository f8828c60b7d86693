#include "walcrypt/walrekey.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/granule.h"
#include "walcrypt/secmem.h"

struct walrekey {
	const struct keyset *reader;  /* NULL: the reader is clear */
	struct wal_cipher *from, *to; /* to: made when the first page is to be translated */
	bool same[KEYSET_MAX_EPOCHS]; /* by epoch modulo 128: both have it, and it is one key */
};

static void
find_same(struct walrekey *r, const struct keyset *from, const struct keyset *to)
{
	for (size_t i = 0; to != NULL && i < keyset_nepochs(from); i++) {
		const struct keyset_epoch *a = keyset_epoch_at(from, i), *b;

		b = keyset_wal_read(to, a->number % KEYSET_MAX_EPOCHS);
		r->same[a->number % KEYSET_MAX_EPOCHS] =
		    b != NULL && a->key.len == b->key.len && secmem_equal(a->key.bytes, b->key.bytes, (size_t)a->key.len);
	}
}

struct walrekey *
walrekey_new(const struct keyset *from, const struct keyset *to, struct err *err)
{
	struct walrekey *r = calloc(1, sizeof(*r));

	if (r == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->reader = to;
	if ((r->from = wal_cipher_new(from, err)) == NULL) {
		walrekey_free(r);
		return NULL;
	}
	find_same(r, from, to);
	return r;
}

void
walrekey_free(struct walrekey *r)
{
	if (r == NULL)
		return;
	wal_cipher_free(r->from);
	wal_cipher_free(r->to);
	free(r);
}

bool
walrekey_passes(const struct walrekey *r, const struct wal_header *h)
{
	return h->encrypted && h->epoch7 < KEYSET_MAX_EPOCHS && r->same[h->epoch7];
}

/* data is ciphertext, text what it says. What is raw zero in data stays so; what only says zero becomes ciphertext
 * again, so that a reader of the translation learns no more than one of the original. */
static int
translate(struct walrekey *r, const struct wal_header *h, size_t off, uint8_t *data, uint8_t *text, size_t len,
          struct err *err)
{
	struct wal_header opened = *h;
	size_t head = off < h->len ? h->len - off : 0;

	opened.encrypted = false;
	if (r->to == NULL && (r->to = wal_cipher_new(r->reader, err)) == NULL)
		return -1;
	if (wal_range_encrypt(r->to, &opened, h->generation, false, off, text, text, len, err) != 0)
		return -1;
	if (head > len)
		head = len;
	memcpy(data, text, head);
	granule_mask(data + head, text + head, data + head, len - head);
	return 0;
}

int
walrekey_range(struct walrekey *r, const struct wal_header *h, size_t off, uint8_t *data, uint8_t *text, size_t len,
               struct err *err)
{
	bool passes = walrekey_passes(r, h);
	uint8_t work[WAL_PAGE_LEN];

	if (!h->encrypted)
		return err_set(err, ERR_REFUSED, "the WAL page is not encrypted");
	if (len > WAL_PAGE_LEN)
		return err_set(err, ERR_FAILED, "a range of %zu bytes is more than a WAL page", len);
	if (passes && text == NULL)
		return 0;
	memcpy(work, data, len);
	if (wal_range_decrypt(r->from, h, off, work, len, err) != 0)
		return -1;
	if (text != NULL)
		memcpy(text, work, len);
	if (passes)
		return 0;
	if (r->reader != NULL)
		return translate(r, h, off, data, work, len, err);
	memcpy(data, work, len);
	return 0;
}
