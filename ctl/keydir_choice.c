#include "ctl/keydir_choice.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "common/settings.h"
#include "ctl/layer.h"
#include "ctl/source.h"
#include "keymgr/keystore.h"

/* The keysets that are there. Returns -1. */
static int
keysets_hint(const char *keystore, struct err *err)
{
	struct keystore_names names;
	struct err ignored;
	char list[200] = "";
	size_t at = 0;

	if (keystore_names(keystore, &names, &ignored) != 0) {
		keystore_names_free(&names);
		return err_hint(err, "That folder cannot be read.");
	}
	for (size_t i = 0; i < names.n && at < sizeof(list); i++)
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i > 0 ? ", " : "", names.name[i]);
	keystore_names_free(&names);
	return at > 0 ? err_hint(err, "It has %s.", list)
	              : err_hint(err, "It has none yet: \"walcrypt-ctl key init\" makes one.");
}

int
keystore_find(const char *config, char path[static PATH_MAX], struct err *err)
{
	struct settings *settings;
	int result;

	if (settings_find(config, true, &settings, err) != 0)
		return -1;
	result = settings->keystore != NULL ? path_format(path, err, "%s", settings->keystore)
	                                    : err_set(err, ERR_USAGE, "\"%s\" names no keystore", settings->file);
	settings_free(settings);
	return result;
}

int
keydir_named(const struct keydir_choice *c, char path[static PATH_MAX], struct err *err)
{
	char datadir[PATH_MAX], keystore[PATH_MAX];

	if ((c->name != NULL) + (c->datadir != NULL) + (c->keydir != NULL) != 1) {
		err_set(err, ERR_USAGE, "name one key directory");
		return err_hint(err, "Give NAME of a keyset in the keystore, -D DIR or --key-dir DIR.");
	}
	if (c->keydir != NULL)
		return path_absolute(path, c->keydir, err);
	if (c->datadir != NULL)
		return path_absolute(datadir, c->datadir, err) != 0 ? -1 : datadir_keydir(datadir, path, err);
	if (keystore_find(c->config, keystore, err) != 0)
		return -1;
	if (strchr(c->name, '/') != NULL || c->name[0] == '.')
		return err_set(err, ERR_USAGE, "\"%s\" is not the name of a keyset", c->name);
	if (path_format(path, err, "%s/%s", keystore, c->name) != 0)
		return -1;
	if (access(path, F_OK) == 0)
		return 0;
	err_set(err, ERR_USAGE, "there is no keyset \"%s\" in keystore \"%s\"", c->name, keystore);
	return keysets_hint(keystore, err);
}
