#include "keymgr/cfe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/durable.h"
#include "common/path.h"
#include "walcrypt/secmem.h"

static const char relation_file[] = "relation.wkey", wal_file[] = "wal.wkey";

/* 0: opened; 1: does not open under this key; -1: another failure. */
static int
file_open(const char *folder, const char *name, const struct kek *kek, struct data_key *key, struct err *err)
{
	char path[PATH_MAX];
	uint8_t *data;
	size_t len;
	int result;

	if (path_format(path, err, "%s/%s", folder, name) != 0 ||
	    (data = durable_read(path, KEY_WRAPPED_LEN, &len, err)) == NULL)
		return -1;
	if (len != KEY_WRAPPED_LEN)
		result = err_set(err, ERR_DAMAGED, "key file \"%s\" is damaged: it has %zu bytes instead of %d", path, len,
		                 KEY_WRAPPED_LEN);
	else if ((result = key_unwrap(kek->key, data, key, err)) != 0) {
		result = err->class == ERR_WRONG_KEY ? 1 : -1;
		err_context(err, "key file \"%s\"", path);
	}
	free(data);
	return result;
}

struct keyset *
cfe_read(const char *folder, const struct kek *kek, bool wal_only, uint64_t system_identifier, struct err *err)
{
	struct data_key *relation = secmem_alloc(sizeof(*relation), err);
	struct keyset_epoch *epoch = relation != NULL ? secmem_alloc(sizeof(*epoch), err) : NULL;
	enum key_method method = KEY_AES256;
	struct keyset *ks = NULL;
	int first = 0, second;

	if (epoch == NULL || (second = file_open(folder, wal_file, kek, &epoch->key, err)) < 0 ||
	    (!wal_only && (first = file_open(folder, relation_file, kek, relation, err)) < 0))
		goto done;
	if (second == 1 && (first == 1 || wal_only)) {
		err_set(err, ERR_WRONG_KEY, "wrong cluster key for the key files in \"%s\"", folder);
		err_detail(err, "%s opens none of them.", kek->source);
		goto done;
	}
	if (first == 1 || second == 1) {
		err_set(err, ERR_DAMAGED, "key file \"%s/%s\" is damaged, or of another cluster key than the other one", folder,
		        first == 1 ? relation_file : wal_file);
		goto done;
	}
	while (method > KEY_AES128 && key_method_len(method) != epoch->key.len)
		method--;
	if (wal_only && key_generate(method, relation, err) != 0)
		goto done;
	if (relation->len != epoch->key.len) {
		err_set(err, ERR_DAMAGED, "key files in \"%s\" are of two clusters: keys of %d and %d bytes", folder,
		        relation->len, epoch->key.len);
		goto done;
	}
	if (secmem_equal(relation->bytes, epoch->key.bytes, sizeof(relation->bytes))) {
		err_set(err, ERR_DAMAGED, "key files in \"%s\" hold the same key twice", folder);
		goto done;
	}
	epoch->number = 1;
	ks = keyset_new(method, system_identifier, relation, epoch, 1, err);
done:
	secmem_free(relation);
	secmem_free(epoch);
	return ks;
}

static int
file_write(const char *folder, const char *name, const struct data_key *key, const struct kek *kek, struct err *err)
{
	uint8_t wrapped[KEY_WRAPPED_LEN];
	char path[PATH_MAX];

	return key_wrap(kek->key, key, wrapped, err) != 0 || path_format(path, err, "%s/%s", folder, name) != 0 ||
	               durable_create(path, wrapped, sizeof(wrapped), 0600, err) != 0
	           ? -1
	           : 0;
}

int
cfe_write(const char *folder, const struct keyset *ks, const struct kek *kek, bool wal_only, struct err *err)
{
	struct err ignored;

	if (durable_mkdir(folder, 0700, err) != 0) {
		if (err->os_errno == EEXIST)
			err_set(err, ERR_REFUSED, "folder \"%s\" exists already", folder);
		return -1;
	}
	if (file_write(folder, wal_file, &keyset_epoch_at(ks, keyset_nepochs(ks) - 1)->key, kek, err) == 0 &&
	    (wal_only || file_write(folder, relation_file, keyset_relation(ks), kek, err) == 0))
		return 0;
	durable_remove_dir(folder, &ignored);
	return -1;
}
