/* The end of a re-encryption: every file is there under the new key; now everything takes its place. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/guard.h"
#include "ctl/reencrypt.h"

/* Rename from -> to below the data directory, if it was not done already. */
static int
move(const char *datadir, const char *from, const char *to, struct err *err)
{
	char one[PATH_MAX], other[PATH_MAX];

	if (path_format(one, err, "%s/%s", datadir, from) != 0 || path_format(other, err, "%s/%s", datadir, to) != 0)
		return -1;
	return access(one, F_OK) != 0 && errno == ENOENT ? 0 : durable_rename(one, other, err);
}

static bool
is_there(const char *datadir, const char *name)
{
	char path[PATH_MAX];
	struct err ignored;

	return path_format(path, &ignored, "%s/%s", datadir, name) == 0 && access(path, F_OK) == 0;
}

static bool
becomes_clear(const struct reencrypt *r)
{
	return strcmp(r->record.to, REENCRYPT_CLEAR) == 0;
}

/* The old keys go away and the new ones come in. The new ones leave pg_reencrypt/keys in one step, so their being there
 * says how far this came. */
static int
keys_change(const struct reencrypt *r, struct err *err)
{
	if (!becomes_clear(r) && !is_there(r->datadir, REENCRYPT_DIR "/keys"))
		return 0;
	if (is_there(r->datadir, "pg_cryptokeys") && move(r->datadir, "pg_cryptokeys", REENCRYPT_DIR "/old-keys", err) != 0)
		return -1;
	return move(r->datadir, REENCRYPT_DIR "/keys", "pg_cryptokeys", err);
}

static int
files_change(struct reencrypt *r, struct err *err)
{
	char from[PATH_MAX], to[PATH_MAX];

	for (size_t i = 0; i < r->list.n; i++) {
		const struct reencrypt_entry *e = &r->list.entry[i];

		if (!e->has_new)
			continue;
		if (path_format(to, err, "%s/%s", r->datadir, e->path) != 0 ||
		    path_format(from, err, "%s" REENCRYPT_NEW, to) != 0)
			return -1;
		if (rename(from, to) != 0)
			return err_os(err, errno, "could not rename \"%s\" to \"%s\"", from, to);
	}
	return reencrypt_list_sync(&r->list, r->datadir, err);
}

int
reencrypt_lock_out(const char *datadir, struct err *err)
{
	struct err ignored;

	if (move(datadir, "global/pg_control", REENCRYPT_DIR "/global/pg_control", err) != 0)
		return -1;
	/* a server makes its lock file first and reads pg_control then: one that we do not see now will not find it */
	if (!datadir_in_use(datadir))
		return 0;
	if (move(datadir, REENCRYPT_DIR "/global/pg_control", "global/pg_control", &ignored) != 0)
		*err = ignored;
	else
		err_set(err, ERR_REFUSED, "a server was started in data directory \"%s\"", datadir);
	return -1;
}

/* A key directory below pg_reencrypt. */
static int
keydir_remove(const char *datadir, const char *name, struct err *err)
{
	static const char *const folders[] = {"/live", "/new", "/old", ""};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (path_format(path, err, "%s/" REENCRYPT_DIR "/%s%s", datadir, name, folders[i]) != 0 ||
		    durable_remove_dir(path, err) != 0)
			return -1;
	return 0;
}

int
reencrypt_abandon(const char *datadir, struct err *err)
{
	char path[PATH_MAX];

	if (keydir_remove(datadir, "old-keys", err) != 0 || keydir_remove(datadir, "keys", err) != 0 ||
	    path_format(path, err, "%s/" REENCRYPT_DIR "/global", datadir) != 0 || durable_remove_dir(path, err) != 0 ||
	    path_format(path, err, "%s/" REENCRYPT_DIR, datadir) != 0)
		return -1;
	return durable_remove_dir(path, err);
}

int
reencrypt_commit(struct reencrypt *r, struct err *err)
{
	/* a server may have run since: then only the folder is left to be removed */
	if (is_there(r->datadir, "global/pg_control"))
		return reencrypt_abandon(r->datadir, err);
	if (keys_change(r, err) != 0 || files_change(r, err) != 0 || reencrypt_clean(r->datadir, err) != 0)
		return -1;
	if ((becomes_clear(r) ? guard_remove(r->datadir, err) : guard_add(r->datadir, r->record.preload, err)) != 0)
		return -1;
	if (move(r->datadir, REENCRYPT_DIR "/global/pg_control", "global/pg_control", err) != 0)
		return -1;
	return reencrypt_abandon(r->datadir, err);
}
