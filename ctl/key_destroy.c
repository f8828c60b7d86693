/*
 * key destroy: a keyset goes from the keystore, or a cluster key from its provider, for good. Refused while anything
 * that can be looked at needs it; with --force somebody types its key id.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/folder.h"
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/confirm.h"
#include "ctl/console.h"
#include "ctl/epoch_use.h"
#include "ctl/files.h"
#include "ctl/keydir_choice.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"
#include "keymgr/keystore.h"

#define GONE ".destroyed." /* before the name of a keyset that is being destroyed */
#define MANIFEST_MAX (256 * 1024 * 1024)

struct key_destroy_options {
	struct common_options common;
	const char *kek;
	bool force, dry_run;
};

static const struct option_def key_destroy_defs[] = {
    {"kek", 0, OPTION_TEXT, offsetof(struct key_destroy_options, kek), "SOURCE",
     "instead of a keyset: this cluster key, at its provider", 0, 0},
    {"force", 0, OPTION_FLAG, offsetof(struct key_destroy_options, force), NULL,
     "although something needs it: then its key id must be typed on the terminal", 0, 0},
    {"dry-run", 'n', OPTION_FLAG, offsetof(struct key_destroy_options, dry_run), NULL,
     "say what needs it, change nothing", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* What is to go, and what was found that needs it. */
struct destroy {
	const struct key_destroy_options *o;
	struct settings *settings;
	const char *keystore;
	const char *name;        /* the keyset; NULL: a cluster key */
	char id[KEY_ID_HEX_LEN]; /* its relation key's id; the cluster key's */
	char reference[512];     /* of the cluster key's provider */
	bool envelope;           /* each key directory has a cluster key of its own there */
	struct keydir_info info; /* of the keyset */
	struct epoch_use *use;
	size_t nneeds;
	const char *root; /* while a folder is walked */
};

static void
need(struct destroy *d, const char *what, const char *which)
{
	printf("needed by %s %s\n", what, which);
	d->nneeds++;
}

/* Does a key directory say that it is under this key? */
static bool
is_under(const struct destroy *d, const struct keydir_info *info)
{
	if (d->name != NULL)
		return strcmp(info->relation_id, d->id) == 0;
	return d->envelope ? strcmp(info->provider, d->reference) == 0 : strcmp(info->kek_id, d->id) == 0;
}

/* A backup that was kept without its key directory's files still has their names in its manifest. */
static int
manifest_look(struct destroy *d, const char *path, struct err *err)
{
	char mark[64];
	uint8_t *text;
	size_t len = 0;

	if (d->name == NULL)
		return 0;
	if ((text = durable_read(path, MANIFEST_MAX, &len, err)) == NULL)
		return -1;
	snprintf(mark, sizeof(mark), "relation_id.%s", d->id);
	if (memmem(text, len, mark, strlen(mark)) != NULL)
		need(d, "the backup of", path);
	free(text);
	return 0;
}

static int
visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	struct destroy *d = arg;
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	char full[PATH_MAX];
	struct keydir_info info;

	if (path_format(full, err, "%s/%s", d->root, path) != 0)
		return -1;
	if (S_ISREG(st->st_mode))
		return strcmp(name, "backup_manifest") == 0 ? manifest_look(d, full, err) : 0;
	if (strcmp(name, "pg_cryptokeys") != 0)
		return strcmp(name, "base") == 0 || strcmp(name, "pg_wal") == 0 || strcmp(name, "global") == 0;
	if (keydir_read_info(full, &info, err) != 0)
		return -1;
	if (is_under(d, &info))
		need(d, "the key directory", full);
	return 1;
}

/* A data directory, a backup, an archive, or a folder of such. */
static int
folder_look(struct destroy *d, const char *folder, struct err *err)
{
	d->root = folder;
	if (access(folder, R_OK | X_OK) != 0)
		return err_os(err, errno, "could not look into \"%s\"", folder);
	if (data_files_walk_any(folder, visit, d, err) != 0)
		return -1;
	return d->name != NULL ? epoch_use_look(folder, d->use, err) : 0;
}

/* The configuration's nodes: who has the keyset, or keys under the cluster key. */
static int
nodes_look(struct destroy *d, struct err *err)
{
	for (size_t i = 0; i < d->settings->nnodes; i++) {
		const struct settings_node *n = &d->settings->nodes[i];
		char keydir[PATH_MAX];
		struct keydir_info info;

		if (d->name != NULL && n->keyset != NULL && strcmp(n->keyset, d->name) == 0)
			need(d, n->profile ? "profile" : "node", n->name);
		if (n->datadir == NULL)
			continue;
		if (path_format(keydir, err, "%s/pg_cryptokeys", n->datadir) != 0)
			return -1;
		if (keydir_exists(keydir)) {
			if (keydir_read_info(keydir, &info, err) != 0)
				return -1;
			if (is_under(d, &info))
				need(d, "the key directory", keydir);
		}
	}
	return 0;
}

/* Of the keystore: keysets under the cluster key; or who else has the keyset's WAL keys: *others, a bit for each epoch.
 */
static int
keystore_look(struct destroy *d, bool others[static KEYSET_MAX_EPOCHS], struct err *err)
{
	struct keystore_names names;
	struct keydir_info info;
	char path[PATH_MAX];
	int result = keystore_names(d->keystore, &names, err);

	for (size_t i = 0; result == 0 && i < names.n; i++) {
		if ((result = path_format(path, err, "%s/%s", d->keystore, names.name[i])) != 0 ||
		    (d->name != NULL && strcmp(names.name[i], d->name) == 0) ||
		    (result = keydir_read_info(path, &info, err)) != 0)
			continue;
		if (d->name == NULL && is_under(d, &info))
			need(d, "keyset", names.name[i]);
		for (size_t j = 0; d->name != NULL && j < d->info.nepochs; j++)
			for (size_t k = 0; k < info.nepochs; k++)
				others[j] = others[j] || strcmp(d->info.epochs[j].id, info.epochs[k].id) == 0;
	}
	keystore_names_free(&names);
	return result;
}

/* WAL under an epoch that only this keyset has. */
static void
wal_look(struct destroy *d, const bool others[static KEYSET_MAX_EPOCHS])
{
	for (size_t j = 0; j < d->info.nepochs; j++) {
		uint32_t at = d->info.epochs[j].number % KEYSET_MAX_EPOCHS;

		if (!others[j] && d->use->epoch[at].files > 0)
			need(d, "WAL whose key no other keyset has, such as", d->use->epoch[at].first);
	}
	if (d->use->closed > 0)
		printf("not looked at: %llu packed files, for example %s\n", (unsigned long long)d->use->closed,
		       d->use->closed_first);
}

/* Standbys that the proxy serves with the keyset now: it has the keys in memory, whatever the configuration says. */
static void
proxy_look(struct destroy *d)
{
	struct console_where where = {0};
	PGresult *table = NULL;
	struct err ignored;
	PGconn *conn = console_open(&where, d->settings, &ignored);

	if (conn != NULL && (table = console_ask(conn, "SHOW NODES", &ignored)) != NULL)
		for (int row = 0; row < PQntuples(table); row++)
			if (strcmp(PQgetvalue(table, row, PQfnumber(table, "relation_key")), d->id) == 0 &&
			    strcmp(PQgetvalue(table, row, PQfnumber(table, "streaming")), "yes") == 0)
				need(d, "a standby that the proxy serves:", PQgetvalue(table, row, PQfnumber(table, "name")));
	PQclear(table);
	PQfinish(conn);
}

/* One folder that was a keyset's. */
static int
gone_remove(const char *keystore, const char *name, struct err *err)
{
	static const char *const below[] = {"live", "new", "old"};
	char gone[PATH_MAX], folder[PATH_MAX];

	if (path_format(gone, err, "%s/%s", keystore, name) != 0)
		return -1;
	for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++)
		if (path_format(folder, err, "%s/%s", gone, below[i]) != 0 || durable_remove_dir(folder, err) != 0)
			return -1;
	return durable_remove_dir(gone, err);
}

