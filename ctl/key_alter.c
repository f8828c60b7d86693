/*
 * key alter, key move: the same data keys under another cluster key, or the same cluster key at another provider.
 *
 * No page and no WAL changes, and a running server or proxy has its keys in memory: it does not notice until it reads
 * them again. After alter a copy of the key directory from before (a base backup has one) still needs the old cluster
 * key; after move nothing does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/keydir_choice.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"
#include "keymgr/keystore.h"

struct key_alter_options {
	struct common_options common;
	const char *datadir, *keydir, *kek, *new_kek;
	bool all, create_kek, dry_run, provider_random;
};

#define ALTER_OPTIONS(create_help)                                                                                     \
	{"pgdata",    'D',                                                                                                 \
	 OPTION_TEXT, offsetof(struct key_alter_options, datadir),                                                         \
	 "DIR",       "data directory, instead of a keyset of the keystore",                                               \
	 0,           0},                                                                                                  \
	    {"key-dir",   0,                                                                                               \
	     OPTION_TEXT, offsetof(struct key_alter_options, keydir),                                                      \
	     "DIR",       "key directory, wherever it lies",                                                               \
	     0,           0},                                                                                              \
	    {"all",       0,                                                                                               \
	     OPTION_FLAG, offsetof(struct key_alter_options, all),                                                         \
	     NULL,        "every keyset of the keystore that is under the present cluster key",                            \
	     0,           0},                                                                                              \
	    KEK_OPTION(struct key_alter_options, "the configuration's"),                                                   \
	    {"new-kek",   0,                                                                                               \
	     OPTION_TEXT, offsetof(struct key_alter_options, new_kek),                                                     \
	     "SOURCE",    "the new one, in the same forms",                                                                \
	     0,           0},                                                                                              \
	    {"create-kek", 0, OPTION_FLAG, offsetof(struct key_alter_options, create_kek), NULL, create_help, 0, 0},       \
	    {"dry-run",   'n',                                                                                             \
	     OPTION_FLAG, offsetof(struct key_alter_options, dry_run),                                                     \
	     NULL,        "open everything, change nothing",                                                               \
	     0,           0},                                                                                              \
	    COMMON_OPTIONS, OPTIONS_END

static const struct option_def key_alter_defs[] = {PROVIDER_RANDOM_OPTION(struct key_alter_options),
                                                   ALTER_OPTIONS("make the new cluster key if it is not there yet")};
static const struct option_def key_move_defs[] = {
    ALTER_OPTIONS("store the present cluster key at the new provider if there is none yet")};

/* One run: the two sources, and the key directories it is about. */
struct alter {
	const struct key_alter_options *o;
	bool move;
	struct source from, to;
	struct kek *kek, *new_kek; /* NULL: fetched for each directory: an envelope, or a command that uses %d */
	struct keystore_names names;
	char (*path)[PATH_MAX];
	size_t npaths;
};

/* Does the provider look into the key directory, so that it must be asked for each? */
static bool
uses_key_dir(const struct source *s)
{
	return strncmp(s->conf.uri, "command:", 8) == 0 && strstr(s->conf.uri, "%d") != NULL;
}

/* The key directories that the options name; with --all the keystore's keysets. */
static int
paths_find(struct alter *a, const char *name, struct err *err)
{
	struct keydir_choice choice = {name, a->o->datadir, a->o->keydir, a->o->common.config};
	char keystore[PATH_MAX];

	if (a->o->all && (name != NULL || a->o->datadir != NULL || a->o->keydir != NULL))
		return err_set(err, ERR_USAGE, "--all and a single key directory contradict each other");
	if (a->o->all &&
	    (keystore_find(a->o->common.config, keystore, err) != 0 || keystore_names(keystore, &a->names, err) != 0))
		return -1;
	if ((a->path = calloc(a->names.n + 1, sizeof(*a->path))) == NULL)
		return err_nomem(err);
	if (!a->o->all) {
		a->npaths = 1;
		return keydir_named(&choice, a->path[0], err);
	}
	for (; a->npaths < a->names.n; a->npaths++)
		if (path_format(a->path[a->npaths], err, "%s/%s", keystore, a->names.name[a->npaths]) != 0)
			return -1;
	return 0;
}

static int
sources_find(struct alter *a, const char *name, struct err *err)
{
	if (a->o->new_kek == NULL) {
		err_set(err, ERR_USAGE, "--new-kek is missing");
		return err_hint(err, "Give --new-kek SCHEME:SOURCE, or the name of a [kek] section.");
	}
	if (source_find(&a->from, a->o->common.config, a->o->kek, a->o->datadir, name, err) != 0 ||
	    source_find(&a->to, a->o->common.config, a->o->new_kek, NULL, NULL, err) != 0)
		return -1;
	a->to.conf.provider_random |= a->o->provider_random;
	if (a->o->all && (uses_key_dir(&a->from) || uses_key_dir(&a->to)))
		return err_set(err, ERR_USAGE, "--all needs key commands without %%d, which names one key directory");
	return 0;
}

