#include "keymgr/keydir.h"

#include <string.h>
#include <sys/file.h>
#include <unistd.h>

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
