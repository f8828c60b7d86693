/* key repair: finish or undo a change of a key directory that was cut off. */
#include <stdio.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "keymgr/keydir.h"
#include "keymgr/keystore.h"

struct key_repair_options {
	struct common_options common;
	const char *datadir, *keydir;
	bool all;
};

static const struct option_def key_repair_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_repair_options, datadir), "DIR",
     "data directory, instead of a keyset of the keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct key_repair_options, keydir), "DIR", "key directory, wherever it lies",
     0, 0},
    {"all", 0, OPTION_FLAG, offsetof(struct key_repair_options, all), NULL, "every keyset of the keystore", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* One after the other; what cannot be repaired does not keep the others from it. */
static int
repair_all(const char *config, struct err *err)
{
	char keystore[PATH_MAX], path[PATH_MAX];
	struct keystore_names names = {0};
	struct err one;
	const char *did;
	int status = 0;

	if (keystore_find(config, keystore, err) != 0 || keystore_names(keystore, &names, err) != 0)
		status = -1;
	for (size_t i = 0; status >= 0 && i < names.n; i++)
		if (path_format(path, &one, "%s/%s", keystore, names.name[i]) == 0 && keydir_repair(path, &did, &one) == 0)
			printf("%s: %s\n", path, did);
		else {
			report("ERROR", &one);
			status = status == 0 ? (int)one.class : status;
		}
	keystore_names_free(&names);
	return status;
}

static int
key_repair_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_repair_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	char path[PATH_MAX];
	const char *did;

	if (o->all && (nargs > 0 || o->datadir != NULL || o->keydir != NULL))
		return err_set(err, ERR_USAGE, "--all and a single key directory contradict each other");
	if (o->all)
		return repair_all(o->common.config, err);
	if (keydir_named(&choice, path, err) != 0 || keydir_repair(path, &did, err) != 0)
		return -1;
	printf("%s: %s\n", path, did);
	return 0;
}

const struct command command_key_repair = {
    .name = "key repair",
    .arguments = "NAME | -D DIR | --key-dir DIR | --all",
    .summary = "finish or undo a change of a key directory that was cut off",
    .options = key_repair_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_repair_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_repair_options) <= COMMAND_OPTIONS_MAX, "options fit");
