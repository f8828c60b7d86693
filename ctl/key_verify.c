/* key verify: does the cluster key come, does it open the key directory, do the keys belong where they lie? */
#include <inttypes.h>
#include <string.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "ctl/layer.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"

struct key_verify_options {
	struct common_options common;
	const char *datadir, *keydir, *kek;
};

static const struct option_def key_verify_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_verify_options, datadir), "DIR",
     "data directory, instead of a keyset of the keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct key_verify_options, keydir), "DIR", "key directory, wherever it lies",
     0, 0},
    KEK_OPTION(struct key_verify_options, "the configuration's"),
    COMMON_OPTIONS,
    OPTIONS_END};

/* The whole set put back from an older copy opens as well as the present one: only the keystore, which remembers the
 * keyset of the node with this data directory, can tell. ERR_DAMAGED when it is another relation key. */
static int
check_remembered(const struct settings *settings, const char *datadir, const struct keydir_info *info, struct err *err)
{
	struct keydir_info remembered;
	char path[PATH_MAX], own[PATH_MAX];
	struct err ignored;

	for (size_t i = 0; settings != NULL && settings->keystore != NULL && i < settings->nnodes; i++) {
		const struct settings_node *n = &settings->nodes[i];

		if (n->keyset == NULL || n->datadir == NULL || path_absolute(own, n->datadir, &ignored) != 0 ||
		    strcmp(own, datadir) != 0 || path_format(path, err, "%s/%s", settings->keystore, n->keyset) != 0 ||
		    keydir_read_info(path, &remembered, &ignored) != 0)
			continue;
		if (strcmp(remembered.relation_id, info->relation_id) != 0) {
			err_set(err, ERR_DAMAGED, "the keys in \"%s\" are not those of keyset \"%s\"", datadir, n->keyset);
			err_detail(err, "Its relation key is %s, the keyset's is %s.", info->relation_id, remembered.relation_id);
			return err_hint(err, "It was built under other keys, or its key directory was exchanged.");
		}
		printf("The relation key is that of keyset \"%s\" in the keystore.\n", n->keyset);
	}
	return 0;
}

static int
key_verify_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_verify_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	char path[PATH_MAX], datadir[PATH_MAX], keys[256];
	struct source source = {0};
	struct keydir_info info;
	struct keyset *ks = NULL;
	int result = -1;

	if (keydir_named(&choice, path, err) != 0 || (o->datadir != NULL && path_absolute(datadir, o->datadir, err) != 0) ||
	    keydir_read_info(path, &info, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, o->datadir, choice.name, err) != 0)
		return -1;
	if ((ks = source_open(&source, path, err)) == NULL)
		goto done;
	keyset_describe(ks, keys);
	printf("%s\nCluster key %s from %s opens it: %s.\n", path, info.kek_id, source.reference, keys);
	if (o->datadir != NULL) {
		if (keyset_check_datadir(ks, datadir, err) != 0) {
			/* nothing was refused: it was found */
			err->class = err->class == ERR_REFUSED ? ERR_DAMAGED : err->class;
			goto done;
		}
		if (check_remembered(source.settings, datadir, &info, err) != 0)
			goto done;
		printf("The keys belong to the cluster with system identifier %" PRIu64 ".\n", info.system_identifier);
	}
	if (info.cut_off)
		printf("A change of these keys was cut off; \"walcrypt-ctl key repair\" finishes or undoes it.\n");
	result = 0;
done:
	keyset_free(ks);
	source_free(&source);
	return result;
}

const struct command command_key_verify = {
    .name = "key verify",
    .arguments = "NAME | -D DIR | --key-dir DIR [--kek SOURCE]",
    .summary = "fetch the cluster key, open the key directory with it, compare all key ids",
    .options = key_verify_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_verify_run,
};
_Static_assert(sizeof(struct key_verify_options) <= COMMAND_OPTIONS_MAX, "options fit");
