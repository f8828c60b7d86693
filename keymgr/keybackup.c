#include "keymgr/keybackup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "keymgr/keydir_text.h"
#include "walcrypt/sealed.h"
#include "walcrypt/secmem.h"

#define MAGIC "WCBK"
#define FILE_MAX (64 * 1024 * 1024)
#define TEXT_MAX (64 * 1024)
#define PACKED_MAX (24 + 32 + 128 * 40 + 32)

size_t
keybackup_room(size_t nkeysets, size_t nepochs)
{
	/* opened, packed and read back; and what the heap loses to its own bookkeeping */
	return 256 * 1024 + 4 * (nkeysets * 512 + nepochs * 64);
}

static uint8_t *
put32(uint8_t *to, size_t v)
{
	for (int i = 0; i < 4; i++)
		*to++ = (uint8_t)(v >> 8 * i);
	return to;
}

static uint8_t *
put(uint8_t *to, const void *data, size_t len)
{
	to = put32(to, len);
	memcpy(to, data, len);
	return to + len;
}

/* All keysets as bytes, in secmem. */
static uint8_t *
entries_pack(const struct keybackup *b, size_t *len, struct err *err)
{
	char **text = calloc(b->n + 1, sizeof(*text));
	uint8_t *data = NULL, *at = NULL, *packed;
	size_t size = 4, n;

	*len = 0;
	if (text == NULL) {
		err_nomem(err);
		return NULL;
	}
	for (size_t i = 0; i < b->n; i++) {
		if ((text[i] = keydir_text_write(&b->entry[i].info, "", err)) == NULL)
			goto done;
		size += 12 + strlen(b->entry[i].name) + strlen(text[i]) + 88 + 40 * keyset_nepochs(b->entry[i].keys);
	}
	if ((data = secmem_alloc(size, err)) == NULL)
		goto done;
	at = put32(data, b->n);
	for (size_t i = 0; i < b->n; i++) {
		at = put(at, b->entry[i].name, strlen(b->entry[i].name));
		at = put(at, text[i], strlen(text[i]));
		if ((packed = keyset_pack(b->entry[i].keys, &n, err)) == NULL) {
			secmem_free(data);
			data = NULL;
			goto done;
		}
		at = put(at, packed, n);
		secmem_free(packed);
	}
	*len = (size_t)(at - data);
done:
	for (size_t i = 0; i < b->n; i++)
		free(text[i]);
	free(text);
	return data;
}

struct reader {
	const uint8_t *at;
	size_t left;
};

/* Length and bytes; NULL when they are not there. */
static const uint8_t *
take(struct reader *r, size_t max, size_t *len)
{
	const uint8_t *data = r->at + 4;

	if (r->left < 4)
		return NULL;
	*len = r->at[0] | (size_t)r->at[1] << 8 | (size_t)r->at[2] << 16 | (size_t)r->at[3] << 24;
	if (*len > max || *len > r->left - 4)
		return NULL;
	r->at += 4 + *len;
	r->left -= 4 + *len;
	return data;
}

static bool
name_is_plain(const uint8_t *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (strchr("abcdefghijklmnopqrstuvwxyz0123456789_-", name[i]) == NULL || name[i] == '\0')
			return false;
	return len > 0 && len <= 63 && name[0] != '-';
}

static int
entry_take(struct reader *r, const char *path, struct keybackup_entry *e, struct err *err)
{
	char mac[KEYDIR_MAC_HEX_LEN];
	const uint8_t *part;
	size_t len = 0;

	if ((part = take(r, NAME_MAX, &len)) == NULL || !name_is_plain(part, len))
		goto bad;
	memcpy(e->name, part, len);
	if ((part = take(r, TEXT_MAX, &len)) == NULL)
		goto bad;
	if (keydir_text_read(path, (const char *)part, len, &e->info, mac, err) != 0)
		return -1;
	if ((part = take(r, PACKED_MAX, &len)) == NULL)
		goto bad;
	return (e->keys = keyset_unpack(part, len, err)) != NULL ? 0 : -1;
bad:
	return err_set(err, ERR_DAMAGED, "\"%s\" opens, but holds no keysets as this version writes them", path);
}

int
keybackup_unpack(const char *path, const uint8_t *data, size_t len, struct keybackup *b, struct err *err)
{
	struct reader r = {data + 4, len - 4};
	size_t n;

	memset(b, 0, sizeof(*b));
	if (len < 4 || (n = data[0] | (size_t)data[1] << 8) == 0 || data[2] != 0 || data[3] != 0 || n > len / 12)
		return err_set(err, ERR_DAMAGED, "\"%s\" opens, but holds no keysets", path);
	if ((b->entry = calloc(n, sizeof(*b->entry))) == NULL)
		return err_nomem(err);
	while (b->n < n)
		if (entry_take(&r, path, &b->entry[b->n++], err) != 0)
			return -1;
	return r.left == 0 ? 0 : err_set(err, ERR_DAMAGED, "\"%s\" opens, but has bytes behind its keysets", path);
}

int
keybackup_read(const char *path, const struct passphrase *p, struct keybackup *b, struct err *err)
{
	size_t sealed_len = 0, len = 0;
	uint8_t *sealed = durable_read(path, FILE_MAX, &sealed_len, err), *data;
	char what[300];
	int result = -1;

	memset(b, 0, sizeof(*b));
	if (sealed == NULL)
		return -1;
	snprintf(what, sizeof(what), "\"%s\"", path);
	if ((data = sealed_open(MAGIC, what, p->text, p->len, sealed, sealed_len, &len, err)) != NULL)
		result = keybackup_unpack(path, data, len, b, err);
	else if (sealed_len < 4 || memcmp(sealed, MAGIC, 4) != 0)
		err_set(err, ERR_DAMAGED, "\"%s\" is no backup of keys", path);
	secmem_free(data);
	free(sealed);
	return result;
}

/* What was written must open, to the same bytes. */
static int
check_written(const char *path, const struct passphrase *p, const uint8_t *data, size_t len, struct err *err)
{
	size_t sealed_len = 0, again_len = 0;
	uint8_t *sealed = durable_read(path, FILE_MAX, &sealed_len, err), *again = NULL;
	int result = -1;

	if (sealed != NULL &&
	    (again = sealed_open(MAGIC, "what was written", p->text, p->len, sealed, sealed_len, &again_len, err)) != NULL)
		result = again_len == len && secmem_equal(again, data, len)
		             ? 0
		             : err_set(err, ERR_FAILED, "\"%s\" does not hold what was written", path);
	secmem_free(again);
	free(sealed);
	return result;
}

int
keybackup_write(const char *path, const struct keybackup *b, const struct passphrase *p, struct err *err)
{
	size_t len, sealed_len = 0;
	uint8_t *data = entries_pack(b, &len, err), *sealed = NULL;
	int result = -1;

	if (data == NULL || (sealed = sealed_make(MAGIC, p->text, p->len, data, len, &sealed_len, err)) == NULL)
		goto done;
	if (durable_create(path, sealed, sealed_len, 0600, err) != 0) {
		if (err->os_errno == EEXIST)
			err_set(err, ERR_REFUSED, "\"%s\" exists already", path);
		goto done;
	}
	if ((result = check_written(path, p, data, len, err)) != 0)
		unlink(path);
done:
	free(sealed);
	secmem_free(data);
	return result;
}

void
keybackup_free(struct keybackup *b)
{
	for (size_t i = 0; i < b->n; i++)
		keyset_free(b->entry[i].keys);
	free(b->entry);
	memset(b, 0, sizeof(*b));
}
