#include "walcrypt/wal.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/cipher.h"
#include "walcrypt/digest.h"
#include "walcrypt/granule.h"
#include "walcrypt/load.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define CTR_KEY_INFO "walcrypt wal ctr v1"
#define GENERATION_KEY_INFO "walcrypt wal generation v1"

/* offsets in the header, access/xlog_internal.h: XLogPageHeaderData, XLogLongPageHeaderData */
#define OFF_INFO 2
#define OFF_TLI 4
#define OFF_PAGEADDR 8
#define OFF_REM_LEN 16
#define OFF_GENERATION 20 /* padding in PostgreSQL */
#define OFF_SYSTEM_IDENTIFIER 24
#define OFF_SEGMENT_SIZE 32
#define OFF_PAGE_SIZE 36

struct wal_cipher {
	const struct keyset *ks;
	struct cipher *by_epoch[KEYSET_MAX_EPOCHS]; /* by epoch modulo 128; NULL where the keyset has none */
};

static uint8_t *
put_be(uint8_t *p, uint64_t v, int len)
{
	for (int i = len - 1; i >= 0; i--)
		*p++ = (uint8_t)(v >> 8 * i);
	return p;
}

enum wal_page_kind
wal_page_look(const uint8_t *page, size_t len, struct wal_header *h)
{
	uint16_t info;

	memset(h, 0, sizeof(*h));
	if (len < WAL_HEADER_LEN)
		return WAL_PAGE_INVALID;
	if (granule_all_zero(page, WAL_HEADER_LEN))
		return WAL_PAGE_ZERO;
	info = load16(page + OFF_INFO);
	h->magic = load16(page);
	h->tli = load32(page + OFF_TLI);
	h->pageaddr = load64(page + OFF_PAGEADDR);
	h->rem_len = load32(page + OFF_REM_LEN);
	h->generation = load32(page + OFF_GENERATION);
	h->encrypted = (info & WAL_INFO_ENCRYPTED) != 0;
	if (h->encrypted) {
		h->epoch7 = (uint8_t)((info & WAL_INFO_EPOCH_MASK) >> WAL_INFO_EPOCH_SHIFT);
		info &= (uint16_t) ~(WAL_INFO_ENCRYPTED | WAL_INFO_EPOCH_MASK);
	}
	h->info = info;
	if (h->magic >> 8 != 0xD1 || h->pageaddr % WAL_PAGE_LEN != 0 || h->pageaddr >= WAL_MAX_PAGEADDR || h->tli == 0 ||
	    (info & ~WAL_INFO_KNOWN) != 0 || (!h->encrypted && h->generation != 0)) {
		memset(h, 0, sizeof(*h));
		return WAL_PAGE_INVALID;
	}
	h->len = (info & WAL_INFO_LONG) != 0 ? WAL_LONG_HEADER_LEN : WAL_HEADER_LEN;
	if (h->len == WAL_LONG_HEADER_LEN && len >= WAL_LONG_HEADER_LEN) {
		h->system_identifier = load64(page + OFF_SYSTEM_IDENTIFIER);
		h->segment_size = load32(page + OFF_SEGMENT_SIZE);
		h->page_size = load32(page + OFF_PAGE_SIZE);
	}
	return h->encrypted ? WAL_PAGE_ENCRYPTED : WAL_PAGE_CLEAR;
}

/* The two fields apart, because a range may hold one and not the other. */
static void
seal_info(uint8_t *field, unsigned epoch)
{
	uint16_t info = load16(field);

	info = (uint16_t)(info | WAL_INFO_ENCRYPTED | (epoch << WAL_INFO_EPOCH_SHIFT & WAL_INFO_EPOCH_MASK));
	memcpy(field, &info, sizeof(info));
}

static void
open_info(uint8_t *field)
{
	uint16_t info = load16(field);

	info &= (uint16_t) ~(WAL_INFO_ENCRYPTED | WAL_INFO_EPOCH_MASK);
	memcpy(field, &info, sizeof(info));
}

