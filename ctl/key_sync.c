/*
 * key sync: a data directory gets the keys that the keystore has for it: every epoch of its WAL key, whichever keyset
 * has it, under the cluster key of today. For a restored base backup, whose key directory is as old as the backup; and
 * when its key service is gone.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "ctl/keyfolder.h"
#include "ctl/layer.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

struct key_sync_options {
	struct common_options common;
	const char *datadir, *keystore, *kek, *old_kek;
	bool dry_run;
};

static const struct option_def key_sync_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct key_sync_options, datadir), "DIR", "data directory (default: PGDATA)",
     0, 0},
    {"keystore", 0, OPTION_TEXT, offsetof(struct key_sync_options, keystore), "FOLDER",
     "where the keys are (default: the configuration's)", 0, 0},
    KEK_OPTION(struct key_sync_options, "the configuration's for DIR, else for NAME"),
    {"old-kek", 0, OPTION_TEXT, offsetof(struct key_sync_options, old_kek), "SOURCE",
     "the cluster key that DIR's keys are under, when it has epochs that the keystore lacks", 0, 0},
    {"dry-run", 'n', OPTION_FLAG, offsetof(struct key_sync_options, dry_run), NULL, "say what would be done", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* The keyset with this relation key, or with this name if one is given. */
static int
keyset_find(const char *keystore, const char *name, const char *relation_id, char found[static NAME_MAX + 1],
            struct err *err)
{
	struct keystore_names names;
	struct keydir_info info;
	char path[PATH_MAX];
	int result = keystore_names(keystore, &names, err);

	found[0] = '\0';
	for (size_t i = 0; result == 0 && i < names.n && found[0] == '\0'; i++)
		if ((name == NULL || strcmp(name, names.name[i]) == 0) &&
		    (result = path_format(path, err, "%s/%s", keystore, names.name[i])) == 0 &&
		    (result = keydir_read_info(path, &info, err)) == 0 &&
		    (relation_id[0] == '\0' || strcmp(info.relation_id, relation_id) == 0))
			memcpy(found, names.name[i], sizeof(names.name[i]));
	keystore_names_free(&names);
	if (result != 0 || found[0] != '\0')
		return result;
	if (relation_id[0] == '\0')
		return err_set(err, ERR_REFUSED, "keystore \"%s\" has no keyset \"%s\"", keystore, name);
	err_set(err, ERR_REFUSED, "keystore \"%s\" has no %s relation key %s", keystore,
	        name != NULL ? "keyset of that name with" : "keyset with", relation_id);
	return err_hint(err, "The data directory is under other keys than the keystore's.");
}

/* Does the keystore lack an epoch of the directory's? Its number, or 0. */
static uint32_t
epoch_lacking(const struct keydir_info *ours, const struct keydir_info *kept)
{
	for (size_t i = 0; i < ours->nepochs; i++) {
		size_t j = 0;

		while (j < kept->nepochs && (ours->epochs[i].number != kept->epochs[j].number ||
		                             strcmp(ours->epochs[i].id, kept->epochs[j].id) != 0))
			j++;
		if (j == kept->nepochs)
			return ours->epochs[i].number;
	}
	return 0;
}

/* The keys that the directory is to have: the keystore's, and its own epochs that are not there (retired, say). */
static struct keyset *
keys_join(const struct key_sync_options *o, const char *datadir, const char *keydir, const struct keydir_info *info,
          const struct keyfolder *kept, struct err *err)
{
	uint32_t lacking = epoch_lacking(info, &kept->info);
	struct keyset *own, *all = NULL;
	struct source source;

	if (lacking == 0)
		return keyset_merge(kept->keys, kept->keys, 0, err);
	if (source_find(&source, o->common.config, o->old_kek != NULL ? o->old_kek : o->kek, datadir, NULL, err) != 0)
		return NULL;
	if ((own = source_open(&source, keydir, err)) != NULL)
		all = keyset_merge(kept->keys, own, 0, err);
	keyset_free(own);
	source_free(&source);
	if (own == NULL) {
		err_context(err, "it has WAL key epoch %u, which the keystore lacks", lacking);
		err_hint(err, "Give --old-kek, the cluster key that its keys are under: that epoch must not be lost.");
	}
	return all;
}

static bool
has_epoch(const struct keyset *keys, uint32_t number)
{
	for (size_t i = 0; i < keyset_nepochs(keys); i++)
		if (keyset_epoch_at(keys, i)->number == number)
			return true;
	return false;
}

/*
 * The epochs that other keysets of the keystore have of the same WAL key: rotations after the backup have staged them
 * there alone. Replaces *all.
 */
static int
relatives_take(const struct keyfolder_choice *base, const char *own, struct keyset **all, struct err *err)
{
	struct keystore_names names;
	int result = keystore_names(base->keystore, &names, err);

	for (size_t i = 0; result == 0 && i < names.n; i++) {
		struct keyfolder_choice c = *base;
		struct keydir_info info;
		struct keyset *more;
		struct keyfolder f = {0};
		char path[PATH_MAX];
		bool lacking = false;

		if ((result = path_format(path, err, "%s/%s", base->keystore, names.name[i])) != 0 ||
		    (result = keydir_read_info(path, &info, err)) != 0)
			break;
		for (size_t j = 0; j < info.nepochs; j++)
			lacking = lacking || !has_epoch(*all, info.epochs[j].number);
		if (!lacking || info.system_identifier != keyset_system_identifier(*all) || strcmp(names.name[i], own) == 0)
			continue;
		c.name = names.name[i];
		if ((result = keyfolder_open(&f, &c, false, err)) == 0 && keyset_shares_wal_key(*all, f.keys)) {
			if ((more = keyset_merge(*all, f.keys, 0, err)) == NULL)
				result = -1;
			else {
				keyset_free(*all);
				*all = more;
			}
		}
		keyfolder_close(&f);
	}
	keystore_names_free(&names);
	return result;
}

