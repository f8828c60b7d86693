/*
 * Any bytes as a WAL page: looking at it never reads beyond them; decrypting changes nothing but what is flagged; what
 * decrypts encrypts to a page that decrypts to the same; zeros that were read stay zeros.
 */
#include <stdlib.h>
#include <string.h>

#include "walcrypt/secmem.h"
#include "walcrypt/wal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct wal_cipher *
cipher(void)
{
	static struct wal_cipher *c;
	struct data_key key = {.len = 16, .bytes = {1}};
	struct keyset_epoch epochs[2] = {{.number = 1, .key = key}, {.number = 2, .after_timeline = 5, .key = key}};
	struct err err = {0};
	struct keyset *ks;

	if (c != NULL)
		return c;
	if (secmem_init(65536, &err) != 0 || (ks = keyset_new(KEY_AES128, 1, &key, epochs, 2, &err)) == NULL ||
	    (c = wal_cipher_new(ks, &err)) == NULL)
		abort();
	return c;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wal_cipher *c = cipher();
	uint8_t page[WAL_PAGE_LEN] = {0}, clear[WAL_PAGE_LEN], again[WAL_PAGE_LEN], ranged[WAL_PAGE_LEN];
	uint8_t *exact = malloc(len > 0 ? len : 1);
	struct wal_header h, whole;
	struct err err = {0};
	enum wal_page_kind kind;

	memcpy(exact, data, len);
	kind = wal_page_look(exact, len, &h);
	free(exact);
	if ((kind == WAL_PAGE_ZERO || kind == WAL_PAGE_INVALID) != (h.len == 0))
		abort();
	memcpy(page, data, len < WAL_PAGE_LEN ? len : WAL_PAGE_LEN);
	kind = wal_page_look(page, WAL_PAGE_LEN, &whole);
	memset(clear, 0xAA, sizeof(clear));
	if (wal_page_decrypt(c, page, clear, &err) != 0) {
		if (err.class != ERR_WRONG_KEY || kind != WAL_PAGE_ENCRYPTED || clear[0] != 0xAA)
			abort();
		return 0;
	}
	if (kind != WAL_PAGE_ENCRYPTED && memcmp(page, clear, WAL_PAGE_LEN) != 0)
		abort();
	if (kind == WAL_PAGE_ENCRYPTED) {
		for (size_t i = whole.len; i < WAL_PAGE_LEN; i += WAL_GRANULE)
			if (memcmp(page + i, (uint8_t[8]){0}, 8) == 0 && memcmp(clear + i, (uint8_t[8]){0}, 8) != 0)
				abort();
		memcpy(ranged, page, WAL_PAGE_LEN);
		for (size_t i = 0; i < WAL_PAGE_LEN; i += 1024)
			if (wal_range_decrypt(c, &whole, i, ranged + i, 1024, &err) != 0)
				abort();
		if (memcmp(ranged, clear, WAL_PAGE_LEN) != 0 || wal_page_look(clear, WAL_PAGE_LEN, &h) != WAL_PAGE_CLEAR)
			abort();
	}
	if (wal_page_encrypt(c, 7, (len & 1) != 0, clear, again, &err) != 0) {
		if (err.class != ERR_REFUSED || kind == WAL_PAGE_CLEAR || kind == WAL_PAGE_ENCRYPTED)
			abort();
		return 0;
	}
	if (wal_page_decrypt(c, again, again, &err) != 0 || memcmp(again, clear, WAL_PAGE_LEN) != 0)
		abort();
	return 0;
}