void
wal_header_seal(uint8_t *page, unsigned epoch, uint32_t generation)
{
	open_info(page + OFF_INFO);
	seal_info(page + OFF_INFO, epoch);
	memcpy(page + OFF_GENERATION, &generation, sizeof(generation));
}

void
wal_header_open(uint8_t *page)
{
	open_info(page + OFF_INFO);
	memset(page + OFF_GENERATION, 0, 4);
}

struct wal_cipher *
wal_cipher_new(const struct keyset *ks, struct err *err)
{
	struct wal_cipher *c = calloc(1, sizeof(*c));
	uint8_t key[KEY_MAX_LEN] = {0};

	if (c == NULL) {
		err_nomem(err);
		return NULL;
	}
	c->ks = ks;
	for (size_t i = 0; c != NULL && i < keyset_nepochs(ks); i++) {
		const struct keyset_epoch *e = keyset_epoch_at(ks, i);
		size_t len = (size_t)e->key.len;
		struct cipher **to = &c->by_epoch[e->number % KEYSET_MAX_EPOCHS];

		if (key_derive(e->key.bytes, len, CTR_KEY_INFO, key, len, err) != 0 ||
		    (*to = cipher_new(CIPHER_CTR, key, len, err)) == NULL) {
			wal_cipher_free(c);
			c = NULL;
		}
	}
	secmem_wipe(key, sizeof(key));
	return c;
}

void
wal_cipher_free(struct wal_cipher *c)
{
	if (c == NULL)
		return;
	for (size_t i = 0; i < KEYSET_MAX_EPOCHS; i++)
		cipher_free(c->by_epoch[i]);
	free(c);
}

static struct cipher *
cipher_for(struct wal_cipher *c, unsigned epoch7, struct err *err)
{
	struct cipher *aes = epoch7 < KEYSET_MAX_EPOCHS ? c->by_epoch[epoch7] : NULL;

	if (aes == NULL) {
		err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key of epoch %u (modulo %d)", epoch7, KEYSET_MAX_EPOCHS);
		err_hint(err, "Give this directory the keyset that holds all epochs of its WAL.");
	}
	return aes;
}

static const struct keyset_epoch *
write_epoch(const struct keyset *ks, uint32_t tli, struct err *err)
{
	const struct keyset_epoch *e = keyset_wal_write(ks, tli);

	if (e == NULL)
		err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key for timeline %u", tli);
	return e;
}

/* XOR the keystream from byte `off` of the page on. The counter block is big-endian, docs/formats/wal.md. */
static int
xor_range(struct cipher *aes, uint32_t tli, uint32_t generation, uint64_t pageaddr, size_t off, const uint8_t *in,
          uint8_t *out, size_t len, struct err *err)
{
	uint8_t iv[CIPHER_IV_LEN];

	if (len == 0)
		return 0;
	put_be(put_be(put_be(iv, tli, 4), generation, 4), pageaddr / WAL_PAGE_LEN << 16 | off / CIPHER_IV_LEN, 8);
	return cipher_run_from(aes, iv, off % CIPHER_IV_LEN, in, out, len, err);
}

int
wal_cipher_xor(struct wal_cipher *c, unsigned epoch7, uint32_t tli, uint32_t generation, uint64_t pageaddr, size_t off,
               const uint8_t *in, uint8_t *out, size_t len, struct err *err)
{
	struct cipher *aes;

	if (off > WAL_PAGE_LEN || len > WAL_PAGE_LEN - off || pageaddr >= WAL_MAX_PAGEADDR)
		return err_set(err, ERR_FAILED, "a range of %zu bytes at %zu lies outside a WAL page", len, off);
	if ((aes = cipher_for(c, epoch7, err)) == NULL)
		return -1;
	return xor_range(aes, tli, generation, pageaddr, off, in, out, len, err);
}

/*
 * A header ends in the middle of an AES block. Starting at the block's own beginning spares a call for the half block
 * in front; the header's bytes that this scrambles are put back by the caller, which has them.
 */
