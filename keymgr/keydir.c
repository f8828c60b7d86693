#include "keymgr/keydir.h"

#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/path.h"
#include "keymgr/keydir_files.h"
#include "keymgr/keydir_places.h"
#include "keymgr/keydir_set.h"

bool
keydir_exists(const char *path)
{
	struct keydir_places p;
	struct err ignored;

	return keydir_places_look(&p, path, &ignored) == 0 && (p.has_live || (p.has_new && p.has_old));
}

int
keydir_read_info(const char *path, struct keydir_info *info, struct err *err)
{
	struct keydir_files files;
	struct keydir_places p;
	const char *folder;
	int fd, result;

	if ((fd = keydir_lock_load(path, LOCK_SH, &p, &folder, &files, err)) < 0)
		return -1;
	result = keydir_set_info(folder, &files, info, err);
	info->cut_off = p.has_new || p.has_old;
	keydir_files_free(&files);
	close(fd);
	return result;
}

struct keyset *
keydir_open(const char *path, const struct kek *kek, struct err *err)
{
	struct keydir_files files;
	struct keydir_places p;
	const char *folder;
	struct keyset *ks;
	int fd;

	if ((fd = keydir_lock_load(path, LOCK_SH, &p, &folder, &files, err)) < 0)
		return NULL;
	if ((ks = keydir_set_open(folder, &files, kek, err)) == NULL && (p.has_new || p.has_old) && err->hint[0] == '\0')
		err_hint(err, "A change of these keys was cut off: walcrypt-ctl key repair --key-dir %s", path);
	keydir_files_free(&files);
	close(fd);
	return ks;
}

/* kek.wrapped of the keys in force; *wrapped NULL when there is none. To be freed. */
static int
wrapped_load(const char *path, uint8_t **wrapped, size_t *len, struct err *err)
{
	const struct keydir_file *f;
	struct keydir_files files;
	struct keydir_places p;
	const char *folder;
	int fd, result = 0;

	*wrapped = NULL;
	if ((fd = keydir_lock_load(path, LOCK_SH, &p, &folder, &files, err)) < 0)
		return -1;
	if ((f = keydir_file_find(&files, KEYDIR_WRAPPED)) != NULL) {
		*len = f->len;
		if ((*wrapped = malloc(f->len + 1)) == NULL)
			result = err_nomem(err);
		else
			memcpy(*wrapped, f->data, f->len);
	}
	keydir_files_free(&files);
	close(fd);
	return result;
}

struct kek *
keydir_kek(const char *path, const struct kek_conf *conf, struct err *err)
{
	struct kek_conf full = *conf;
	uint8_t *wrapped = NULL;
	struct kek *kek = NULL;
	char live[PATH_MAX];

	if (path_format(live, err, "%s/live", path) != 0 ||
	    (kek_is_envelope(conf) && wrapped_load(path, &wrapped, &full.wrapped_len, err) != 0))
		return NULL;
	full.key_dir = live;
	full.wrapped = wrapped;
	kek = kek_fetch(&full, err);
	free(wrapped);
	return kek;
}

struct keyset *
keydir_unlock(const char *path, const struct kek_conf *conf, struct err *err)
{
	struct keyset *ks = NULL;
	struct kek *kek;

	for (int tries = 0; ks == NULL && tries < (kek_is_envelope(conf) ? 2 : 1); tries++) {
		if ((kek = keydir_kek(path, conf, err)) == NULL)
			return NULL;
		ks = keydir_open(path, kek, err);
		kek_free(kek);
		if (ks == NULL && err->class != ERR_WRONG_KEY)
			break;
	}
	return ks;
}

int
keydir_load_files(const char *path, struct keydir_files *files, struct err *err)
{
	struct keydir_info info;
	struct keydir_places p;
	const char *folder;
	int fd;

	memset(files, 0, sizeof(*files));
	if ((fd = keydir_lock_load(path, LOCK_SH, &p, &folder, files, err)) < 0)
		return -1;
	close(fd);
	/* a base backup must not carry half a set */
	if (keydir_set_info(folder, files, &info, err) != 0) {
		keydir_files_free(files);
		return -1;
	}
	return 0;
}
