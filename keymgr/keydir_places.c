#include "keymgr/keydir_places.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "keymgr/keydir_files.h"
#include "keymgr/keydir_set.h"

#define LOCK_PATIENCE_MS 10000

bool
keydir_is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int
keydir_places_look(struct keydir_places *p, const char *path, struct err *err)
{
	if (strlen(path) > PATH_MAX - 64)
		return err_os(err, ENAMETOOLONG, "could not use key directory \"%s\"", path);
	snprintf(p->live, sizeof(p->live), "%s/live", path);
	snprintf(p->new, sizeof(p->new), "%s/new", path);
	snprintf(p->old, sizeof(p->old), "%s/old", path);
	p->has_live = keydir_is_folder(p->live);
	p->has_new = keydir_is_folder(p->new);
	p->has_old = keydir_is_folder(p->old);
	return 0;
}

int
keydir_lock(const char *path, int how, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_os(err, errno, "could not open key directory \"%s\"", path);
	for (int waited = 0; flock(fd, how | LOCK_NB) != 0; waited += 20) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			err_os(err, errno, "could not lock key directory \"%s\"", path);
			close(fd);
			return -1;
		}
		if (waited >= LOCK_PATIENCE_MS) {
			close(fd);
			err_set(err, ERR_REFUSED, "key directory \"%s\" is being changed by another process", path);
			return err_hint(err, "Wait until it is done.");
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
	return fd;
}

bool
keydir_looks_whole(const char *folder)
{
	struct keydir_files files;
	struct keydir_info info;
	struct err ignored;
	bool whole;

	if (keydir_files_load(folder, &files, &ignored) != 0)
		return false;
	whole = keydir_set_info(folder, &files, &info, &ignored) == 0;
	keydir_files_free(&files);
	return whole;
}

const char *
keydir_in_force(const struct keydir_places *p)
{
	if (p->has_live)
		return p->live;
	if (!p->has_new || !p->has_old)
		return NULL;
	/* new/ was written, fsynced and opened before live/ went away */
	return keydir_looks_whole(p->new) ? p->new : keydir_looks_whole(p->old) ? p->old : NULL;
}

int
keydir_check_settled(const char *path, const struct keydir_places *p, struct err *err)
{
	if (p->has_new || p->has_old) {
		err_set(err, ERR_REFUSED, "a change of the keys in \"%s\" was cut off", path);
		return err_hint(err, "Finish or undo it: walcrypt-ctl key repair --key-dir %s", path);
	}
	if (!p->has_live) {
		err_set(err, ERR_FAILED, "there is no key directory \"%s\"", p->live);
		err->os_errno = ENOENT;
		return -1;
	}
	return 0;
}

int
keydir_lock_load(const char *path, int how, struct keydir_places *p, const char **folder, struct keydir_files *files,
                 struct err *err)
{
	int fd;

	if (keydir_places_look(p, path, err) != 0)
		return -1;
	if (!p->has_live && !p->has_new && !p->has_old)
		return keydir_check_settled(path, p, err);
	if ((fd = keydir_lock(path, how, err)) < 0)
		return -1;
	/* what it looked like before we had the lock does not count */
	if (keydir_places_look(p, path, err) != 0)
		goto fail;
	if ((*folder = keydir_in_force(p)) == NULL) {
		keydir_check_settled(path, p, err);
		goto fail;
	}
	if (keydir_files_load(*folder, files, err) == 0)
		return fd;
fail:
	close(fd);
	return -1;
}