static int
same_or_not(const struct alter *a, const struct kek *kek, const struct kek *new_kek, struct err *err)
{
	char id[KEY_ID_HEX_LEN], new_id[KEY_ID_HEX_LEN];
	bool same;

	if (key_id_hex(kek->key, sizeof(kek->key), id, err) != 0 ||
	    key_id_hex(new_kek->key, sizeof(new_kek->key), new_id, err) != 0)
		return -1;
	same = strcmp(id, new_id) == 0;
	if (same == a->move)
		return 0;
	if (same) {
		err_set(err, ERR_REFUSED, "the new cluster key %s is the present one", id);
		return err_hint(err, "To note that it comes from another provider: walcrypt-ctl key move");
	}
	err_set(err, ERR_REFUSED, "%s has another cluster key, %s instead of %s", a->to.reference, new_id, id);
	return err_hint(err, "To change the cluster key: walcrypt-ctl key alter");
}

/* The new key; made (or, for a move, the present one stored) first if asked for and not there. NULL with err, or
 * with *later: a dry run does not make it. live: what %d becomes. */
static struct kek *
new_kek_get(struct alter *a, const struct kek *kek, const char *live, bool *later, struct err *err)
{
	bool made = false, create = a->o->create_kek && !a->o->dry_run;
	struct kek *new_kek = source_prepare(&a->to, live, create, a->move ? kek : NULL, &made, err);

	*later = new_kek == NULL && err->os_errno == ENOENT && a->o->create_kek && a->o->dry_run;
	if (new_kek == NULL && err->os_errno == ENOENT && !a->o->create_kek)
		err_hint(err, "--create-kek makes it.");
	if (made && kek_is_envelope(&a->to.conf))
		printf("Made the key that wraps the cluster key: %s\n", a->to.reference);
	else if (made) {
		printf("%s: %s\n", a->move ? "Stored the cluster key" : "Made a new cluster key", a->to.reference);
		if (!a->move)
			printf("Keep a copy where no disk failure reaches it: without it nobody can read what is encrypted.\n");
	}
	if (new_kek != NULL && same_or_not(a, kek, new_kek, err) != 0) {
		kek_free(new_kek);
		new_kek = NULL;
	}
	return new_kek;
}

/* Is this one of those that --all means? */
static bool
is_meant(const struct alter *a, const struct keydir_info *info, const char *id)
{
	/* an envelope has a cluster key for each; whether it opens is seen next */
	return a->kek != NULL ? strcmp(info->kek_id, id) == 0 : strcmp(info->provider, a->from.reference) == 0;
}

/* Of --all: only those under the present cluster key; each of them must open before any is changed. */
static int
paths_check(struct alter *a, struct err *err)
{
	char id[KEY_ID_HEX_LEN] = "";
	size_t n = 0;

	if (a->kek != NULL && key_id_hex(a->kek->key, sizeof(a->kek->key), id, err) != 0)
		return -1;
	for (size_t i = 0; i < a->npaths; i++) {
		struct keydir_info info;
		struct keyset *ks;

		if (keydir_read_info(a->path[i], &info, err) != 0)
			return -1;
		if (a->o->all && !is_meant(a, &info, id)) {
			printf("%s: left as it is, under cluster key %s.\n", a->path[i], info.kek_id);
			continue;
		}
		if ((ks = source_open_with(&a->from, a->path[i], a->kek, err)) == NULL)
			return -1;
		keyset_free(ks);
		if (info.cut_off) {
			err_set(err, ERR_REFUSED, "a change of the keys in \"%s\" was cut off", a->path[i]);
			return err_hint(err, "Finish or undo it: walcrypt-ctl key repair --key-dir %s", a->path[i]);
		}
		if (n != i)
			memcpy(a->path[n], a->path[i], sizeof(*a->path));
		n++;
	}
	a->npaths = n;
	if (n > 0)
		return 0;
	return a->kek != NULL ? err_set(err, ERR_REFUSED, "no keyset is under cluster key %s", id)
	                      : err_set(err, ERR_REFUSED, "no keyset has a cluster key of %s", a->from.reference);
}

