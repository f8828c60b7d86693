/*
 * console: what the administrator may ask on database "walcrypt": SHOW STATUS, NODES, SESSIONS, VERSION, CONFIG, HELP
 * for admin_users and stats_users, RELOAD and SHUTDOWN for admin_users. All columns are text. docs/proxy.md has the
 * columns.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "proxy/session_intern.h"
#include "walcrypt/pgfile.h"

#define MAX_COLUMNS 24
#define CELL_MAX 512
#define POSTGRES_EPOCH_S 946684800 /* 2000-01-01 as seconds since 1970 */

struct table {
	struct session *s;
	size_t columns, rows;
	struct err err;
	int rc; /* -1 once out has no room */
};

static void
table_head(struct table *t, struct session *s, const char *const *names)
{
	struct message_field fields[MAX_COLUMNS];

	memset(t, 0, sizeof(*t));
	t->s = s;
	for (; names[t->columns] != NULL; t->columns++)
		fields[t->columns] = (struct message_field){names[t->columns], 25, -1};
	t->rc = message_row_description(&s->out, fields, t->columns, &t->err);
}

/* A NULL cell is NULL. */
static void
table_row(struct table *t, const char *const *cells)
{
	struct message_value values[MAX_COLUMNS];

	for (size_t i = 0; i < t->columns; i++)
		values[i] = (struct message_value){cells[i], cells[i] == NULL ? -1 : (int32_t)strlen(cells[i])};
	if (t->rc == 0)
		t->rc = message_data_row(&t->s->out, values, t->columns, &t->err);
	t->rows++;
}

static void
done(struct session *s, int rc, const char *tag, struct err *err)
{
	if (rc != 0 || message_command_complete(&s->out, tag, err) != 0)
		session_drop(s, err);
	else
		session_ready(s);
}

static void
table_end(struct table *t)
{
	done(t->s, t->rc, "SHOW", &t->err);
}

