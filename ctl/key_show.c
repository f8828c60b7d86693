/* key show: what a key directory says about itself. It needs no cluster key, so nothing in it is proven. */
#include <inttypes.h>
#include <stdlib.h>

#include "ctl/command.h"
#include "ctl/json_out.h"
#include "ctl/keydir_choice.h"
#include "ctl/keydir_report.h"

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
	json_t *root = keydir_json(path, NULL, info);
	int result = json_out(root, err);

	json_decref(root);
	return result;
}

static int
key_show_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_show_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	struct keydir_info info;
	char path[PATH_MAX], text[sizeof(info.provider)];

	if (keydir_named(&choice, path, err) != 0 || keydir_read_info(path, &info, err) != 0)
		return -1;
	if (o->json)
		return show_json(path, &info, err);
	printf("key directory      %s\nmethod             %s\nsystem identifier  %" PRIu64 "\nrelation key       %s\n",
	       path, key_method_name(info.method), info.system_identifier, info.relation_id);
	for (size_t i = 0; i < info.nepochs; i++) {
		keydir_text_plain(info.epochs[i].created, text, sizeof(text));
		printf("WAL key epoch %-4u %s, for timelines after %u, made %s\n", info.epochs[i].number, info.epochs[i].id,
		       info.epochs[i].after_timeline, text);
	}
	keydir_text_plain(info.kek_version, text, sizeof(text));
	printf("cluster key        %s%s%s\n", info.kek_id, text[0] != '\0' ? ", version " : "", text);
	keydir_text_plain(info.provider, text, sizeof(text));
	printf("provider           %s\n", text);
	keydir_text_plain(info.state, text, sizeof(text));
	printf("state              %s%s\n", text,
	       info.cut_off ? "; a change was cut off: walcrypt-ctl key repair finishes or undoes it" : "");
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