/* Do it, or with a dry run only see that the new cluster key is to be had. */
static int
path_alter(struct alter *a, const char *path, bool *later, struct err *err)
{
	struct kek *own = a->kek == NULL ? source_fetch(&a->from, path, err) : NULL, *fetched = NULL;
	const struct kek *kek = a->kek != NULL ? a->kek : own, *new_kek = a->new_kek;
	bool begun = false, command = uses_key_dir(&a->to);
	struct keydir_rewrap r;
	char live[PATH_MAX];
	int result = -1;

	*later = false;
	if (kek == NULL || path_format(live, err, "%s/live", path) != 0)
		goto done;
	/* nobody waits for a provider under the lock, unless its command leaves a file beside the keys */
	if (new_kek == NULL && !command && (new_kek = fetched = new_kek_get(a, kek, live, later, err)) == NULL && !*later)
		goto done;
	if (a->o->dry_run) {
		result = 0;
		goto done;
	}
	if (keydir_rewrap_begin(path, command, &r, err) != 0)
		goto done;
	begun = true;
	if ((new_kek != NULL || (new_kek = fetched = new_kek_get(a, kek, r.new, later, err)) != NULL) &&
	    keydir_rewrap(&r, kek, new_kek, a->to.reference, err) == 0)
		result = 0;
done:
	if (begun)
		keydir_rewrap_end(&r);
	kek_free(own);
	kek_free(fetched);
	return result;
}

static void
advise(const struct alter *a)
{
	if (strcmp(a->to.reference, a->from.reference) != 0)
		printf("A running server or proxy goes on with the keys that it has. From its next start it needs %s: change "
		       "WALCRYPT_KEK or the\n"
		       "configuration, where they name %s.\n",
		       a->to.reference, a->from.reference);
	if (!a->move)
		printf("Keep the old cluster key as long as there are base backups and copies from before: their key "
		       "directories need it.\n");
}

static int
alter_run(const struct key_alter_options *o, bool move, const char *name, struct err *err)
{
	struct alter a = {.o = o, .move = move};
	bool later = false;
	char live[PATH_MAX];
	int result = -1;

	if (paths_find(&a, name, err) != 0 || sources_find(&a, name, err) != 0)
		goto done;
	if (path_format(live, err, "%s/live", a.npaths > 0 ? a.path[0] : "") != 0 ||
	    (!kek_is_envelope(&a.from.conf) &&
	     (a.kek = source_fetch(&a.from, a.npaths > 0 ? a.path[0] : "", err)) == NULL) ||
	    paths_check(&a, err) != 0)
		goto done;
	/* a store's is the same for all */
	if (a.kek != NULL && !uses_key_dir(&a.to) && !kek_is_envelope(&a.to.conf) &&
	    (a.new_kek = new_kek_get(&a, a.kek, live, &later, err)) == NULL && !later)
		goto done;
	for (size_t i = 0; i < a.npaths; i++) {
		if (!later && path_alter(&a, a.path[i], &later, err) != 0) {
			if (i > 0) {
				err->class = ERR_MIDWAY;
				err_detail(err, "%zu of %zu key directories are done. The same command does the rest.", i, a.npaths);
			}
			goto done;
		}
		printf("%s: cluster key %s%s, from %s to %s.\n", a.path[i], o->dry_run ? "would be " : "",
		       move ? "moved" : "changed", a.from.reference, a.to.reference);
	}
	if (o->dry_run)
		printf("Nothing was changed.%s\n", later ? " The new cluster key is not there yet and would be made." : "");
	else
		advise(&a);
	result = 0;
done:
	kek_free(a.kek);
	kek_free(a.new_kek);
	source_free(&a.from);
	source_free(&a.to);
	keystore_names_free(&a.names);
	free(a.path);
	return result;
}

static int
key_alter_run(void *options, const char **args, size_t nargs, struct err *err)
{
	return alter_run(options, false, nargs > 0 ? args[0] : NULL, err);
}

static int
key_move_run(void *options, const char **args, size_t nargs, struct err *err)
{
	return alter_run(options, true, nargs > 0 ? args[0] : NULL, err);
}

const struct command command_key_alter = {
    .name = "key alter",
    .arguments = "NAME | -D DIR | --key-dir DIR | --all [--kek OLD] --new-kek NEW [--create-kek] [--dry-run] "
                 "[--provider-random]",
    .summary = "change the cluster key: the same keys, wrapped by another one",
    .more = "Data and WAL stay as they are, and a running server or proxy goes on. What Cluster File Encryption's "
            "pg_alterckey OLD NEW does is --kek command:OLD --new-kek command:NEW.",
    .options = key_alter_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_alter_run,
    .audit = AUDIT_OR_REFUSE,
};

const struct command command_key_move = {
    .name = "key move",
    .arguments = "NAME | -D DIR | --key-dir DIR | --all [--kek OLD] --new-kek NEW [--create-kek] [--dry-run]",
    .summary = "keep the cluster key, but have it come from another provider",
    .more = "The key itself stays, so every base backup and copy of the keys opens with it as before.",
    .options = key_move_defs,
    .style = OPTIONS_ALL,
    .max_args = 1,
    .run = key_move_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_alter_options) <= COMMAND_OPTIONS_MAX, "options fit");
