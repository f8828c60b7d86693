/* key list: all keysets of the keystore, from what their key directories say, which needs no cluster key; or the
 * cluster keys that a provider keeps. */
#include <inttypes.h>
#include <stdlib.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/json_out.h"
#include "ctl/keydir_choice.h"
#include "ctl/keydir_report.h"
#include "ctl/source.h"
#include "keymgr/keystore.h"

struct key_list_options {
	struct common_options common;
	const char *kek;
	bool json;
};

static const struct option_def key_list_defs[] = {
    {"kek", 0, OPTION_TEXT, offsetof(struct key_list_options, kek), "SOURCE",
     "instead of keysets: the cluster keys at this provider, given as for other commands", 0, 0},
    {"json", 0, OPTION_FLAG, offsetof(struct key_list_options, json), NULL, "print a JSON array", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

static void
row_print(const char *name, const struct keydir_info *info)
{
	const char *created = info->epochs[info->nepochs - 1].created;
	char provider[sizeof(info->provider)], identifier[24], epochs[32], age[16] = "?";
	int days = keydir_age_days(created, time(NULL));

	snprintf(identifier, sizeof(identifier), "%" PRIu64, info->system_identifier);
	if (info->nepochs == 1)
		snprintf(epochs, sizeof(epochs), "%u", info->epochs[0].number);
	else
		snprintf(epochs, sizeof(epochs), "%u-%u", info->epochs[0].number, info->epochs[info->nepochs - 1].number);
	if (days >= 0)
		snprintf(age, sizeof(age), "%d days", days);
	keydir_text_plain(info->provider, provider, sizeof(provider));
	printf("%-15s %-7s %-20s %-17s %-7s %-10s %-17s %s%s\n", name, key_method_name(info->method), identifier,
	       info->relation_id, epochs, age, info->kek_id, provider, info->cut_off ? "  (change cut off)" : "");
}

/* One keyset into the array, or as a row; what cannot be read is said and does not hide the others. */
static int
keyset_list(const char *keystore, const char *name, json_t *array, struct err *err)
{
	struct keydir_info info;
	char path[PATH_MAX];

	if (path_format(path, err, "%s/%s", keystore, name) != 0 || keydir_read_info(path, &info, err) != 0)
		return -1;
	if (array == NULL)
		row_print(name, &info);
	else if (json_array_append_new(array, keydir_json(path, name, &info)) != 0)
		return err_nomem(err);
	return 0;
}

/* The cluster keys of a provider as they are told, into the array or as rows. */
struct kek_rows {
	json_t *array;
	size_t n;
};

static void
kek_row(void *arg, const char *name, const char *version, const char *state)
{
	struct kek_rows *rows = arg;
	char plain[1024], plain_version[128];

	keydir_text_plain(name, plain, sizeof(plain));
	keydir_text_plain(version, plain_version, sizeof(plain_version));
	if (rows->array != NULL)
		json_array_append_new(rows->array,
		                      json_pack("{s:s, s:s, s:s}", "name", plain, "version", plain_version, "state", state));
	else {
		if (rows->n == 0)
			printf("%-40s %-12s %s\n", "cluster key", "version", "state");
		printf("%-40s %-12s %s\n", plain, plain_version, state);
	}
	rows->n++;
}

static int
keks_list(const struct key_list_options *o, json_t *array, struct err *err)
{
	struct kek_rows rows = {.array = array};
	struct source source;
	int result = -1;

	if (source_find(&source, o->common.config, o->kek, NULL, NULL, err) != 0)
		return -1;
	if (keys_protect(KEYS_ROOM, err) == 0 && kek_list(&source.conf, kek_row, &rows, err) == 0)
		result = 0;
	source_free(&source);
	return result;
}

static int
key_list_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_list_options *o = options;
	json_t *array = o->json ? json_array() : NULL;
	struct keystore_names names = {0};
	char keystore[PATH_MAX];
	int status = 0, result = -1;
	struct err one;

	(void)args;
	(void)nargs;
	if (o->kek != NULL) {
		if (keks_list(o, array, err) == 0)
			result = o->json ? json_out(array, err) : 0;
		goto done;
	}
	if (keystore_find(o->common.config, keystore, err) != 0 || keystore_names(keystore, &names, err) != 0)
		goto done;
	if (!o->json && names.n > 0)
		printf("%-15s %-7s %-20s %-17s %-7s %-10s %-17s %s\n", "keyset", "method", "system identifier", "relation key",
		       "epochs", "age", "cluster key", "provider");
	for (size_t i = 0; i < names.n; i++)
		if (keyset_list(keystore, names.name[i], array, &one) != 0) {
			err_context(&one, "keyset \"%s\"", names.name[i]);
			report("ERROR", &one);
			status = status == 0 ? (int)one.class : status;
		}
	if (o->json && json_out(array, err) != 0)
		goto done;
	result = status;
done:
	keystore_names_free(&names);
	json_decref(array);
	return result;
}

const struct command command_key_list = {
    .name = "key list",
    .arguments = "[--kek SOURCE] [--json]",
    .summary = "list the keysets of the keystore (no cluster key needed), or a provider's cluster keys",
    .more = "Key ids are public fingerprints. Nothing is proven by showing them: \"key verify\" does that.",
    .options = key_list_defs,
    .style = OPTIONS_ALL,
    .run = key_list_run,
};
_Static_assert(sizeof(struct key_list_options) <= COMMAND_OPTIONS_MAX, "options fit");
