#include "keymgr/keydir_set.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/durable.h"
#include "keymgr/keydir_files.h"
#include "keymgr/keydir_text.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

/* Where epoch i's key lies. */
static void
epoch_file(const struct keydir_info *info, size_t i, char name[static KEYDIR_NAME_LEN])
{
	if (info->epochs[i].number == info->wal_epoch)
		snprintf(name, KEYDIR_NAME_LEN, "wal.wkey");
	else
		snprintf(name, KEYDIR_NAME_LEN, "wal-%u.wkey", info->epochs[i].number);
}

/* File i of the set (0: relation.wkey, then the epochs'), and the id of the key that must be in it. */
static const char *
expected(const struct keydir_info *info, size_t i, char name[static KEYDIR_NAME_LEN])
{
	if (i == 0) {
		snprintf(name, KEYDIR_NAME_LEN, "relation.wkey");
		return info->relation_id;
	}
	epoch_file(info, i - 1, name);
	return info->epochs[i - 1].id;
}

static int
missing(const char *folder, const char *name, struct err *err)
{
	err_set(err, ERR_FAILED, "key file \"%s/%s\" is missing", folder, name);
	err->os_errno = ENOENT;
	return err_hint(err, "Restore the key directory from a copy.");
}

static int
info_parse(const char *folder, const struct keydir_files *files, struct keydir_info *info, char *mac_hex,
           struct err *err)
{
	const struct keydir_file *json = keydir_file_find(files, KEYDIR_JSON);
	char path[PATH_MAX];

	if (json == NULL && keydir_file_find(files, "relation.wkey") != NULL &&
	    keydir_file_find(files, "wal.wkey") != NULL) {
		err_set(err, ERR_REFUSED, "key directory \"%s\" has no %s: keys of Cluster File Encryption alone are not used",
		        folder, KEYDIR_JSON);
		return err_hint(err, "If it was made by walcrypt, restore %s from a copy.", KEYDIR_JSON);
	}
	if (json == NULL)
		return missing(folder, KEYDIR_JSON, err);
	snprintf(path, sizeof(path), "%s/%s", folder, KEYDIR_JSON);
	return keydir_text_read(path, (const char *)json->data, json->len, info, mac_hex, err);
}

int
keydir_set_info(const char *folder, const struct keydir_files *files, struct keydir_info *info, struct err *err)
{
	char mac_hex[KEYDIR_MAC_HEX_LEN], name[KEYDIR_NAME_LEN];

	if (info_parse(folder, files, info, mac_hex, err) != 0)
		return -1;
	for (size_t i = 0; i <= info->nepochs; i++) {
		const struct keydir_file *f;

		expected(info, i, name);
		if ((f = keydir_file_find(files, name)) == NULL)
			return missing(folder, name, err);
		if (f->len != KEY_WRAPPED_LEN) {
			err_set(err, ERR_DAMAGED, "key file \"%s/%s\" is damaged: it has %zu bytes instead of %d", folder, name,
			        f->len, KEY_WRAPPED_LEN);
			return err_hint(err, "Restore the key directory from a copy.");
		}
	}
	return 0;
}

static uint8_t *
mac_append(uint8_t *to, const char *name, const void *data, size_t len)
{
	size_t lens[2] = {strlen(name), len};
	const void *parts[2] = {name, data};

	for (int i = 0; i < 2; i++) {
		for (int shift = 0; shift < 32; shift += 8)
			*to++ = (uint8_t)(lens[i] >> shift);
		memcpy(to, parts[i], lens[i]);
		to += lens[i];
	}
	return to;
}