static int
xor_body(struct cipher *aes, const struct wal_header *h, uint32_t generation, const uint8_t *in, uint8_t *out,
         size_t end, struct err *err)
{
	size_t start = h->len / CIPHER_IV_LEN * CIPHER_IV_LEN;

	return end <= h->len
	           ? 0
	           : xor_range(aes, h->tli, generation, h->pageaddr, start, in + start, out + start, end - start, err);
}

int
wal_page_encrypt(struct wal_cipher *c, uint32_t generation, bool last, const uint8_t *in, uint8_t *out, struct err *err)
{
	uint8_t head[WAL_LONG_HEADER_LEN];
	uint64_t zeros[GRANULE_MAP_WORDS];
	const struct keyset_epoch *epoch;
	struct wal_header h;
	struct cipher *aes;
	bool holes;
	size_t end;

	switch (wal_page_look(in, WAL_PAGE_LEN, &h)) {
	case WAL_PAGE_ZERO:
		if (granule_all_zero(in, WAL_PAGE_LEN)) {
			memset(out, 0, WAL_PAGE_LEN);
			return 0;
		}
		return err_set(err, ERR_REFUSED, "this is not a WAL page: its header is zero and its body is not");
	case WAL_PAGE_CLEAR:
		break;
	case WAL_PAGE_ENCRYPTED:
		return err_set(err, ERR_REFUSED, "the WAL page is encrypted already");
	case WAL_PAGE_INVALID:
		return err_set(err, ERR_REFUSED, "this is not a WAL page: it has no valid page header");
	}
	if ((epoch = write_epoch(c->ks, h.tli, err)) == NULL ||
	    (aes = cipher_for(c, epoch->number % KEYSET_MAX_EPOCHS, err)) == NULL)
		return -1;

	memcpy(head, in, sizeof(head));
	end = granule_len_without_tail(in + h.len, WAL_PAGE_LEN - h.len) + h.len;
	holes = last && granule_find_zero(in, end, zeros);
	if (xor_body(aes, &h, generation, in, out, end, err) != 0) {
		secmem_wipe(out, WAL_PAGE_LEN);
		return -1;
	}
	if (holes)
		granule_clear(out, end, zeros);
	memset(out + end, 0, WAL_PAGE_LEN - end);
	memcpy(out, head, h.len);
	wal_header_seal(out, epoch->number, generation);
	return 0;
}

int
wal_page_decrypt(struct wal_cipher *c, const uint8_t *in, uint8_t *out, struct err *err)
{
	uint8_t head[WAL_LONG_HEADER_LEN];
	uint64_t zeros[GRANULE_MAP_WORDS];
	struct wal_header h;
	struct cipher *aes;
	bool holes;
	size_t end;

	if (wal_page_look(in, WAL_PAGE_LEN, &h) != WAL_PAGE_ENCRYPTED) {
		if (in != out)
			memcpy(out, in, WAL_PAGE_LEN);
		return 0;
	}
	if ((aes = cipher_for(c, h.epoch7, err)) == NULL)
		return -1;
	memcpy(head, in, sizeof(head));
	end = granule_len_without_tail(in + h.len, WAL_PAGE_LEN - h.len) + h.len;
	holes = granule_find_zero(in, end, zeros);
	if (xor_body(aes, &h, h.generation, in, out, end, err) != 0) {
		secmem_wipe(out, WAL_PAGE_LEN);
		return -1;
	}
	if (holes)
		granule_clear(out, end, zeros);
	memset(out + end, 0, WAL_PAGE_LEN - end);
	memcpy(out, head, h.len);
	wal_header_open(out);
	return 0;
}

/* What of the header's changed fields lies in the range: the info bits are in granule 0, the generation in granule 2.
 */
static bool
range_has(size_t off, size_t len, size_t granule)
{
	return off <= granule && off + len >= granule + WAL_GRANULE;
}

static int
check_range(size_t off, size_t len, struct err *err)
{
	if (off % WAL_GRANULE != 0 || len % WAL_GRANULE != 0 || off > WAL_PAGE_LEN || len > WAL_PAGE_LEN - off)
		return err_set(err, ERR_FAILED, "a range of %zu bytes at %zu is not made of granules of a WAL page", len, off);
	return 0;
}

