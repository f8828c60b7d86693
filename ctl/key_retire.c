/*
 * key retire: does anything need a WAL key epoch any more? Looks at the keystore, at data directories, archives and
 * backups, and at the standbys that the proxy serves; takes the epoch away where nothing does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/command.h"
#include "ctl/console.h"
#include "ctl/epoch_use.h"
#include "ctl/keydir_choice.h"
#include "ctl/keyfolder.h"
#include "ctl/upstream.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

struct key_retire_options {
	struct common_options common;
	int epoch, timeline;
	bool yes, dry_run;
};

static const struct option_def key_retire_defs[] = {
    {"epoch", 0, OPTION_NUMBER, offsetof(struct key_retire_options, epoch), "NUMBER",
     "take this one away (default: tell of all)", 1, 2147483647},
    {"timeline", 0, OPTION_NUMBER, offsetof(struct key_retire_options, timeline), "NUMBER",
     "the present timeline (default: the nodes are asked)", 1, 2147483647},
    {"yes", 'y', OPTION_FLAG, offsetof(struct key_retire_options, yes), NULL,
     "what could not be looked at does not need it", 0, 0},
    {"dry-run", 'n', OPTION_FLAG, offsetof(struct key_retire_options, dry_run), NULL, "change nothing", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

/* A keyset of the keystore that shares the WAL key, or the data directory of one of their nodes. */
struct holder {
	char name[NAME_MAX + 1]; /* keyset */
	char datadir[PATH_MAX];  /* "": the keyset itself */
	struct keydir_info info;
};

struct retire {
	const struct key_retire_options *o;
	struct settings *settings;
	const char *keystore;
	struct keydir_info info; /* of the keyset that was named */
	struct holder *holder;
	size_t nholders;
	uint32_t timeline;
	struct epoch_use *use;
	size_t nunseen; /* places that could not be looked at */
};

static bool
shares(const struct keydir_info *a, const struct keydir_info *b)
{
	if (a->system_identifier != b->system_identifier)
		return false;
	for (size_t i = 0; i < a->nepochs; i++)
		for (size_t j = 0; j < b->nepochs; j++)
			if (a->epochs[i].number == b->epochs[j].number && strcmp(a->epochs[i].id, b->epochs[j].id) == 0)
				return true;
	return false;
}