/* What is under names of destroyed keysets, of a run that was cut off, too. */
static int
all_gone_remove(const char *keystore, struct err *err)
{
	struct folder f;
	const char *name;
	int result = 0;

	if (folder_open(&f, "keystore", keystore, err) != 0)
		return -1;
	while (result == 0 && (name = folder_next(&f)) != NULL)
		if (strncmp(name, GONE, sizeof(GONE) - 1) == 0)
			result = gone_remove(keystore, name, err);
	return folder_close(&f, result, err);
}

static int
keyset_remove(const struct destroy *d, struct err *err)
{
	char path[PATH_MAX], gone[PATH_MAX];

	/* first out of the way under a name that is no keyset's: killed in the middle, it is gone all the same, and the
	 * next run removes its files */
	return path_format(path, err, "%s/%s", d->keystore, d->name) != 0 ||
	               path_format(gone, err, "%s/" GONE "%s", d->keystore, d->name) != 0 ||
	               durable_rename(path, gone, err) != 0
	           ? -1
	           : all_gone_remove(d->keystore, err);
}

static int
decide(struct destroy *d, const char *what, struct err *err)
{
	char question[700];

	if (d->o->dry_run) {
		printf("%s: %zu things need it. Nothing was changed.\n", what, d->nneeds);
		return 1;
	}
	if (d->nneeds > 0 && !d->o->force) {
		err_set(err, ERR_REFUSED, "%.150s is needed", what);
		return err_hint(err, "--force destroys it all the same: what is under it can never be read again.");
	}
	snprintf(question, sizeof(question),
	         "This destroys %s for good. %zu known things need it, and can never be read again.", what, d->nneeds);
	return confirm_typed(question, d->id, err);
}

