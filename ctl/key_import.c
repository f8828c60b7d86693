/* key import, key export: the two key files of Cluster File Encryption, into the keystore and out of a key directory.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "ctl/keyset_make.h"
#include "keymgr/cfe.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

struct key_import_options {
	struct common_options common;
	const char *from, *kek, *system_identifier;
	bool wal_only, provider_random;
};

static const struct option_def key_import_defs[] = {
    {"from", 0, OPTION_TEXT, offsetof(struct key_import_options, from), "DIR",
     "folder with relation.wkey and wal.wkey, or the data directory whose pg_cryptokeys/live has them", 0, 0},
    {"wal-only", 0, OPTION_FLAG, offsetof(struct key_import_options, wal_only), NULL,
     "take the WAL key, and a fresh relation key", 0, 0},
    KEK_OPTION(struct key_import_options, "the configuration's for NAME"),
    {"system-identifier", 0, OPTION_TEXT, offsetof(struct key_import_options, system_identifier), "NUMBER",
     "the cluster's system identifier (default: asked from a configured node)", 0, 0},
    PROVIDER_RANDOM_OPTION(struct key_import_options),
    COMMON_OPTIONS,
    OPTIONS_END};

/* Where the files lie: in DIR itself, or where pg_alterckey and initdb put them below it. */
static int
files_find(const char *from, char folder[static PATH_MAX], struct err *err)
{
	static const char *const below[] = {"", "/live", "/pg_cryptokeys/live"};
	char wal[PATH_MAX], json[PATH_MAX];

	for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		if (path_format(folder, err, "%s%s", from, below[i]) != 0 ||
		    path_format(wal, err, "%s/wal.wkey", folder) != 0 || path_format(json, err, "%s/keyset.json", folder) != 0)
			return -1;
		if (access(wal, F_OK) != 0)
			continue;
		if (access(json, F_OK) != 0)
			return 0;
		err_set(err, ERR_REFUSED, "\"%s\" is a key directory of walcrypt", folder);
		return err_hint(err, "Copy it as a whole: every file of it is authenticated.");
	}
	err_set(err, ERR_FAILED, "there is no wal.wkey in \"%s\"", from);
	return err_hint(err, "A directory of Cluster File Encryption has relation.wkey and wal.wkey.");
}

static int
key_import_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_import_options *o = options;
	char folder[PATH_MAX], path[PATH_MAX], keystore[PATH_MAX];
	struct source source = {0};
	struct keyset *ks = NULL;
	struct kek *kek = NULL;
	uint64_t identifier;
	int lock = -1, result = -1;

	(void)nargs;
	if (o->from == NULL)
		return err_set(err, ERR_USAGE, "--from is missing");
	if (keyset_name_check(args[0], err) != 0 || files_find(o->from, folder, err) != 0 ||
	    keystore_find(o->common.config, keystore, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, NULL, args[0], err) != 0)
		return -1;
	source.conf.provider_random |= o->provider_random;
	if (system_identifier_find(o->system_identifier, source.settings, &identifier, err) != 0 ||
	    (lock = keystore_lock(keystore, -1, err)) < 0 || keyset_place(keystore, args[0], path, err) != 0)
		goto done;
	if (kek_is_envelope(&source.conf)) {
		err_set(err, ERR_USAGE, "%s wraps keys of its own making, and cannot open files of others", source.reference);
		err_hint(
		    err,
		    "Import with the cluster key that these files are under; then: walcrypt-ctl key alter NAME --new-kek ...");
		goto done;
	}
	if ((kek = source_prepare(&source, folder, false, NULL, NULL, err)) == NULL ||
	    (ks = cfe_read(folder, kek, o->wal_only, identifier, err)) == NULL ||
	    keydir_create(path, ks, kek, source.reference, err) != 0)
		goto done;
	keyset_made_print(args[0], ks, source.reference);
	if (o->wal_only)
		printf("The relation key is a fresh one.\n");
	result = 0;
done:
	keyset_free(ks);
	kek_free(kek);
	source_free(&source);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_import = {
    .name = "key import",
    .arguments = "NAME --from DIR [--wal-only] [--kek SOURCE] [--system-identifier NUMBER] [--provider-random]",
    .summary = "make a keyset from the key files of Cluster File Encryption",
    .more = "The files themselves stay as they are. They do not say which of them is which: exchanged, they are "
            "imported exchanged.",
    .options = key_import_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 1,
    .run = key_import_run,
    .audit = AUDIT_OR_REFUSE,
    .makes_keysets = true,
};
_Static_assert(sizeof(struct key_import_options) <= COMMAND_OPTIONS_MAX, "options fit");

struct key_export_options {
	struct common_options common;
	const char *datadir, *keydir, *to, *kek;
	bool wal_only;
};

static const struct option_def key_export_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_export_options, datadir), "DIR",
     "data directory, instead of a keyset of the keystore", 0, 0},
    {"key-dir", 0, OPTION_TEXT, offsetof(struct key_export_options, keydir), "DIR", "key directory, wherever it lies",
     0, 0},
    {"to", 0, OPTION_TEXT, offsetof(struct key_export_options, to), "FOLDER", "folder to make", 0, 0},
    {"wal-only", 0, OPTION_FLAG, offsetof(struct key_export_options, wal_only), NULL, "the WAL key alone", 0, 0},
    KEK_OPTION(struct key_export_options, "the configuration's"),
    COMMON_OPTIONS,
    OPTIONS_END};

static int
key_export_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_export_options *o = options;
	struct keydir_choice choice = {nargs > 0 ? args[0] : NULL, o->datadir, o->keydir, o->common.config};
	char path[PATH_MAX], to[PATH_MAX];
	struct source source = {0};
	struct keyset *ks = NULL;
	struct kek *kek = NULL;
	int result = -1;

	if (o->to == NULL)
		return err_set(err, ERR_USAGE, "--to is missing");
	if (keydir_named(&choice, path, err) != 0 || path_absolute(to, o->to, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, o->datadir, choice.name, err) != 0)
		return -1;
	if (kek_is_envelope(&source.conf)) {
		err_set(err, ERR_REFUSED, "the files could not be opened: their cluster key is only known to %s",
		        source.reference);
		err_hint(
		    err,
		    "First give the keys a cluster key that can be taken along: walcrypt-ctl key alter NAME --new-kek ...");
		goto done;
	}
	if ((kek = source_fetch(&source, path, err)) == NULL || (ks = keydir_open(path, kek, err)) == NULL ||
	    cfe_write(to, ks, kek, o->wal_only, err) != 0)
		goto done;
	printf("%s: %swal.wkey of epoch %u, under the cluster key of %s.\n", to, o->wal_only ? "" : "relation.wkey, ",
	       keyset_epoch_at(ks, keyset_nepochs(ks) - 1)->number, source.reference);
	if (keyset_nepochs(ks) > 1)
		printf("The format has one WAL key: the %zu earlier ones stay behind.\n", keyset_nepochs(ks) - 1);
	result = 0;
done:
	keyset_free(ks);
	kek_free(kek);
	source_free(&source);
	return result;
}

const struct command command_key_export = {
    .name = "key export",
    .arguments = "NAME | -D DIR | --key-dir DIR --to FOLDER [--wal-only] [--kek SOURCE]",
    .summary = "write the key files of Cluster File Encryption",
    .options = key_export_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_export_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_export_options) <= COMMAND_OPTIONS_MAX, "options fit");
