#include "walcrypt/keyset.h"

#include <stdbool.h>
#include <string.h>

#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

/* docs/formats/keyset.md */
#define MAGIC "WCKS"
#define VERSION 1
#define HEAD_LEN (4 + 4 + 4 + 8 + 4)
#define EPOCH_LEN (4 + 4 + KEY_MAX_LEN)
#define SUM_LEN 32

struct keyset {
	enum key_method method;
	uint64_t system_identifier;
	struct data_key relation;
	size_t nepochs;
	struct keyset_epoch epochs[]; /* ascending */
};

static uint32_t
get32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t
get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static uint8_t *
put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		*p++ = (uint8_t)(v >> 8 * i);
	return p;
}

static uint8_t *
put64(uint8_t *p, uint64_t v)
{
	return put32(put32(p, (uint32_t)v), (uint32_t)(v >> 32));
}

static int
check_key(const struct data_key *key, int len, const char *what, struct err *err)
{
	if (key->len != len)
		return err_set(err, ERR_DAMAGED, "the %s key has %d bytes where the method asks for %d", what, key->len, len);
	for (size_t i = (size_t)len; i < KEY_MAX_LEN; i++)
		if (key->bytes[i] != 0)
			return err_set(err, ERR_DAMAGED, "the %s key has bytes behind its end", what);
	return 0;
}

static int
check_epochs(const struct keyset_epoch *epochs, size_t n, int key_len, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct keyset_epoch *e = &epochs[i];

		if (e->number == 0)
			return err_set(err, ERR_DAMAGED, "a WAL key has epoch number 0");
		if (e->number == 1 && e->after_timeline != 0)
			return err_set(err, ERR_DAMAGED, "epoch 1 begins after timeline %u and not at the beginning",
			               e->after_timeline);
		if (i > 0 && (e->number <= e[-1].number || e->after_timeline < e[-1].after_timeline))
			return err_set(err, ERR_DAMAGED, "the WAL key's epochs %u and %u are out of order", e[-1].number,
			               e->number);
		/* a page carries its epoch modulo 128: two that look alike must not be needed at once */
		if (e->number - epochs[0].number >= KEYSET_MAX_EPOCHS)
			return err_set(err, ERR_DAMAGED, "the WAL key's epochs %u and %u are %d or more apart", epochs[0].number,
			               e->number, KEYSET_MAX_EPOCHS);
		if (check_key(&e->key, key_len, "WAL", err) != 0)
			return -1;
	}
	return 0;
}

/* Zeroed, with room for n epochs. */
static struct keyset *
keyset_make(size_t n, struct err *err)
{
	struct keyset *ks = secmem_alloc(sizeof(struct keyset) + n * sizeof(struct keyset_epoch), err);

	if (ks != NULL)
		ks->nepochs = n;
	return ks;
}

static int
keyset_check(const struct keyset *ks, struct err *err)
{
	int len = key_method_len(ks->method);

	if (len < 0)
		return err_set(err, ERR_DAMAGED, "the keyset names encryption method %d, which is unknown", (int)ks->method);
	if (check_key(&ks->relation, len, "relation", err) != 0)
		return -1;
	return check_epochs(ks->epochs, ks->nepochs, len, err);
}

static bool
count_ok(size_t n)
{
	return n >= 1 && n <= KEYSET_MAX_EPOCHS;
}

struct keyset *
keyset_new(enum key_method method, uint64_t system_identifier, const struct data_key *relation,
           const struct keyset_epoch *epochs, size_t nepochs, struct err *err)
{
	struct keyset *ks;

	if (!count_ok(nepochs)) {
		err_set(err, ERR_DAMAGED, "a keyset needs 1 to %d WAL key epochs and not %zu", KEYSET_MAX_EPOCHS, nepochs);
		return NULL;
	}
	if ((ks = keyset_make(nepochs, err)) == NULL)
		return NULL;
	ks->method = method;
	ks->system_identifier = system_identifier;
	ks->relation = *relation;
	memcpy(ks->epochs, epochs, nepochs * sizeof(*epochs));
	if (keyset_check(ks, err) == 0)
		return ks;
	keyset_free(ks);
	return NULL;
}

static int
sum(const uint8_t *data, size_t len, uint8_t out[static DIGEST_MAX_LEN], struct err *err)
{
	struct digest *d = digest_new(DIGEST_SHA256, err);
	int rc = -1;

	if (d != NULL && digest_update(d, data, len, err) == 0 && digest_final(d, out, err) == SUM_LEN)
		rc = 0;
	digest_free(d);
	return rc;
}

