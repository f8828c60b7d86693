#include "ctl/keyset_make.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/path.h"
#include "ctl/upstream.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"

static bool
name_is_plain(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= SETTINGS_NAME_MAX && strcmp(name, "none") != 0 && strcmp(name, "auto") != 0 &&
	       strcmp(name, "new") != 0 && strcmp(name, "ledger") != 0 &&
	       ((*name >= 'a' && *name <= 'z') || *name == '_') &&
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

int
keyset_place(const char *keystore, const char *name, char path[static PATH_MAX], struct err *err)
{
	if (path_format(path, err, "%s/%s", keystore, name) != 0)
		return -1;
	return keydir_exists(path) ? err_set(err, ERR_REFUSED, "keyset \"%s\" exists already", name) : 0;
}

void
keyset_made_print(const char *name, const struct keyset *ks, const char *reference)
{
	char keys[256];

	keyset_describe(ks, keys);
	printf("Made keyset \"%s\", %s.\nSystem identifier %" PRIu64 "; cluster key from %s.\n", name, keys,
	       keyset_system_identifier(ks), reference);
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
