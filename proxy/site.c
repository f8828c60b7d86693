#include "proxy/site.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "keymgr/audit.h"
#include "keymgr/provider.h"
#include "proxy/access.h"
#include "walcrypt/secmem.h"

static void
keys_unref(struct site_keys *keys)
{
	if (keys == NULL || --keys->refs > 0)
		return;
	keyset_free(keys->keyset);
	keydir_files_free(&keys->files);
	free(keys);
}

/* Into a node that has none. */
static void
keys_set(struct site_node *node, struct site_keys *keys)
{
	struct site_keys *none = NULL;

	if (!atomic_compare_exchange_strong(&node->keys, &none, keys))
		keys_unref(keys);
}

static int
keys_load(const struct site *site, const struct settings_node *n, struct site_keys *keys, struct err *err)
{
	const struct settings_kek *kek_settings = settings_kek(site->settings, n->kek);
	struct kek_conf conf = {.terminal_fd = -1, .keep = true};
	char path[PATH_MAX];
	struct kek *kek;

	snprintf(path, sizeof(path), "%s/%s", site->settings->keystore, n->keyset);
	kek_conf_set(&conf, kek_settings);
	if ((kek = keydir_kek(path, &conf, err)) == NULL)
		return err_context(err, "cluster key \"%s\"", kek_settings->name);
	keys->keyset = keydir_open(path, kek, err);
	kek_free(kek);
	if (keys->keyset == NULL)
		return err_context(err, "keyset \"%s\"", n->keyset);
	if (keyset_system_identifier(keys->keyset) == 0) {
		err_set(err, ERR_REFUSED, "keyset \"%s\" is not bound to a cluster", n->keyset);
		return err_hint(err, "A keyset made by walcrypt-ctl key init is; this one is not fit to serve standbys.");
	}
	if (keydir_read_info(path, &keys->info, err) != 0 || keydir_load_files(path, &keys->files, err) != 0)
		return err_context(err, "keyset \"%s\"", n->keyset);
	return 0;
}

static int
node_unlock(const struct site *site, struct site_node *node, struct err *err)
{
	struct site_keys *keys = calloc(1, sizeof(*keys));

	if (keys == NULL)
		return err_nomem(err);
	keys->refs = 1;
	if (keys_load(site, node->settings, keys, err) != 0) {
		keys_unref(keys);
		return -1;
	}
	keys_set(node, keys);
	return 0;
}

/* The keyset of a node with keyset = auto may not have been made yet. */
static bool
is_there(const struct site *site, const struct settings_node *n)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", site->settings->keystore, n->keyset);
	return !n->keyset_auto || keydir_exists(path);
}

/* The audit log tells who read which keys. That it cannot be written keeps nobody from serving standbys. */
static void
tell_opened(const struct site *site)
{
	const char *name[8];
	struct err err;
	size_t n = 0;

	for (size_t i = 0; i < site->settings->nnodes && n < sizeof(name) / sizeof(name[0]); i++)
		if (site_keys(&site->nodes[i]) != NULL)
			name[n++] = site->settings->nodes[i].keyset;
	if (n > 0 && audit_note(site->settings->audit_log, "proxy: keysets opened", name, n, &err) != 0)
		log_warning("%s", err.text);
}

struct site *
site_load(const char *conf_file, struct err *err)
{
	struct site *site = calloc(1, sizeof(*site));

	if (site == NULL) {
		err_nomem(err);
		return NULL;
	}
	site->refs = 1;
	if ((site->settings = settings_load(conf_file, err)) == NULL || site_check(site->settings, err) != 0)
		goto fail;
	if ((site->nodes = calloc(site->settings->nnodes + 1, sizeof(*site->nodes))) == NULL) {
		err_nomem(err);
		goto fail;
	}
	for (size_t i = 0; i < site->settings->nnodes; i++) {
		site->nodes[i].settings = &site->settings->nodes[i];
		if (site->nodes[i].settings->keyset != NULL && is_there(site, site->nodes[i].settings) &&
		    node_unlock(site, &site->nodes[i], err) != 0)
			goto fail;
	}
	if (access_load(site->settings, &site->tls, &site->users, err) != 0 ||
	    access_mock(site->settings, site->mock, err) != 0)
		goto fail;
	tell_opened(site);
	return site;
fail:
	site_unref(site);
	return NULL;
}

struct site *
site_ref(struct site *site)
{
	site->refs++;
	return site;
}

void
site_unref(struct site *site)
{
	if (site == NULL || --site->refs > 0)
		return;
	if (site->nodes != NULL)
		for (size_t i = 0; i < site->settings->nnodes; i++)
			keys_unref(site->nodes[i].keys);
	free(site->nodes);
	tls_free(site->tls);
	userlist_free(site->users);
	settings_free(site->settings);
	secmem_wipe(site->mock, sizeof(site->mock));
	free(site);
}

const struct site_node *
site_node(const struct site *site, const char *name)
{
	for (size_t i = 0; i < site->settings->nnodes; i++)
		if (strcmp(site->nodes[i].settings->name, name) == 0)
			return &site->nodes[i];
	return NULL;
}

const struct site_keys *
site_keys(const struct site_node *node)
{
	return node->keys;
}

const struct keyset *
site_keyset(const struct site_node *node)
{
	const struct site_keys *keys = site_keys(node);

	return keys != NULL ? keys->keyset : NULL;
}

bool
site_lacks_keys(const struct site_node *node)
{
	return node->settings->keyset != NULL && site_keys(node) == NULL;
}

int
site_open_keys(struct site *site, const struct site_node *node, struct err *err)
{
	const char *const name[] = {node->settings->keyset};
	struct err unrecorded;

	if (node_unlock(site, &site->nodes[node - site->nodes], err) != 0)
		return -1;
	if (audit_note(site->settings->audit_log, "proxy: keysets opened", name, 1, &unrecorded) != 0)
		log_warning("%s", unrecorded.text);
	return 0;
}

void
site_adopt(struct site *site, const struct site *other)
{
	for (size_t i = 0; i < site->settings->nnodes; i++) {
		struct site_node *node = &site->nodes[i];
		const struct site_node *same = site_node(other, node->settings->name);
		struct site_keys *keys = same != NULL ? same->keys : NULL;

		if (keys == NULL || !site_lacks_keys(node) || strcmp(node->settings->keyset, same->settings->keyset) != 0 ||
		    strcmp(site->settings->keystore, other->settings->keystore) != 0)
			continue;
		keys->refs++;
		keys_set(node, keys);
	}
}

bool
site_lists(char *const *users, const char *user)
{
	for (; users != NULL && *users != NULL; users++)
		if (strcmp(*users, user) == 0)
			return true;
	return false;
}
