#include "keymgr/keystore.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/path.h"

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
	DIR *dir = opendir(keystore);
	struct dirent *entry;
	int result = 0;

	memset(names, 0, sizeof(*names));
	if (dir == NULL)
		return err_os(err, errno, "could not open keystore \"%s\"", keystore);
	while (result == 0 && (entry = readdir(dir)) != NULL) {
		char(*grown)[NAME_MAX + 1];

		if (!is_keyset(keystore, entry->d_name))
			continue;
		if ((grown = reallocarray(names->name, names->n + 1, sizeof(*grown))) == NULL) {
			result = err_nomem(err);
			break;
		}
		names->name = grown;
		memcpy(grown[names->n++], entry->d_name, strlen(entry->d_name) + 1);
	}
	closedir(dir);
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