/* A range: header bytes as they are, behind them ciphertext; with raw_zeros zero granules stay. */
static int
range_xor(struct cipher *aes, const struct wal_header *h, uint32_t generation, bool raw_zeros, size_t off,
          const uint8_t *in, uint8_t *out, size_t len, struct err *err)
{
	size_t head = off < h->len ? h->len - off : 0;
	uint64_t zeros[GRANULE_MAP_WORDS];
	bool holes;

	if (head > len)
		head = len;
	if (in != out)
		memcpy(out, in, head);
	in += head;
	out += head;
	len -= head;
	if (len == 0)
		return 0;
	holes = raw_zeros && granule_find_zero(in, len, zeros);
	if (xor_range(aes, h->tli, generation, h->pageaddr, off + head, in, out, len, err) != 0)
		return -1;
	if (holes)
		granule_clear(out, len, zeros);
	return 0;
}

int
wal_range_decrypt(struct wal_cipher *c, const struct wal_header *h, size_t off, uint8_t *data, size_t len,
                  struct err *err)
{
	struct cipher *aes;

	if (check_range(off, len, err) != 0)
		return -1;
	if (!h->encrypted)
		return 0;
	if ((aes = cipher_for(c, h->epoch7, err)) == NULL ||
	    range_xor(aes, h, h->generation, true, off, data, data, len, err) != 0)
		return -1;
	if (range_has(off, len, 0))
		open_info(data + OFF_INFO - off);
	if (range_has(off, len, 2 * WAL_GRANULE))
		memset(data + OFF_GENERATION - off, 0, 4);
	return 0;
}

int
wal_range_encrypt(struct wal_cipher *c, const struct wal_header *h, uint32_t generation, bool raw_zeros, size_t off,
                  const uint8_t *in, uint8_t *out, size_t len, struct err *err)
{
	const struct keyset_epoch *epoch;
	struct cipher *aes;

	if (check_range(off, len, err) != 0)
		return -1;
	if (h->encrypted)
		return err_set(err, ERR_REFUSED, "the WAL page is encrypted already");
	if ((epoch = write_epoch(c->ks, h->tli, err)) == NULL ||
	    (aes = cipher_for(c, epoch->number % KEYSET_MAX_EPOCHS, err)) == NULL ||
	    range_xor(aes, h, generation, raw_zeros, off, in, out, len, err) != 0)
		return -1;
	if (range_has(off, len, 0))
		seal_info(out + OFF_INFO - off, epoch->number);
	if (range_has(off, len, 2 * WAL_GRANULE))
		memcpy(out + OFF_GENERATION - off, &generation, sizeof(generation));
	return 0;
}

int
wal_proxy_generation(const struct keyset *ks, uint64_t system_identifier, uint32_t tli,
                     const uint8_t history_sha256[static 32], uint64_t incarnation, uint32_t *generation,
                     struct err *err)
{
	const struct keyset_epoch *epoch = write_epoch(ks, tli, err);
	uint8_t key[32], mac[32], text[8 + 4 + 32 + 8], *p = text;
	int rc;

	*generation = 0;
	if (epoch == NULL ||
	    key_derive(epoch->key.bytes, (size_t)epoch->key.len, GENERATION_KEY_INFO, key, sizeof(key), err) != 0)
		return -1;
	p = put_be(p, system_identifier, 8);
	p = put_be(p, tli, 4);
	memcpy(p, history_sha256, 32);
	put_be(p + 32, incarnation, 8);
	rc = hmac_sha256(key, sizeof(key), text, sizeof(text), mac, err);
	secmem_wipe(key, sizeof(key));
	if (rc != 0)
		return -1;
	*generation =
	    WAL_GENERATION_PROXY | (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | mac[3];
	return 0;
}

int
wal_random_generation(uint32_t *generation, struct err *err)
{
	uint8_t bytes[4];

	*generation = 0;
	if (random_bytes(bytes, sizeof(bytes), err) != 0)
		return -1;
	*generation = load32(bytes) & ~WAL_GENERATION_PROXY;
	return 0;
}