/* HMAC over the .wkey files and keyset.json with an empty mac, sorted by name; hex into mac_hex. */
static int
mac_compute(const struct keydir_info *info, const struct keydir_files *files, const struct kek *kek,
            char mac_hex[static KEYDIR_MAC_HEX_LEN], struct err *err)
{
	uint8_t mac[KEYDIR_MAC_LEN], *key = NULL, *input = NULL, *at;
	char *text = NULL;
	bool json_done = false;
	int result = -1;
	size_t size;

	if ((text = keydir_text_write(info, "", err)) == NULL)
		return -1;
	size = strlen(text) + 64;
	for (size_t i = 0; i < files->n; i++)
		size += files->file[i].len + KEYDIR_NAME_LEN + 8;
	if ((input = at = malloc(size)) == NULL) {
		err_nomem(err);
		goto done;
	}
	for (size_t i = 0; i < files->n; i++) {
		const struct keydir_file *f = &files->file[i];

		if (!json_done && strcmp(f->name, KEYDIR_JSON) >= 0) {
			at = mac_append(at, KEYDIR_JSON, text, strlen(text));
			json_done = true;
		}
		if (keydir_is_wkey(f->name))
			at = mac_append(at, f->name, f->data, f->len);
	}
	if ((key = secmem_alloc(KEYDIR_MAC_LEN, err)) == NULL ||
	    key_derive(kek->key, sizeof(kek->key), "walcrypt keyset mac v1", key, KEYDIR_MAC_LEN, err) != 0 ||
	    hmac_sha256(key, KEYDIR_MAC_LEN, input, (size_t)(at - input), mac, err) != 0)
		goto done;
	for (size_t i = 0; i < sizeof(mac); i++)
		snprintf(mac_hex + 2 * i, 3, "%02x", mac[i]);
	result = 0;
done:
	secmem_free(key);
	free(input);
	free(text);
	return result;
}

/* Which key lies in file i? 0: opened; 1: does not open or holds no key; -1: another failure. */
static int
file_key_id(const struct keydir_files *files, const char *name, const struct kek *kek, char id[static KEY_ID_HEX_LEN],
            struct err *err)
{
	struct data_key *key = secmem_alloc(sizeof(*key), err);
	struct err ignored;
	int result = -1;

	if (key == NULL)
		return -1;
	if (key_unwrap(kek->key, keydir_file_find(files, name)->data, key, &ignored) != 0)
		result = 1;
	else if (key_id_hex(key->bytes, (size_t)key->len, id, err) == 0)
		result = 0;
	secmem_free(key);
	return result;
}

/* The MAC does not fit: find out what the matter is, file by file. Always returns -1. */
static int
diagnose(const char *folder, const struct keydir_info *info, const struct keydir_files *files, const struct kek *kek,
         struct err *err)
{
	char name[KEYDIR_NAME_LEN], other[KEYDIR_NAME_LEN], bad[KEYDIR_NAME_LEN] = "", id[KEY_ID_HEX_LEN],
	                                                    kek_id[KEY_ID_HEX_LEN];
	size_t nopened = 0, nwkeys = 0;
	int state;

	if (key_id_hex(kek->key, sizeof(kek->key), kek_id, err) != 0)
		return -1;
	for (size_t i = 0; i <= info->nepochs; i++) {
		expected(info, i, name);
		if ((state = file_key_id(files, name, kek, id, err)) < 0)
			return -1;
		nopened += state == 0;
		if (state != 0 && bad[0] == '\0')
			memcpy(bad, name, sizeof(bad));
	}
	if (nopened == 0 && strcmp(kek_id, info->kek_id) != 0) {
		err_set(err, ERR_WRONG_KEY, "wrong cluster key for key directory \"%s\"", folder);
		return err_detail(err, "The keys are wrapped under cluster key %s; %s gave %s.", info->kek_id,
		                  kek->source[0] != '\0' ? kek->source : "the provider", kek_id);
	}
	if (bad[0] != '\0') {
		err_set(err, ERR_DAMAGED, "key file \"%s/%s\" is damaged", folder, bad);
		return err_hint(err, "Restore the key directory from a copy.");
	}
	for (size_t i = 0; i <= info->nepochs; i++) {
		const char *want = expected(info, i, name);

		if (file_key_id(files, name, kek, id, err) != 0)
			return -1;
		if (strcmp(id, want) == 0)
			continue;
		for (size_t j = 0; j <= info->nepochs; j++)
			if (strcmp(expected(info, j, other), id) == 0) {
				err_set(err, ERR_DAMAGED, "key files in \"%s\" are swapped: %s holds the key of %s", folder, name,
				        other);
				return err_hint(err, "Rename them back, or restore the key directory from a copy.");
			}
		err_set(err, ERR_DAMAGED, "key file \"%s/%s\" belongs to another keyset", folder, name);
		err_detail(err, "It holds key %s instead of %s.", id, want);
		return err_hint(err, "Restore the key directory from a copy.");
	}
	for (size_t i = 0; i < files->n; i++)
		nwkeys += keydir_is_wkey(files->file[i].name);
	if (nwkeys != info->nepochs + 1)
		err_set(err, ERR_DAMAGED, "key directory \"%s\" holds key files that do not belong to its keyset", folder);
	else
		err_set(err, ERR_DAMAGED, "\"%s/%s\" was changed: its authentication code does not fit", folder, KEYDIR_JSON);
	return err_hint(err, "Restore the key directory from a copy.");
}

