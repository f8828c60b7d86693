/* show_site: the proxy itself, its nodes and its configuration. */
#include <inttypes.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <string.h>

#include "proxy/shows_intern.h"

static const char *const pair_columns[] = {"name", "value", NULL};

static int
fill_status(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	char paused[512];

	(void)err;
	table_text(t, "version");
	table_text(t, WALCRYPT_VERSION);
	table_text(t, "started");
	table_time(t, p->started);
	table_text(t, "uptime_s");
	table_number(t, (uint64_t)(time(NULL) - p->started));
	table_text(t, "config_file");
	table_text(t, site->settings->file);
	table_text(t, "keystore");
	table_text(t, site->settings->keystore);
	table_text(t, "auth_type");
	table_text(t, site->settings->auth_type);
	table_text(t, "certificate_expires");
	table_time(t, site->tls != NULL ? tls_expiry(site->tls) : 0);
	table_text(t, "workers");
	table_number(t, p->nworkers);
	table_text(t, "sessions");
	registry_lock(&p->registry);
	table_number(t, p->registry.n);
	registry_unlock(&p->registry);
	pause_text(p->pause, paused, sizeof(paused));
	table_text(t, "paused");
	table_text(t, paused);
	return 0;
}

const struct show show_status = {"STATUS", "the proxy itself", pair_columns, fill_status};

/* Sessions of a node, and whether one of them streams. */
static size_t
sessions_of(struct registry *r, const char *node, bool *streams)
{
	size_t n = 0;

	*streams = false;
	registry_lock(r);
	for (const struct card *c = r->first; c != NULL; c = c->next)
		if (strcmp(c->node, node) == 0) {
			n++;
			*streams = *streams || strcmp(c->state, "stream") == 0;
		}
	registry_unlock(r);
	return n;
}

static const char *const node_columns[] = {"name",
                                           "kind",
                                           "keyset",
                                           "kek",
                                           "method",
                                           "relation_key",
                                           "wal_key",
                                           "wal_epoch",
                                           "system_identifier",
                                           "highest_timeline",
                                           "upstream",
                                           "sessions",
                                           "streaming",
                                           "paused",
                                           NULL};

static int
fill_nodes(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	(void)err;
	for (size_t i = 0; i < site->settings->nnodes; i++) {
		const struct site_node *node = &site->nodes[i];
		const struct settings_node *set = node->settings;
		const struct site_keys *keys = site_keys(node);
		bool streams;
		size_t n = sessions_of(&p->registry, set->name, &streams);

		table_text(t, set->name);
		table_text(t, set->profile ? "profile" : "node");
		table_text(t, set->keyset != NULL ? set->keyset : "none");
		table_text(t, set->kek);
		if (keys != NULL) {
			const struct keydir_info *info = &keys->info;
			uint64_t system = keyset_system_identifier(keys->keyset);

			table_text(t, key_method_name(info->method));
			table_text(t, info->relation_id);
			table_text(t, info->epochs[info->nepochs - 1].id);
			table_number(t, info->epochs[info->nepochs - 1].number);
			table_number(t, system);
			table_number(t, timelines_highest(p->timelines, system));
		} else
			for (int k = 0; k < 6; k++)
				table_text(t, NULL);
		table_text(t, set->conninfo != NULL ? "yes" : "no");
		table_number(t, n);
		table_text(t, streams ? "yes" : "no");
		table_text(t, pause_holds(p->pause, set->name) ? "yes" : "no");
	}
	return 0;
}

const struct show show_nodes = {"NODES", "nodes and profiles, their keys' ids, what is known of their clusters",
                                node_columns, fill_nodes};

static const char *const version_columns[] = {"version", NULL};

static int
fill_version(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	(void)p;
	(void)site;
	(void)err;
	table_text(t, "walcrypt-proxy " WALCRYPT_VERSION);
	return 0;
}

const struct show show_version = {"VERSION", "the program's version", version_columns, fill_version};

/* A connection string without its passwords, and without the keys that are as good as one (scram_client_key of libpq
 * 18). */
static void
conninfo_cell(struct table *t, const char *conninfo)
{
	PQconninfoOption *options = conninfo != NULL ? PQconninfoParse(conninfo, NULL) : NULL;
	char text[512] = "";
	size_t used = 0;

	for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL && used < sizeof(text); o++)
		if (o->val != NULL)
			used +=
			    (size_t)snprintf(text + used, sizeof(text) - used, "%s%s=%s", used > 0 ? " " : "", o->keyword,
			                     o->dispchar[0] == '*' || strncmp(o->keyword, "scram_", 6) == 0 ? "********" : o->val);
	PQconninfoFree(options);
	table_text(t, conninfo != NULL ? text : NULL);
}

/* A global option's value as text. Node and kek sections have their own view, SHOW NODES. */
static void
option_cell(struct table *t, const struct settings *set, const struct settings_option *o)
{
	static const char *const levels[] = {"debug", "info", "notice", "warning", "error", "fatal"};
	const void *field = (const char *)set + o->offset;
	char list[512] = "";
	size_t used = 0;

	if (field == &set->auth_conninfo) {
		conninfo_cell(t, set->auth_conninfo);
		return;
	}
	switch (o->kind) {
	case SETTING_TEXT:
	case SETTING_PATH:
	case SETTING_NAME:
		table_text(t, *(char *const *)field);
		break;
	case SETTING_LIST:
		for (char *const *p = *(char **const *)field; p != NULL && *p != NULL && used < sizeof(list); p++)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "", *p);
		table_text(t, list);
		break;
	case SETTING_BOOL:
		table_text(t, *(const bool *)field ? "on" : "off");
		break;
	case SETTING_LOG_LEVEL:
		table_text(t, levels[*(const enum log_level *)field]);
		break;
	case SETTING_MS:
		table_print(t, "%dms", *(const int *)field);
		break;
	case SETTING_SECONDS:
		table_print(t, "%ds", *(const int *)field);
		break;
	case SETTING_NUMBER:
		table_print(t, "%d", *(const int *)field);
		break;
	}
}

static const char *const config_columns[] = {"name", "value", "default", "description", NULL};

static int
fill_config(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	(void)p;
	(void)err;
	for (size_t i = 0; i < settings_noptions; i++) {
		const struct settings_option *o = &settings_options[i];

		if (strcmp(o->section, "walcrypt") != 0)
			continue;
		table_text(t, o->name);
		option_cell(t, site->settings, o);
		table_text(t, o->def);
		table_text(t, o->help);
	}
	return 0;
}

const struct show show_config = {"CONFIG", "the options of [walcrypt]", config_columns, fill_config};