struct keyset *
keyset_unpack(const uint8_t *data, size_t len, struct err *err)
{
	struct keyset *ks = NULL;
	uint8_t want[DIGEST_MAX_LEN];
	const uint8_t *p;
	size_t n;
	int key_len;

	if (len < HEAD_LEN || memcmp(data, MAGIC, 4) != 0) {
		err_set(err, ERR_DAMAGED, "this is not a packed keyset");
		return NULL;
	}
	if (get32(data + 4) != VERSION) {
		err_set(err, ERR_DAMAGED, "the packed keyset has version %u; this program knows version %d", get32(data + 4),
		        VERSION);
		err_hint(err, "Use programs and libraries of one walcrypt version.");
		return NULL;
	}
	n = get32(data + 20);
	if (!count_ok(n) || len != HEAD_LEN + KEY_MAX_LEN + n * EPOCH_LEN + SUM_LEN) {
		err_set(err, ERR_DAMAGED, "the packed keyset is cut off or too long: %zu bytes", len);
		return NULL;
	}
	if (sum(data, len - SUM_LEN, want, err) != 0)
		return NULL;
	if (!secmem_equal(want, data + len - SUM_LEN, SUM_LEN)) {
		err_set(err, ERR_DAMAGED, "the packed keyset's checksum does not match");
		return NULL;
	}
	key_len = key_method_len((enum key_method)get32(data + 8));
	if ((ks = keyset_make(n, err)) == NULL)
		return NULL;
	ks->method = (enum key_method)get32(data + 8);
	ks->system_identifier = get64(data + 12);
	p = data + HEAD_LEN;
	ks->relation.len = key_len;
	memcpy(ks->relation.bytes, p, KEY_MAX_LEN);
	p += KEY_MAX_LEN;
	for (size_t i = 0; i < n; i++, p += EPOCH_LEN) {
		ks->epochs[i].number = get32(p);
		ks->epochs[i].after_timeline = get32(p + 4);
		ks->epochs[i].key.len = key_len;
		memcpy(ks->epochs[i].key.bytes, p + 8, KEY_MAX_LEN);
	}
	if (keyset_check(ks, err) == 0)
		return ks;
	keyset_free(ks);
	return NULL;
}

uint8_t *
keyset_pack(const struct keyset *ks, size_t *len, struct err *err)
{
	size_t body = HEAD_LEN + KEY_MAX_LEN + ks->nepochs * EPOCH_LEN;
	uint8_t mac[DIGEST_MAX_LEN], *data = secmem_alloc(body + SUM_LEN, err), *p = data;

	*len = 0;
	if (data == NULL)
		return NULL;
	memcpy(p, MAGIC, 4);
	p = put32(p + 4, VERSION);
	p = put32(p, (uint32_t)ks->method);
	p = put64(p, ks->system_identifier);
	p = put32(p, (uint32_t)ks->nepochs);
	memcpy(p, ks->relation.bytes, KEY_MAX_LEN);
	p += KEY_MAX_LEN;
	for (size_t i = 0; i < ks->nepochs; i++) {
		p = put32(p, ks->epochs[i].number);
		p = put32(p, ks->epochs[i].after_timeline);
		memcpy(p, ks->epochs[i].key.bytes, KEY_MAX_LEN);
		p += KEY_MAX_LEN;
	}
	if (sum(data, body, mac, err) != 0) {
		secmem_free(data);
		return NULL;
	}
	memcpy(p, mac, SUM_LEN);
	*len = body + SUM_LEN;
	return data;
}

void
keyset_free(struct keyset *ks)
{
	secmem_free(ks);
}

enum key_method
keyset_method(const struct keyset *ks)
{
	return ks->method;
}

uint64_t
keyset_system_identifier(const struct keyset *ks)
{
	return ks->system_identifier;
}

const struct data_key *
keyset_relation(const struct keyset *ks)
{
	return &ks->relation;
}

size_t
keyset_nepochs(const struct keyset *ks)
{
	return ks->nepochs;
}

const struct keyset_epoch *
keyset_epoch_at(const struct keyset *ks, size_t i)
{
	return i < ks->nepochs ? &ks->epochs[i] : NULL;
}

const struct keyset_epoch *
keyset_wal_read(const struct keyset *ks, unsigned epoch7)
{
	for (size_t i = ks->nepochs; i-- > 0;)
		if (ks->epochs[i].number % KEYSET_MAX_EPOCHS == epoch7)
			return &ks->epochs[i];
	return NULL;
}

const struct keyset_epoch *
keyset_wal_write(const struct keyset *ks, uint32_t tli)
{
	for (size_t i = ks->nepochs; i-- > 0;)
		if (ks->epochs[i].after_timeline < tli)
			return &ks->epochs[i];
	return NULL;
}
