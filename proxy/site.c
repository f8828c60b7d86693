#include "proxy/site.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "keymgr/audit.h"
#include "keymgr/provider.h"
#include "proxy/access.h"

static int
node_unlock(const struct site *site, struct site_node *node, struct err *err)
{
	const struct settings_kek *kek_settings = settings_kek(site->settings, node->settings->kek);
	struct kek_conf conf = {.terminal_fd = -1, .keep = true};
	char path[PATH_MAX];
	struct kek *kek;

	snprintf(path, sizeof(path), "%s/%s", site->settings->keystore, node->settings->keyset);
	kek_conf_set(&conf, kek_settings);
	if ((kek = keydir_kek(path, &conf, err)) == NULL)
		return err_context(err, "cluster key \"%s\"", kek_settings->name);
	node->keyset = keydir_open(path, kek, err);
	kek_free(kek);
	if (node->keyset == NULL)
		return err_context(err, "keyset \"%s\"", node->settings->keyset);
	if (keyset_system_identifier(node->keyset) == 0) {
		err_set(err, ERR_REFUSED, "keyset \"%s\" is not bound to a cluster", node->settings->keyset);
		return err_hint(err, "A keyset made by walcrypt-ctl key init is; this one is not fit to serve standbys.");
	}
	if (keydir_read_info(path, &node->info, err) != 0 || keydir_load_files(path, &node->files, err) != 0)
		return err_context(err, "keyset \"%s\"", node->settings->keyset);
	return 0;
}

/* The audit log tells who read which keys. That it cannot be written keeps nobody from serving standbys. */
static void
tell_opened(const struct site *site)
{
	const char *name[8];
	struct err err;
	size_t n = 0;

	for (size_t i = 0; i < site->settings->nnodes && n < sizeof(name) / sizeof(name[0]); i++)
		if (site->nodes[i].keyset != NULL)
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
		if (site->nodes[i].settings->keyset != NULL && node_unlock(site, &site->nodes[i], err) != 0)
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
		for (size_t i = 0; i < site->settings->nnodes; i++) {
			keyset_free(site->nodes[i].keyset);
			keydir_files_free(&site->nodes[i].files);
		}
	free(site->nodes);
	tls_free(site->tls);
	userlist_free(site->users);
	settings_free(site->settings);
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

bool
site_lists(char *const *users, const char *user)
{
	for (; users != NULL && *users != NULL; users++)
		if (strcmp(*users, user) == 0)
			return true;
	return false;
}
