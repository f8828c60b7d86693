#include "ctl/epoch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/keydir_choice.h"
#include "ctl/keyfolder.h"
#include "ctl/layer.h"
#include "ctl/upstream.h"
#include "keymgr/keygen.h"
#include "keymgr/keystore.h"

struct staging {
	const struct epoch_stage *s;
	struct settings *settings; /* NULL: -D without a configuration file */
	struct keyfolder *folder;  /* those to be changed, locked */
	size_t nfolders, room;
	struct keyset *all; /* the first one's keys, and every later epoch that another one has */
	uint32_t timeline;
};

static int
all_take(struct staging *g, const struct keyfolder *f, struct err *err)
{
	struct keyset *more;

	if (g->all == NULL)
		return (g->all = keyset_merge(f->keys, f->keys, 0, err)) != NULL ? 0 : -1;
	if (keyset_system_identifier(g->all) != keyset_system_identifier(f->keys) ||
	    !keyset_shares_wal_key(g->all, f->keys)) {
		err_set(err, ERR_REFUSED, "%.100s and %.100s have no WAL key in common", g->folder[0].what, f->what);
		return err_hint(err, "Only keysets that share their WAL key get one new epoch together.");
	}
	if ((more = keyset_merge(g->all, f->keys, 0, err)) == NULL)
		return err_context(err, "%.100s", f->what);
	keyset_free(g->all);
	g->all = more;
	return 0;
}

static int
folder_add(struct staging *g, const struct keyfolder_choice *c, struct err *err)
{
	struct keyfolder *f = &g->folder[g->nfolders++];

	return keyfolder_open(f, c, true, err) != 0 ? -1 : all_take(g, f, err);
}

/* Is it among those that we hold locked already? */
static bool
is_held(const struct staging *g, const char *path)
{
	for (size_t i = 0; i < g->nfolders; i++)
		if (strcmp(g->folder[i].path, path) == 0)
			return true;
	return false;
}

/* The timeline that a data directory says it is on. */
static void
timeline_of(struct staging *g, const char *datadir)
{
	struct datadir_control control;
	struct err ignored;

	if (g->s->timeline != 0 || datadir_control_read(datadir, &control, &ignored) != 0)
		return;
	if (control.tli > g->timeline)
		g->timeline = control.tli;
	if (control.min_recovery_tli > g->timeline)
		g->timeline = control.min_recovery_tli;
}

/* The data directories of a keyset's nodes, if they are here and under its relation key: server and proxy must agree.
 */
static int
datadirs_add(struct staging *g, const char *name, const char *relation_id, struct err *err)
{
	for (size_t i = 0; i < g->settings->nnodes; i++) {
		const struct settings_node *n = &g->settings->nodes[i];
		struct keyfolder_choice c = {.config = g->s->config};
		char datadir[PATH_MAX], keydir[PATH_MAX];
		struct keydir_info info;
		struct err ignored;

		if (n->keyset == NULL || strcmp(n->keyset, name) != 0 || n->datadir == NULL ||
		    path_absolute(datadir, n->datadir, &ignored) != 0 ||
		    path_format(keydir, &ignored, "%s/pg_cryptokeys", datadir) != 0 || !keydir_exists(keydir) ||
		    is_held(g, keydir))
			continue;
		if (keydir_read_info(keydir, &info, err) != 0)
			return -1;
		if (strcmp(info.relation_id, relation_id) != 0) {
			printf("data directory \"%s\": left as it is, under relation key %s.\n", datadir, info.relation_id);
			continue;
		}
		timeline_of(g, datadir);
		c.datadir = datadir;
		if (folder_add(g, &c, err) != 0)
			return -1;
	}
	return 0;
}

/* Is a later epoch than ours known to another keyset of the keystore? Take it along: there must not be two of a number.
 */
static int
relatives_take(struct staging *g, const char *keystore, struct err *err)
{
	struct keystore_names names;
	int result = keystore_names(keystore, &names, err);

	for (size_t i = 0; result == 0 && i < names.n; i++) {
		const struct keyset_epoch *last = keyset_epoch_at(g->all, keyset_nepochs(g->all) - 1);
		struct keyfolder_choice c = {.config = g->s->config, .keystore = keystore, .name = names.name[i]};
		struct keydir_info info;
		char path[PATH_MAX];
		struct keyfolder f;

		if ((result = path_format(path, err, "%s/%s", keystore, names.name[i])) != 0 || is_held(g, path) ||
		    (result = keydir_read_info(path, &info, err)) != 0 ||
		    info.system_identifier != keyset_system_identifier(g->all) ||
		    info.epochs[info.nepochs - 1].number <= last->number)
			continue;
		if ((result = keyfolder_open(&f, &c, false, err)) == 0 && keyset_shares_wal_key(g->all, f.keys))
			result = all_take(g, &f, err);
		keyfolder_close(&f);
	}
	keystore_names_free(&names);
	return result;
}

/* With -D alone: a keyset of the keystore with this relation key would be left behind. */
static int
check_no_keyset(struct staging *g, struct err *err)
{
	struct keystore_names names = {0};
	const char *keystore = g->settings != NULL ? g->settings->keystore : NULL;
	struct keydir_info info;
	char path[PATH_MAX];
	int result = 0;

	if (keystore == NULL || access(keystore, F_OK) != 0)
		return 0;
	result = keystore_names(keystore, &names, err);
	for (size_t i = 0; result == 0 && i < names.n; i++) {
		if ((result = path_format(path, err, "%s/%s", keystore, names.name[i])) != 0 ||
		    (result = keydir_read_info(path, &info, err)) != 0 ||
		    strcmp(info.relation_id, g->folder[0].info.relation_id) != 0)
			continue;
		err_set(err, ERR_REFUSED, "the keys in \"%.100s\" are those of keyset \"%.63s\"", g->s->datadir, names.name[i]);
		result =
		    err_hint(err, "Both need the epoch: walcrypt-ctl key new-epoch %.63s, then walcrypt-ctl key sync -D DIR",
		             names.name[i]);
	}
	keystore_names_free(&names);
	return result;
}