/* All keys out of their files, their ids compared once more. */
static struct keyset *
unwrap_all(const char *folder, const struct keydir_info *info, const struct keydir_files *files, const struct kek *kek,
           struct err *err)
{
	struct keyset_epoch *epochs = secmem_alloc(info->nepochs * sizeof(*epochs), err);
	struct data_key *relation = epochs != NULL ? secmem_alloc(sizeof(*relation), err) : NULL;
	struct keyset *ks = NULL;
	char name[KEYDIR_NAME_LEN], id[KEY_ID_HEX_LEN];

	if (relation == NULL)
		goto done;
	for (size_t i = 0; i <= info->nepochs; i++) {
		const char *want = expected(info, i, name);
		struct data_key *key = i == 0 ? relation : &epochs[i - 1].key;

		if (key_unwrap(kek->key, keydir_file_find(files, name)->data, key, err) != 0) {
			err_context(err, "key file \"%s/%s\"", folder, name);
			goto done;
		}
		if (key_id_hex(key->bytes, (size_t)key->len, id, err) != 0)
			goto done;
		if (strcmp(id, want) != 0) {
			err_set(err, ERR_DAMAGED, "key file \"%s/%s\" holds another key than %s says", folder, name, KEYDIR_JSON);
			goto done;
		}
		if (i > 0) {
			epochs[i - 1].number = info->epochs[i - 1].number;
			epochs[i - 1].after_timeline = info->epochs[i - 1].after_timeline;
		}
	}
	ks = keyset_new(info->method, info->system_identifier, relation, epochs, info->nepochs, err);
done:
	secmem_free(relation);
	secmem_free(epochs);
	return ks;
}

struct keyset *
keydir_set_open(const char *folder, const struct keydir_files *files, const struct kek *kek, struct err *err)
{
	char stored[KEYDIR_MAC_HEX_LEN], computed[KEYDIR_MAC_HEX_LEN];
	struct keydir_info info;

	if (keydir_set_info(folder, files, &info, err) != 0 || info_parse(folder, files, &info, stored, err) != 0 ||
	    mac_compute(&info, files, kek, computed, err) != 0)
		return NULL;
	if (strlen(stored) != sizeof(stored) - 1 || !secmem_equal(stored, computed, sizeof(stored))) {
		diagnose(folder, &info, files, kek, err);
		return NULL;
	}
	return unwrap_all(folder, &info, files, kek, err);
}