static struct holder *
holder_add(struct retire *r, const char *name, const char *datadir, struct err *err)
{
	struct holder *h = reallocarray(r->holder, r->nholders + 1, sizeof(*h));

	if (h == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->holder = h;
	h += r->nholders++;
	memset(h, 0, sizeof(*h));
	snprintf(h->name, sizeof(h->name), "%s", name);
	snprintf(h->datadir, sizeof(h->datadir), "%s", datadir);
	return h;
}

/* Of one keyset: itself, and the data directories of its nodes; those that are elsewhere are said. */
static int
keyset_add(struct retire *r, const char *name, const struct keydir_info *info, struct err *err)
{
	struct holder *h = holder_add(r, name, "", err);

	if (h == NULL)
		return -1;
	h->info = *info;
	for (size_t i = 0; i < r->settings->nnodes; i++) {
		const struct settings_node *n = &r->settings->nodes[i];
		char datadir[PATH_MAX], keydir[PATH_MAX];

		if (n->keyset == NULL || strcmp(n->keyset, name) != 0)
			continue;
		if (n->datadir == NULL || path_absolute(datadir, n->datadir, err) != 0 ||
		    path_format(keydir, err, "%s/pg_cryptokeys", datadir) != 0 || !keydir_exists(keydir)) {
			printf("not looked at: %s \"%s\", %s\n", n->profile ? "profile" : "node", n->name,
			       n->datadir == NULL ? "whose files are not on this machine as far as the configuration says"
			                          : "whose data directory is not on this machine");
			r->nunseen++;
			continue;
		}
		if ((h = holder_add(r, name, datadir, err)) == NULL || keydir_read_info(keydir, &h->info, err) != 0 ||
		    epoch_use_look(datadir, r->use, err) != 0)
			return -1;
	}
	return 0;
}

static int
holders_find(struct retire *r, struct err *err)
{
	struct keystore_names names;
	struct keydir_info info;
	char path[PATH_MAX];
	int result = keystore_names(r->keystore, &names, err);

	for (size_t i = 0; result == 0 && i < names.n; i++)
		if ((result = path_format(path, err, "%s/%s", r->keystore, names.name[i])) == 0 &&
		    (result = keydir_read_info(path, &info, err)) == 0 && shares(&r->info, &info))
			result = keyset_add(r, names.name[i], &info, err);
	keystore_names_free(&names);
	return result;
}

/* The lowest timeline that a standby streams through the proxy; 0: none does. */
static uint32_t
proxy_lowest(struct retire *r)
{
	struct console_where where = {0};
	PGresult *table = NULL;
	uint32_t lowest = 0;
	struct err err;
	PGconn *conn;

	if ((conn = console_open(&where, r->settings, &err)) == NULL ||
	    (table = console_ask(conn, "SHOW SESSIONS", &err)) == NULL) {
		printf("not looked at: standbys that the proxy serves: %s\n", err.text);
		r->nunseen++;
	}
	for (int row = 0; table != NULL && row < PQntuples(table); row++) {
		uint32_t tli = (uint32_t)strtoul(PQgetvalue(table, row, PQfnumber(table, "timeline")), NULL, 10);

		if (tli > 0 && (lowest == 0 || tli < lowest))
			lowest = tli;
	}
	PQclear(table);
	PQfinish(conn);
	return lowest;
}

/* What needs the epoch, in words; false: nothing that we know of. */
static bool
needed(const struct retire *r, uint32_t number, uint32_t lowest, char *why, size_t len)
{
	const struct keydir_info *latest = &r->holder[0].info;
	uint32_t next_after = UINT32_MAX;

	for (size_t i = 0; i < r->nholders; i++)
		if (r->holder[i].info.epochs[r->holder[i].info.nepochs - 1].number > latest->epochs[latest->nepochs - 1].number)
			latest = &r->holder[i].info;
	for (size_t i = latest->nepochs; i-- > 0;)
		if (latest->epochs[i].number > number)
			next_after = latest->epochs[i].after_timeline;
	if (next_after == UINT32_MAX)
		snprintf(why, len, "it is the newest");
	else if (next_after >= r->timeline)
		snprintf(why, len, "WAL of the present timeline %u is written under it", r->timeline);
	else if (lowest != 0 && lowest <= next_after)
		snprintf(why, len, "a standby streams timeline %u through the proxy", lowest);
	else if (r->use->epoch[number % KEYSET_MAX_EPOCHS].files > 0)
		snprintf(why, len, "%llu WAL files have pages under it, for example %s",
		         (unsigned long long)r->use->epoch[number % KEYSET_MAX_EPOCHS].files,
		         r->use->epoch[number % KEYSET_MAX_EPOCHS].first);
	else {
		for (size_t i = 0; i < r->nholders; i++)
			if (r->holder[i].info.epochs[r->holder[i].info.nepochs - 1].number <= number) {
				snprintf(why, len, "keyset \"%s\"%s%s has no later one", r->holder[i].name,
				         r->holder[i].datadir[0] != '\0' ? " in " : "", r->holder[i].datadir);
				return true;
			}
		return false;
	}
	return true;
}

static bool
has_epoch(const struct keydir_info *info, uint32_t number)
{
	for (size_t i = 0; i < info->nepochs; i++)
		if (info->epochs[i].number == number)
			return true;
	return false;
}

static int
holder_change(const struct retire *r, const struct holder *h, struct err *err)
{
	struct keyfolder_choice c = {.config = r->o->common.config,
	                             .keystore = r->keystore,
	                             .name = h->datadir[0] == '\0' ? h->name : NULL,
	                             .datadir = h->datadir};
	struct keyset *less = NULL;
	struct keyfolder f;
	int result = -1;

	if (keyfolder_open(&f, &c, true, err) == 0 && (less = keyset_without(f.keys, (uint32_t)r->o->epoch, err)) != NULL &&
	    (result = keyfolder_write(&f, less, err)) == 0)
		printf("%s: WAL key epoch %d is gone.\n", f.what, r->o->epoch);
	keyset_free(less);
	keyfolder_close(&f);
	return result;
}

/* Data directories first: one that has an epoch more than its keyset does no harm. */
static int
epoch_remove(const struct retire *r, struct err *err)
{
	bool changed = false;

	for (int keysets = 0; keysets < 2; keysets++)
		for (size_t i = 0; i < r->nholders; i++) {
			const struct holder *h = &r->holder[i];

			if ((h->datadir[0] == '\0') != keysets || !has_epoch(&h->info, (uint32_t)r->o->epoch))
				continue;
			if (holder_change(r, h, err) != 0) {
				if (changed)
					err->class = ERR_MIDWAY;
				return changed ? err_hint(err, "The same command does the rest.") : -1;
			}
			changed = true;
		}
	printf("Key backups and base backups from before still have it: they are for data of their time.\n");
	return 0;
}

static int
report_all(const struct retire *r, uint32_t lowest)
{
	for (size_t i = 0; i < r->info.nepochs; i++) {
		char why[2 * PATH_MAX];
		bool is = needed(r, r->info.epochs[i].number, lowest, why, sizeof(why));

		printf("WAL key epoch %u, %s: %s\n", r->info.epochs[i].number, r->info.epochs[i].id,
		       is ? why : "nothing that was looked at needs it");
	}
	return 0;
}

static int
epoch_retire(const struct retire *r, uint32_t lowest, struct err *err)
{
	char why[2 * PATH_MAX];
	bool known = false;

	for (size_t i = 0; i < r->nholders; i++)
		known = known || has_epoch(&r->holder[i].info, (uint32_t)r->o->epoch);
	if (!known)
		return err_set(err, ERR_USAGE, "there is no WAL key epoch %d", r->o->epoch);
	if (needed(r, (uint32_t)r->o->epoch, lowest, why, sizeof(why))) {
		err_set(err, ERR_REFUSED, "WAL key epoch %d is needed", r->o->epoch);
		return err_detail(err, "%.500s.", why);
	}
	if (r->nunseen > 0 && !r->o->yes) {
		err_set(err, ERR_REFUSED, "%zu places could not be looked at", r->nunseen);
		return err_hint(err, "Name their folders, or look yourself and give --yes.");
	}
	if (r->o->dry_run) {
		printf("WAL key epoch %d would be taken away. Nothing was changed.\n", r->o->epoch);
		return 0;
	}
	return epoch_remove(r, err);
}

static int
key_retire_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct key_retire_options *o = options;
	struct keydir_choice named = {.name = args[0], .config = o->common.config};
	char keystore[PATH_MAX], path[PATH_MAX];
	struct retire r = {.o = o, .keystore = keystore, .timeline = (uint32_t)o->timeline};
	uint32_t lowest;
	int lock = -1, result = -1;

	if (settings_find(o->common.config, true, &r.settings, err) != 0)
		return -1;
	if ((r.use = calloc(1, sizeof(*r.use))) == NULL) {
		err_nomem(err);
		goto done;
	}
	if (keystore_find(o->common.config, keystore, err) != 0 || (lock = keystore_lock(keystore, -1, err)) < 0 ||
	    keydir_named(&named, path, err) != 0 || keydir_read_info(path, &r.info, err) != 0)
		goto done;
	r.use->system_identifier = r.info.system_identifier;
	if (r.timeline == 0 && upstream_timeline(r.settings, r.info.system_identifier, &r.timeline, err) != 0)
		goto done;
	for (size_t i = 1; i < nargs; i++)
		if (epoch_use_look(args[i], r.use, err) != 0)
			goto done;
	if (holders_find(&r, err) != 0)
		goto done;
	lowest = proxy_lowest(&r);
	if (r.use->closed > 0) {
		printf("not looked at: %llu packed files, for example %s\n", (unsigned long long)r.use->closed,
		       r.use->closed_first);
		r.nunseen++;
	}
	printf("looked at: %llu WAL files\n", (unsigned long long)r.use->files);
	result = o->epoch == 0 ? report_all(&r, lowest) : epoch_retire(&r, lowest, err);
done:
	free(r.holder);
	free(r.use);
	settings_free(r.settings);
	if (lock >= 0)
		close(lock);
	return result;
}

const struct command command_key_retire = {
    .name = "key retire",
    .arguments = "NAME [FOLDER...] [--epoch NUMBER] [--timeline NUMBER] [--yes] [--dry-run]",
    .summary = "tell whether anything needs a WAL key epoch any more, and take it away",
    .more =
        "FOLDERs are archives, backups and data directories that the configuration does not name. It is about every "
        "keyset that shares NAME's WAL key.",
    .options = key_retire_defs,
    .style = OPTIONS_ALL,
    .min_args = 1,
    .max_args = 256,
    .run = key_retire_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct key_retire_options) <= COMMAND_OPTIONS_MAX, "options fit");
