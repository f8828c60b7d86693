#include "ctl/keydir_choice.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "common/settings.h"
#include "ctl/layer.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"

/* The keysets that are there. Returns -1. */
static int
keysets_hint(const char *keystore, struct err *err)
{
	char names[200] = "", path[PATH_MAX];
	struct dirent *entry;
	struct err ignored;
	size_t at = 0;
	DIR *dir;

	if ((dir = opendir(keystore)) == NULL)
		return err_hint(err, "That folder cannot be read.");
	while ((entry = readdir(dir)) != NULL && at < sizeof(names))
		if (entry->d_name[0] != '.' && path_format(path, &ignored, "%s/%s", keystore, entry->d_name) == 0 &&
		    keydir_exists(path))
			at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at > 0 ? ", " : "", entry->d_name);
	closedir(dir);
	return at > 0 ? err_hint(err, "It has %s.", names)
	              : err_hint(err, "It has none yet: \"walcrypt-ctl key init\" makes one.");
}

int
keydir_named(const struct keydir_choice *c, char path[static PATH_MAX], struct err *err)
{
	struct settings *settings;
	char datadir[PATH_MAX];
	int result;

	if ((c->name != NULL) + (c->datadir != NULL) + (c->keydir != NULL) != 1) {
		err_set(err, ERR_USAGE, "name one key directory");
		return err_hint(err, "Give NAME of a keyset in the keystore, -D DIR or --key-dir DIR.");
	}
	if (c->keydir != NULL)
		return path_absolute(path, c->keydir, err);
	if (c->datadir != NULL)
		return path_absolute(datadir, c->datadir, err) != 0 ? -1 : datadir_keydir(datadir, path, err);
	if (settings_find(c->config, true, &settings, err) != 0)
		return -1;
	if (settings->keystore == NULL)
		result = err_set(err, ERR_USAGE, "\"%s\" names no keystore", settings->file);
	else if (strchr(c->name, '/') != NULL || c->name[0] == '.')
		result = err_set(err, ERR_USAGE, "\"%s\" is not the name of a keyset", c->name);
	else if ((result = path_format(path, err, "%s/%s", settings->keystore, c->name)) == 0 && access(path, F_OK) != 0) {
		err_set(err, ERR_USAGE, "there is no keyset \"%s\" in keystore \"%s\"", c->name, settings->keystore);
		result = keysets_hint(settings->keystore, err);
	}
	settings_free(settings);
	return result;
}