static int
info_make(struct keydir_info *info, const struct keyset *ks, const struct kek *kek, const char *reference,
          const struct keydir_info *earlier, struct err *err)
{
	const struct data_key *relation = keyset_relation(ks);
	time_t now = time(NULL);
	struct tm tm;

	memset(info, 0, sizeof(*info));
	info->method = keyset_method(ks);
	info->system_identifier = keyset_system_identifier(ks);
	info->nepochs = keyset_nepochs(ks);
	snprintf(info->state, sizeof(info->state), "active");
	snprintf(info->provider, sizeof(info->provider), "%s", reference);
	snprintf(info->kek_version, sizeof(info->kek_version), "%s", kek->version);
	if (key_id_hex(relation->bytes, (size_t)relation->len, info->relation_id, err) != 0 ||
	    key_id_hex(kek->key, sizeof(kek->key), info->kek_id, err) != 0)
		return -1;
	for (size_t i = 0; i < info->nepochs; i++) {
		const struct keyset_epoch *epoch = keyset_epoch_at(ks, i);

		info->epochs[i].number = epoch->number;
		info->epochs[i].after_timeline = epoch->after_timeline;
		if (key_id_hex(epoch->key.bytes, (size_t)epoch->key.len, info->epochs[i].id, err) != 0)
			return -1;
		strftime(info->epochs[i].created, sizeof(info->epochs[i].created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
		for (size_t j = 0; earlier != NULL && j < earlier->nepochs; j++)
			if (strcmp(earlier->epochs[j].id, info->epochs[i].id) == 0)
				memcpy(info->epochs[i].created, earlier->epochs[j].created, sizeof(info->epochs[i].created));
	}
	info->wal_epoch = info->epochs[info->nepochs - 1].number;
	return 0;
}

/* Wrapped keys as files in memory, sorted as the MAC wants them. */
static int
files_make(const struct keydir_info *info, const struct keyset *ks, const struct kek *kek, struct keydir_files *files,
           struct err *err)
{
	memset(files, 0, sizeof(*files));
	if ((files->file = calloc(info->nepochs + 1, sizeof(*files->file))) == NULL)
		return err_nomem(err);
	for (size_t i = 0; i <= info->nepochs; i++) {
		const struct data_key *key = i == 0 ? keyset_relation(ks) : &keyset_epoch_at(ks, i - 1)->key;
		struct keydir_file *f = &files->file[i];

		expected(info, i, f->name);
		f->len = KEY_WRAPPED_LEN;
		if ((f->data = malloc(f->len)) == NULL) {
			err_nomem(err);
			goto fail;
		}
		files->n++;
		if (key_wrap(kek->key, key, f->data, err) != 0)
			goto fail;
	}
	qsort(files->file, files->n, sizeof(*files->file), keydir_file_order);
	return 0;
fail:
	keydir_files_free(files);
	return -1;
}

static int
file_write(const char *folder, const char *name, const void *data, size_t len, struct err *err)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return durable_write(path, data, len, 0600, err);
}

static bool
is_there(const char *folder, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return access(path, F_OK) == 0;
}

int
keydir_set_write(const char *folder, const struct keyset *ks, const struct kek *kek, const char *reference,
                 const struct keydir_info *earlier, const struct keydir_files *earlier_files, struct err *err)
{
	char mac_hex[KEYDIR_MAC_HEX_LEN], *text = NULL;
	struct keydir_files files;
	struct keydir_info info;
	int result = -1;

	if (info_make(&info, ks, kek, reference, earlier, err) != 0 || files_make(&info, ks, kek, &files, err) != 0)
		return -1;
	if (mac_compute(&info, &files, kek, mac_hex, err) != 0 || (text = keydir_text_write(&info, mac_hex, err)) == NULL)
		goto done;
	for (size_t i = 0; i < files.n; i++)
		if (file_write(folder, files.file[i].name, files.file[i].data, files.file[i].len, err) != 0)
			goto done;
	if (kek->wrapped_len > 0 && file_write(folder, KEYDIR_WRAPPED, kek->wrapped, kek->wrapped_len, err) != 0)
		goto done;
	for (size_t i = 0; earlier_files != NULL && i < earlier_files->n; i++) {
		const struct keydir_file *f = &earlier_files->file[i];

		/* what the new cluster key's command has put there already is the newer one */
		if (!keydir_is_wkey(f->name) && strcmp(f->name, KEYDIR_JSON) != 0 && strcmp(f->name, KEYDIR_WRAPPED) != 0 &&
		    !is_there(folder, f->name) && file_write(folder, f->name, f->data, f->len, err) != 0)
			goto done;
	}
	result = file_write(folder, KEYDIR_JSON, text, strlen(text), err);
done:
	keydir_files_free(&files);
	free(text);
	return result;
}
