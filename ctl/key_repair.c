/* key repair: finish or undo a change of a key directory that was cut off. */
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "keymgr/keydir.h"

struct key_repair_options {
	struct common_options common;
	const char *datadir, *keydir;
};

static const struct option_def key_repair_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_repair_options, datadir), "DIR",
     "data directory, instead of a keyset of the keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct key_repair_options, keydir), "DIR", "key directory, wherever it lies",
     0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

static int
key_repair_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_repair_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	char path[PATH_MAX];
	const char *did;

	if (keydir_named(&choice, path, err) != 0 || keydir_repair(path, &did, err) != 0)
		return -1;
	printf("%s: %s\n", path, did);
	return 0;
}

const struct command command_key_repair = {
    .name = "key repair",
    .arguments = "NAME | -D DIR | --key-dir DIR",
    .summary = "finish or undo a change of a key directory that was cut off",
    .options = key_repair_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_repair_run,
};
_Static_assert(sizeof(struct key_repair_options) <= COMMAND_OPTIONS_MAX, "options fit");