static int
keyset_destroy(struct destroy *d, const char **folders, size_t n, struct err *err)
{
	bool others[KEYSET_MAX_EPOCHS] = {false};
	char path[PATH_MAX], what[100 + NAME_MAX];
	struct keydir_choice named = {.name = d->name, .config = d->o->common.config};
	int decision;

	if ((!d->o->dry_run && all_gone_remove(d->keystore, err) != 0) || keydir_named(&named, path, err) != 0 ||
	    keydir_read_info(path, &d->info, err) != 0)
		return -1;
	memcpy(d->id, d->info.relation_id, sizeof(d->id));
	d->use->system_identifier = d->info.system_identifier;
	for (size_t i = 0; i < n; i++)
		if (folder_look(d, folders[i], err) != 0)
			return -1;
	if (nodes_look(d, err) != 0 || keystore_look(d, others, err) != 0)
		return -1;
	wal_look(d, others);
	proxy_look(d);
	snprintf(what, sizeof(what), "keyset \"%s\", relation key %s", d->name, d->id);
	if ((decision = decide(d, what, err)) != 0)
		return decision > 0 ? 0 : -1;
	if (keyset_remove(d, err) != 0)
		return -1;
	printf("Destroyed %s. Key backups may still have it.\n", what);
	return 0;
}

static int
kek_gone(struct destroy *d, const char **folders, size_t n, struct err *err)
{
	bool others[KEYSET_MAX_EPOCHS];
	struct source source;
	char what[700];
	struct kek *kek = NULL;
	int decision = -1;

	if (source_find(&source, d->o->common.config, d->o->kek, NULL, NULL, err) != 0)
		return -1;
	snprintf(d->reference, sizeof(d->reference), "%s", source.reference);
	d->envelope = kek_is_envelope(&source.conf);
	/* what cannot be done is not asked about */
	if (!d->o->dry_run && kek_destroy_check(&source.conf, err) != 0)
		goto done;
	snprintf(d->id, sizeof(d->id), "destroy");
	if (!d->envelope && ((kek = source_fetch(&source, d->keystore, err)) == NULL ||
	                     key_id_hex(kek->key, sizeof(kek->key), d->id, err) != 0))
		goto done;
	snprintf(what, sizeof(what), "cluster key %s%sof %.500s", d->envelope ? "" : d->id, d->envelope ? "" : " ",
	         source.reference);
	for (size_t i = 0; i < n; i++)
		if (folder_look(d, folders[i], err) != 0)
			goto done;
	if (nodes_look(d, err) != 0 || keystore_look(d, others, err) != 0 || (decision = decide(d, what, err)) != 0)
		goto done;
	decision = keys_protect(KEYS_ROOM, err) != 0
	               ? -1
	               : kek_destroy(&source.conf, kek != NULL && kek->version[0] != '\0' ? kek->version : NULL, err);
	if (decision == 0)
		printf("Destroyed %s.\n", what);
done:
	kek_free(kek);
	source_free(&source);
	return decision > 0 ? 0 : decision;
}

static int
key_destroy_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_destroy_options *o = options;
	char keystore[PATH_MAX];
	struct destroy d = {.o = o, .keystore = keystore};
	int lock = -1, result = -1;

	if (o->kek == NULL && nargs == 0) {
		err_set(err, ERR_USAGE, "name a keyset, or a cluster key");
		return err_hint(err, "Give NAME, or --kek SOURCE.");
	}
	if (settings_find(o->common.config, true, &d.settings, err) != 0)
		return -1;
	if ((d.use = calloc(1, sizeof(*d.use))) == NULL)
		err_nomem(err);
	else if (keystore_find(o->common.config, keystore, err) == 0 && (lock = keystore_lock(keystore, -1, err)) >= 0) {
		d.name = o->kek == NULL ? args[0] : NULL;
		result = o->kek == NULL ? keyset_destroy(&d, args + 1, nargs - 1, err) : kek_gone(&d, args, nargs, err);
	}
	free(d.use);
	settings_free(d.settings);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_destroy = {
    .name = "key destroy",
    .arguments = "NAME | --kek SOURCE [FOLDER...] [--force] [--dry-run]",
    .summary = "destroy a keyset, or a cluster key at its provider, for good",
    .more =
        "FOLDERs are archives, backups and data directories to look into. Its key id must be typed on the terminal.",
    .options = key_destroy_defs,
    .style = OPTIONS_ALL,
    .max_args = 256,
    .run = key_destroy_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_destroy_options) <= COMMAND_OPTIONS_MAX, "options fit");