static int
folders_find(struct staging *g, const char *keystore, struct err *err)
{
	struct keyfolder_choice c = {
	    .config = g->s->config, .keystore = keystore, .kek = g->s->kek, .provider_random = g->s->provider_random};

	g->room = g->s->nnames + 1 + (g->settings != NULL ? g->settings->nnodes * (g->s->nnames + 1) : 0);
	if ((g->folder = calloc(g->room, sizeof(*g->folder))) == NULL)
		return err_nomem(err);
	c.makes_keys = true;
	if (g->s->nnames == 0) {
		timeline_of(g, g->s->datadir);
		c.datadir = g->s->datadir;
		return folder_add(g, &c, err) != 0 ? -1 : check_no_keyset(g, err);
	}
	for (size_t i = 0; i < g->s->nnames; i++) {
		struct keydir_choice named = {.name = c.name = g->s->names[i], .config = g->s->config};
		char path[PATH_MAX];

		for (size_t j = 0; j < i; j++)
			if (strcmp(g->s->names[j], c.name) == 0)
				return err_set(err, ERR_USAGE, "keyset \"%.63s\" is named twice", c.name);
		if (keydir_named(&named, path, err) != 0 || folder_add(g, &c, err) != 0 ||
		    datadirs_add(g, c.name, g->folder[g->nfolders - 1].info.relation_id, err) != 0)
			return -1;
		c.makes_keys = false; /* they get the same one */
	}
	return relatives_take(g, keystore, err);
}

/* The epoch to be staged becomes the last one of g->all. */
static int
epoch_choose(struct staging *g, struct err *err)
{
	const struct keyset_epoch *last = keyset_epoch_at(g->all, keyset_nepochs(g->all) - 1);
	char id[KEY_ID_HEX_LEN];
	struct keyset *more;
	uint32_t asked = 0;
	struct err unknown;
	bool fresh;

	if (g->s->timeline != 0)
		g->timeline = g->s->timeline;
	else if (g->s->nnames > 0 &&
	         upstream_timeline(g->settings, keyset_system_identifier(g->all), &asked, &unknown) != 0 &&
	         g->timeline == 0) {
		*err = unknown;
		return -1;
	}
	if (asked > g->timeline)
		g->timeline = asked;
	if (g->timeline == 0) {
		err_set(err, ERR_FAILED, "the present timeline is not known");
		return err_hint(err, "Give --timeline NUMBER.");
	}
	if ((fresh = last->after_timeline < g->timeline)) {
		if ((more = keyset_extend(g->all, g->timeline, err)) == NULL)
			return -1;
		keyset_free(g->all);
		g->all = more;
		last = keyset_epoch_at(g->all, keyset_nepochs(g->all) - 1);
	}
	if (key_id_hex(last->key.bytes, (size_t)last->key.len, id, err) != 0)
		return -1;
	printf("WAL key epoch %u, %s, for timelines after %u%s.\n", last->number, id, last->after_timeline,
	       fresh ? "" : ": it is staged already");
	return 0;
}

static int
folders_write(struct staging *g, struct err *err)
{
	bool changed = false;

	for (size_t i = 0; i < g->nfolders; i++) {
		struct keyfolder *f = &g->folder[i];
		const struct keyset_epoch *last = keyset_epoch_at(f->keys, keyset_nepochs(f->keys) - 1);
		struct keyset *more = keyset_merge(f->keys, g->all, last->number, err);
		int result = more != NULL ? 0 : -1;

		if (result == 0 && keyset_nepochs(more) > keyset_nepochs(f->keys))
			result = keyfolder_write(f, more, err);
		if (result == 0)
			printf("%s: %s.\n", f->what, keyset_nepochs(more) > keyset_nepochs(f->keys) ? "has it now" : "had it");
		changed = changed || (result == 0 && keyset_nepochs(more) > keyset_nepochs(f->keys));
		keyset_free(more);
		if (result != 0 && changed) {
			err->class = ERR_MIDWAY;
			err_context(err, "%.100s", f->what);
		}
		if (result != 0)
			return -1;
	}
	if (changed)
		printf(
		    "A promotion takes it into use. Until then let the proxy read its keystore again (SIGHUP), and restart the "
		    "servers that have it now\n"
		    "and run already; servers without it get the WAL under an earlier epoch, translated by the proxy.\n");
	return 0;
}

int
epoch_stage(const struct epoch_stage *s, struct err *err)
{
	struct staging g = {.s = s};
	char keystore[PATH_MAX] = "";
	int lock = -1, result = -1;

	if (settings_find(s->config, s->nnames > 0, &g.settings, err) != 0 ||
	    (s->nnames > 0 &&
	     (keystore_find(s->config, keystore, err) != 0 || (lock = keystore_lock(keystore, -1, err)) < 0)))
		goto done;
	if (folders_find(&g, keystore, err) == 0 && epoch_choose(&g, err) == 0)
		result = folders_write(&g, err);
done:
	for (size_t i = 0; i < g.nfolders; i++)
		keyfolder_close(&g.folder[i]);
	free(g.folder);
	keyset_free(g.all);
	settings_free(g.settings);
	if (lock >= 0)
		close(lock);
	return result;
}
