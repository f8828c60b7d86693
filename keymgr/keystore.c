#include "keymgr/keystore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/folder.h"
#include "common/path.h"
#include "keymgr/keydir.h"

static bool
is_keyset(const char *keystore, const char *name)
{
	static const char *const folders[] = {"live", "new", "old"};
	char path[PATH_MAX];
	struct err ignored;
	struct stat st;

	for (size_t i = 0; name[0] != '.' && i < sizeof(folders) / sizeof(folders[0]); i++)
		if (path_format(path, &ignored, "%s/%s/%s", keystore, name, folders[i]) == 0 && stat(path, &st) == 0 &&
		    S_ISDIR(st.st_mode))
			return true;
	return false;
}

static int
order(const void *a, const void *b)
{
	return strcmp(a, b);
}

int
keystore_names(const char *keystore, struct keystore_names *names, struct err *err)
{
	struct folder f;
	const char *name;
	int result = 0;

	memset(names, 0, sizeof(*names));
	if (folder_open(&f, "keystore", keystore, err) != 0)
		return -1;
	while (result == 0 && (name = folder_next(&f)) != NULL) {
		char(*grown)[NAME_MAX + 1];

		if (!is_keyset(keystore, name))
			continue;
		if ((grown = reallocarray(names->name, names->n + 1, sizeof(*grown))) == NULL) {
			result = err_nomem(err);
			break;
		}
		names->name = grown;
		memcpy(grown[names->n++], name, strlen(name) + 1);
	}
	result = folder_close(&f, result, err);
	if (names->n > 0)
		qsort(names->name, names->n, sizeof(*names->name), order);
	return result;
}

void
keystore_names_free(struct keystore_names *names)
{
	free(names->name);
	memset(names, 0, sizeof(*names));
}

int
keystore_check(const char *keystore, struct err *err)
{
	struct stat st;

	if (stat(keystore, &st) != 0)
		return err_os(err, errno, "could not look at keystore \"%s\"", keystore);
	if (st.st_uid != geteuid() && geteuid() != 0) {
		err_set(err, ERR_REFUSED, "keystore \"%s\" belongs to another user", keystore);
		return err_hint(err, "Run walcrypt-ctl and the proxy as one user, who owns it.");
	}
	if ((st.st_mode & 077) != 0) {
		err_set(err, ERR_REFUSED, "keystore \"%s\" has mode %04o: others may look into it", keystore,
		        (unsigned)st.st_mode & 07777);
		return err_hint(err, "chmod 0700 %.200s", keystore);
	}
	return 0;
}

int
keystore_lock(const char *keystore, int patience_ms, struct err *err)
{
	int fd = open(keystore, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT && durable_mkdir(keystore, 0700, err) == 0)
		fd = open(keystore, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		err_os(err, errno, "could not open keystore \"%s\"", keystore);
		return err_hint(
		    err, "Its parent folder must be there and belong to the user that runs this and the proxy: install -d "
		         "-m 700 -o USER FOLDER");
	}
	if (keystore_check(keystore, err) != 0)
		goto fail;
	for (int waited = 0; flock(fd, patience_ms < 0 ? LOCK_EX : LOCK_EX | LOCK_NB) != 0; waited += 20) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			err_os(err, errno, "could not lock keystore \"%s\"", keystore);
			goto fail;
		}
		if (patience_ms >= 0 && waited >= patience_ms) {
			err_set(err, ERR_REFUSED, "keystore \"%s\" is being changed by another process", keystore);
			err_hint(err, "Wait until it is done.");
			goto fail;
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
	return fd;
fail:
	close(fd);
	return -1;
}

/* Have two keysets a WAL key in common? */
static bool
share_wal_key(const struct keydir_info *a, const struct keydir_info *b)
{
	for (size_t i = 0; i < a->nepochs; i++)
		for (size_t j = 0; j < b->nepochs; j++)
			if (a->epochs[i].number == b->epochs[j].number && strcmp(a->epochs[i].id, b->epochs[j].id) == 0)
				return true;
	return false;
}

static bool
is_among(const char *name, const char *const *among, size_t n)
{
	for (size_t i = 0; among != NULL && i < n; i++)
		if (strcmp(name, among[i]) == 0)
			return true;
	return among == NULL;
}

int
keystore_relative(const char *keystore, uint64_t system_identifier, const char *const *among, size_t n,
                  char name[static NAME_MAX + 1], struct err *err)
{
	struct keydir_info info, first;
	struct keystore_names names;
	int result = keystore_names(keystore, &names, err);

	name[0] = '\0';
	for (size_t i = 0; result == 0 && i < names.n; i++) {
		char path[PATH_MAX];

		if (!is_among(names.name[i], among, n))
			continue;
		if ((result = path_format(path, err, "%s/%s", keystore, names.name[i])) != 0 || !keydir_exists(path))
			continue;
		if ((result = keydir_read_info(path, &info, err)) != 0 || info.system_identifier != system_identifier)
			continue;
		if (name[0] != '\0' && !share_wal_key(&first, &info))
			result = err_set(err, ERR_REFUSED, "keysets \"%.63s\" and \"%.63s\" of the cluster have different WAL keys",
			                 name, names.name[i]);
		/* the one that knows the latest epoch */
		if (name[0] != '\0' && info.epochs[info.nepochs - 1].number <= first.epochs[first.nepochs - 1].number)
			continue;
		memcpy(name, names.name[i], sizeof(names.name[i]));
		first = info;
	}
	keystore_names_free(&names);
	return result;
}
