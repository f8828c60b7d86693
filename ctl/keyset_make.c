#include "ctl/keyset_make.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/durable.h"
#include "ctl/upstream.h"
#include "keymgr/keystore.h"

static bool
name_is_plain(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= SETTINGS_NAME_MAX && strcmp(name, "none") != 0 && strcmp(name, "new") != 0 &&
	       strcmp(name, "ledger") != 0 && ((*name >= 'a' && *name <= 'z') || *name == '_') &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
}

int
keyset_name_check(const char *name, struct err *err)
{
	if (name_is_plain(name))
		return 0;
	err_set(err, ERR_USAGE, "\"%s\" is not a name for a keyset", name);
	return err_hint(err, "A name has at most %d of a-z, 0-9, _ and -, and begins with a letter or _.",
	                SETTINGS_NAME_MAX);
}

int
keystore_lock(const char *keystore, struct err *err)
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
	if (keystore_check(keystore, err) != 0) {
		close(fd);
		return -1;
	}
	if (flock(fd, LOCK_EX) != 0) {
		err_os(err, errno, "could not lock keystore \"%s\"", keystore);
		close(fd);
		return -1;
	}
	return fd;
}

int
system_identifier_find(const char *given, const struct settings *settings, uint64_t *identifier, struct err *err)
{
	char *end;

	if (given == NULL)
		return upstream_system_identifier(settings, identifier, err);
	errno = 0;
	*identifier = strtoull(given, &end, 10);
	if (*end != '\0' || errno != 0 || *identifier == 0 || given[0] == '-')
		return err_set(err, ERR_USAGE, "\"%s\" is not a system identifier", given);
	return 0;
}

struct kek *
source_prepare_new(struct source *source, const char *live, bool create, struct err *err)
{
	bool made = false;
	struct kek *kek = source_prepare(source, live, create, NULL, &made, err);

	if (kek == NULL && !create && err->os_errno == ENOENT)
		err_hint(err, "--create-kek makes it.");
	if (made && kek_is_envelope(&source->conf))
		printf("Made the key that wraps the cluster key: %s\n", source->reference);
	else if (made)
		printf("Made a new cluster key: %s\n"
		       "Keep a copy where no disk failure reaches it: without it nobody can read what is encrypted.\n",
		       source->reference);
	return kek;
}