/* In place of what is there; or anew where nothing is. */
static int
keys_put(const char *keydir, bool there, const struct keyset *keys, const struct keydir_info *earlier,
         struct source *source, struct err *err)
{
	char live[PATH_MAX];
	struct keydir_rewrap r;
	struct kek *kek;
	int result = -1;

	if (path_format(live, err, "%s/%s", keydir, there ? "live" : "new") != 0 ||
	    (kek = source_prepare(source, live, false, NULL, NULL, err)) == NULL)
		return -1;
	if (!there)
		result = keydir_create_again(keydir, keys, earlier, kek, source->reference, err);
	else if (keydir_rewrap_begin(keydir, false, &r, err) == 0) {
		result = keydir_rewrap_write(&r, keys, kek, source->reference, err);
		keydir_rewrap_end(&r);
	}
	kek_free(kek);
	return result;
}

/* The cluster key for the directory: as said, else the configuration's for it, else the keyset's. */
static int
target_find(const struct key_sync_options *o, const char *datadir, const char *name, struct source *source,
            struct err *err)
{
	struct err first;

	if (source_find(source, o->common.config, o->kek, datadir, NULL, err) == 0)
		return 0;
	first = *err;
	if (source_find(source, o->common.config, o->kek, NULL, name, err) == 0)
		return 0;
	*err = first;
	return -1;
}

static int
key_sync_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_sync_options *o = options;
	char datadir[PATH_MAX], keydir[PATH_MAX], keystore[PATH_MAX], name[NAME_MAX + 1], keys[256];
	struct keyfolder_choice c = {.config = o->common.config, .keystore = keystore, .name = name, .kek = o->kek};
	struct keydir_info info = {0};
	struct source target = {0};
	struct keyset *all = NULL;
	struct keyfolder kept = {0};
	int lock = -1, result = -1;
	bool there;

	if (datadir_option(o->datadir, datadir, err) != 0 || datadir_check_settled(datadir, err) != 0 ||
	    path_format(keydir, err, "%s/pg_cryptokeys", datadir) != 0 ||
	    (o->keystore != NULL ? path_absolute(keystore, o->keystore, err)
	                         : keystore_find(o->common.config, keystore, err)) != 0)
		return -1;
	there = access(keydir, F_OK) == 0;
	if (there ? keydir_read_info(keydir, &info, err) != 0 : nargs == 0) {
		if (!there)
			err_set(err, ERR_USAGE, "data directory \"%s\" has no key directory that would tell its keyset", datadir);
		return err_hint(err, there ? "To make it anew, move pg_cryptokeys away and name the keyset."
		                           : "Name the keyset: walcrypt-ctl key sync NAME -D DIR");
	}
	if ((lock = keystore_lock(keystore, -1, err)) < 0 ||
	    keyset_find(keystore, nargs > 0 ? args[0] : NULL, info.relation_id, name, err) != 0 ||
	    keyfolder_open(&kept, &c, false, err) != 0 || keyset_check_datadir(kept.keys, datadir, err) != 0 ||
	    target_find(o, datadir, name, &target, err) != 0 ||
	    (all = keys_join(o, datadir, keydir, &info, &kept, err)) == NULL || relatives_take(&c, name, &all, err) != 0)
		goto done;
	if (!o->dry_run && keys_put(keydir, there, all, &kept.info, &target, err) != 0)
		goto done;
	keyset_describe(all, keys);
	printf("data directory \"%s\" %s the keys of keyset \"%s\": %s;\nall %zu epochs, under the cluster key of %s.\n",
	       datadir, o->dry_run ? "would get" : "has", name, keys, keyset_nepochs(all), target.reference);
	if (!has_epoch(kept.keys, keyset_epoch_at(all, keyset_nepochs(all) - 1)->number))
		printf("Keyset \"%s\" lacks the newest. Before the directory becomes a node of the proxy: walcrypt-ctl key "
		       "new-epoch "
		       "%s\n",
		       name, name);
	result = 0;
done:
	keyset_free(all);
	keyfolder_close(&kept);
	source_free(&target);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_sync = {
    .name = "key sync",
    .arguments = "[NAME] -D DIR [--kek SOURCE] [--old-kek SOURCE] [--keystore FOLDER] [--dry-run]",
    .summary = "give a data directory the keystore's keys: all epochs, the present cluster key",
    .more = "For a restored base backup, whose keys are as old as itself. The keyset is the one with its relation key.",
    .options = key_sync_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_sync_run,
    .audit = AUDIT_OR_REFUSE,
    .keystore = offsetof(struct key_sync_options, keystore),
};
_Static_assert(sizeof(struct key_sync_options) <= COMMAND_OPTIONS_MAX, "options fit");
