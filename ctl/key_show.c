/* key show: what a key directory says about itself. It needs no cluster key, so nothing in it is proven. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "keymgr/keydir.h"

struct key_show_options {
	struct common_options common;
	const char *datadir, *keydir;
	bool json;
};

static const struct option_def key_show_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_show_options, datadir), "DIR",
     "data directory, instead of a keyset of the keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct key_show_options, keydir), "DIR", "key directory, wherever it lies", 0,
     0},
    {"json", 0, OPTION_FLAG, offsetof(struct key_show_options, json), NULL, "print JSON", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

static int
show_json(const char *path, const struct keydir_info *info, struct err *err)
{
	json_t *epochs = json_array(), *root;
	char identifier[24], *text;

	snprintf(identifier, sizeof(identifier), "%" PRIu64, info->system_identifier);
	for (size_t i = 0; i < info->nepochs; i++)
		json_array_append_new(epochs, json_pack("{s:I, s:I, s:s, s:s}", "number", (json_int_t)info->epochs[i].number,
		                                        "after_timeline", (json_int_t)info->epochs[i].after_timeline, "id",
		                                        info->epochs[i].id, "created", info->epochs[i].created));
	root = json_pack("{s:s, s:s, s:s, s:s, s:s, s:O, s:s, s:s, s:s}", "directory", path, "state", info->state, "method",
	                 key_method_name(info->method), "system_identifier", identifier, "relation_id", info->relation_id,
	                 "epochs", epochs, "kek_id", info->kek_id, "kek_version", info->kek_version, "provider",
	                 info->provider);
	text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;
	if (text != NULL)
		printf("%s\n", text);
	free(text);
	json_decref(root);
	json_decref(epochs);
	return text != NULL ? 0 : err_nomem(err);
}

static int
key_show_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_show_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	struct keydir_info info;
	char path[PATH_MAX];

	if (keydir_named(&choice, path, err) != 0 || keydir_read_info(path, &info, err) != 0)
		return -1;
	if (o->json)
		return show_json(path, &info, err);
	printf("key directory      %s\nmethod             %s\nsystem identifier  %" PRIu64 "\nrelation key       %s\n",
	       path, key_method_name(info.method), info.system_identifier, info.relation_id);
	for (size_t i = 0; i < info.nepochs; i++)
		printf("WAL key epoch %-4u %s, for timelines after %u, made %s\n", info.epochs[i].number, info.epochs[i].id,
		       info.epochs[i].after_timeline, info.epochs[i].created);
	printf("cluster key        %s%s%s\nprovider           %s\nstate              %s\n", info.kek_id,
	       info.kek_version[0] != '\0' ? ", version " : "", info.kek_version, info.provider, info.state);
	return 0;
}

const struct command command_key_show = {
    .name = "key show",
    .arguments = "NAME | -D DIR | --key-dir DIR [--json]",
    .summary = "show what a key directory says about itself (no cluster key needed)",
    .more = "Key ids are public fingerprints. Nothing is proven by showing them: that takes the cluster key.",
    .options = key_show_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_show_run,
};
_Static_assert(sizeof(struct key_show_options) <= COMMAND_OPTIONS_MAX, "options fit");