static void
pair(struct table *t, const char *name, const char *fmt, ...)
{
	char text[CELL_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	table_row(t, (const char *const[]){name, text});
}

static void
stamp(char *out, size_t len, time_t when)
{
	struct tm tm;

	gmtime_r(&when, &tm);
	strftime(out, len, "%Y-%m-%d %H:%M:%S UTC", &tm);
}

static void
show_status(struct session *s)
{
	struct proxy *p = s->proxy;
	struct table t;
	char when[40];

	table_head(&t, s, (const char *const[]){"name", "value", NULL});
	stamp(when, sizeof(when), p->started);
	pair(&t, "version", "%s", WALCRYPT_VERSION);
	pair(&t, "started", "%s", when);
	pair(&t, "uptime_s", "%lld", (long long)(time(NULL) - p->started));
	pair(&t, "config_file", "%s", s->site->settings->file);
	pair(&t, "keystore", "%s", s->site->settings->keystore);
	pair(&t, "auth_type", "%s", s->site->settings->auth_type);
	pair(&t, "workers", "%zu", p->nworkers);
	registry_lock(&p->registry);
	pair(&t, "sessions", "%zu", p->registry.n);
	registry_unlock(&p->registry);
	table_end(&t);
}

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

static void
show_nodes(struct session *s)
{
	struct table t;

	table_head(&t, s,
	           (const char *const[]){"name", "kind", "keyset", "kek", "method", "relation_key", "wal_key", "wal_epoch",
	                                 "system_identifier", "highest_timeline", "upstream", "sessions", "streaming",
	                                 NULL});
	for (size_t i = 0; i < s->site->settings->nnodes; i++) {
		const struct site_node *node = &s->site->nodes[i];
		const struct settings_node *set = node->settings;
		const struct keydir_info *info = &node->info;
		char id[24] = "", tli[16] = "", epoch[16] = "", n[24];
		bool streams, keys = node->keyset != NULL;

		snprintf(n, sizeof(n), "%zu", sessions_of(&s->proxy->registry, set->name, &streams));
		if (keys) {
			snprintf(id, sizeof(id), "%" PRIu64, keyset_system_identifier(node->keyset));
			snprintf(tli, sizeof(tli), "%" PRIu32,
			         timelines_highest(s->proxy->timelines, keyset_system_identifier(node->keyset)));
			snprintf(epoch, sizeof(epoch), "%" PRIu32, info->epochs[info->nepochs - 1].number);
		}
		table_row(&t, (const char *const[]){
		                  set->name, set->profile ? "profile" : "node", keys ? set->keyset : "none", set->kek,
		                  keys ? key_method_name(info->method) : NULL, keys ? info->relation_id : NULL,
		                  keys ? info->epochs[info->nepochs - 1].id : NULL, keys ? epoch : NULL, keys ? id : NULL,
		                  keys ? tli : NULL, set->conninfo != NULL ? "yes" : "no", n, streams ? "yes" : "no"});
	}
	table_end(&t);
}

static void
show_sessions(struct session *s)
{
	struct table t;
	struct registry *r = &s->proxy->registry;

	table_head(&t, s,
	           (const char *const[]){"id",        "node",        "application_name",    "client",         "state",
	                                 "command",   "upstream",    "upstream_pid",        "timeline",       "sent_lsn",
	                                 "write_lsn", "flush_lsn",   "replay_lsn",          "bytes_received", "bytes_sent",
	                                 "since",     "last_commit", "shutdown_checkpoint", "timeline_end",   NULL});
	registry_lock(r);
	for (const struct card *c = r->first; c != NULL; c = c->next) {
		char id[16], pid[16], tli[16], received[24], sent[24], since[40], commit[40];
		char lsn[6][LSN_TEXT_LEN];
		uint64_t at[6] = {c->sent, c->write, c->flush, c->apply, c->shutdown_checkpoint, c->timeline_end};
		int64_t committed = c->commit_time;
		bool up = c->upstream[0] != '\0';

		snprintf(id, sizeof(id), "%u", c->id);
		snprintf(pid, sizeof(pid), "%d", c->upstream_pid);
		snprintf(tli, sizeof(tli), "%" PRIu32, (uint32_t)c->tli);
		snprintf(received, sizeof(received), "%" PRIu64, (uint64_t)c->from_upstream);
		snprintf(sent, sizeof(sent), "%" PRIu64, (uint64_t)c->to_downstream);
		stamp(since, sizeof(since), c->since);
		stamp(commit, sizeof(commit), (time_t)(committed / 1000000 + POSTGRES_EPOCH_S));
		for (int i = 0; i < 6; i++)
			lsn_format(lsn[i], at[i]);
		table_row(&t, (const char *const[]){
		                  id, c->node, c->application, c->peer, c->state, c->command[0] != '\0' ? c->command : NULL,
		                  up ? c->upstream : NULL, up ? pid : NULL, c->tli != 0 ? tli : NULL,
		                  at[0] != 0 ? lsn[0] : NULL, at[1] != 0 ? lsn[1] : NULL, at[2] != 0 ? lsn[2] : NULL,
		                  at[3] != 0 ? lsn[3] : NULL, received, sent, since, committed != 0 ? commit : NULL,
		                  at[4] != 0 ? lsn[4] : NULL, at[5] != 0 ? lsn[5] : NULL});
	}
	registry_unlock(r);
	table_end(&t);
}

static void
show_version(struct session *s)
{
	struct table t;

	table_head(&t, s, (const char *const[]){"version", NULL});
	table_row(&t, (const char *const[]){"walcrypt-proxy " WALCRYPT_VERSION});
	table_end(&t);
}

/* A global option's value as text. Node and kek sections have their own view, SHOW NODES. */
static const char *
option_text(const struct settings *set, const struct settings_option *o, char *buf, size_t len)
{
	const void *field = (const char *)set + o->offset;
	char *const *list;
	size_t used = 0;

	switch (o->kind) {
	case SETTING_TEXT:
	case SETTING_PATH:
	case SETTING_NAME:
		return *(char *const *)field;
	case SETTING_LIST:
		buf[0] = '\0';
		for (list = *(char **const *)field; list != NULL && *list != NULL && used < len; list++)
			used += (size_t)snprintf(buf + used, len - used, "%s%s", used > 0 ? ", " : "", *list);
		return buf;
	case SETTING_BOOL:
		return *(const bool *)field ? "on" : "off";
	case SETTING_LOG_LEVEL: {
		static const char *const levels[] = {"debug", "info", "notice", "warning", "error", "fatal"};

		return levels[*(const enum log_level *)field];
	}
	case SETTING_MS:
		snprintf(buf, len, "%dms", *(const int *)field);
		return buf;
	case SETTING_SECONDS:
		snprintf(buf, len, "%ds", *(const int *)field);
		return buf;
	case SETTING_NUMBER:
		snprintf(buf, len, "%d", *(const int *)field);
		return buf;
	}
	return NULL;
}

static void
show_config(struct session *s)
{
	struct table t;
	char text[CELL_MAX];

	table_head(&t, s, (const char *const[]){"name", "value", "default", "description", NULL});
	for (size_t i = 0; i < settings_noptions; i++) {
		const struct settings_option *o = &settings_options[i];

		if (strcmp(o->section, "walcrypt") == 0)
			table_row(&t, (const char *const[]){o->name, option_text(s->site->settings, o, text, sizeof(text)), o->def,
			                                    o->help});
	}
	table_end(&t);
}

static void show_help(struct session *s);

static void
reload(struct session *s)
{
	struct err err = {0};

	s->proxy->ask_reload(s->proxy);
	done(s, 0, "RELOAD", &err);
}

static void
stop(struct session *s)
{
	struct err err = {0};

	s->proxy->ask_stop(s->proxy);
	done(s, 0, "SHUTDOWN", &err);
}

static const struct {
	const char *text;
	bool admin;
	void (*run)(struct session *s);
	const char *help;
} queries[] = {
    {"SHOW STATUS", false, show_status, "the proxy itself"},
    {"SHOW NODES", false, show_nodes, "nodes and profiles, their keys' ids, what is known of their clusters"},
    {"SHOW SESSIONS", false, show_sessions, "connections and how far each one is"},
    {"SHOW VERSION", false, show_version, "the program's version"},
    {"SHOW CONFIG", false, show_config, "the options of [walcrypt]"},
    {"SHOW HELP", false, show_help, "this"},
    {"RELOAD", true, reload, "read the configuration and the keystore again; the log says what came of it"},
    {"SHUTDOWN", true, stop, "end all sessions and the proxy"},
};
#define NQUERIES (sizeof(queries) / sizeof(queries[0]))

static void
show_help(struct session *s)
{
	struct table t;

	table_head(&t, s, (const char *const[]){"query", "description", NULL});
	for (size_t i = 0; i < NQUERIES; i++)
		table_row(&t, (const char *const[]){queries[i].text, queries[i].help});
	table_end(&t);
}

/* Upper case, one blank between words, no semicolon at the end. */
static void
normalise(const char *text, char *out, size_t len)
{
	size_t used = 0;

	for (; *text != '\0' && used + 1 < len; text++) {
		if (isspace((unsigned char)*text) || *text == ';') {
			if (used > 0 && out[used - 1] != ' ')
				out[used++] = ' ';
		} else
			out[used++] = (char)toupper((unsigned char)*text);
	}
	while (used > 0 && out[used - 1] == ' ')
		used--;
	out[used] = '\0';
}

void
console_query(struct session *s, const char *text)
{
	char query[128];
	struct err err = {0};

	normalise(text, query, sizeof(query));
	for (size_t i = 0; i < NQUERIES; i++) {
		if (strcmp(query, queries[i].text) != 0)
			continue;
		if (!queries[i].admin || s->admin) {
			queries[i].run(s);
			return;
		}
		err_set(&err, ERR_REFUSED, "user \"%s\" may look at the console, not change anything", s->startup.user);
		err_sqlstate(&err, "42501");
		err_hint(&err, "List the user in admin_users.");
		session_refuse(s, &err);
		return;
	}
	if (query[0] == '\0') {
		if (message_empty_query(&s->out, &err) != 0)
			session_drop(s, &err);
		else
			session_ready(s);
		return;
	}
	err_set(&err, ERR_REFUSED, "unknown query on walcrypt's console");
	err_sqlstate(&err, "42601");
	err_hint(&err, "SHOW HELP lists what there is.");
	session_refuse(s, &err);
}
