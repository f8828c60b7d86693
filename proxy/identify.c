/*
 * identify: who a client says it is, and whether that one may have what the connection is for. What depends on the
 * user's name is decided before the authentication and told after it: until then an unknown name looks like a known
 * one.
 */
#include <string.h>
#include <strings.h>

#include "proxy/session_intern.h"
#include "replication/startup_options.h"

bool
session_is_local(const struct session *s)
{
	return s->peer.addr.ss_family == AF_UNIX;
}

static bool
wants_console(const struct session *s)
{
	const struct startup *st = &s->startup;

	return st->replication == STARTUP_REPLICATION_NONE && st->database != NULL &&
	       strcmp(st->database, "walcrypt") == 0 && s->peer.door[0] == '\0';
}

static int
no_sql(const struct session *s, struct err *err)
{
	const struct startup *st = &s->startup;

	err_set(err, ERR_REFUSED, "this is walcrypt-proxy: it takes replication connections only");
	err_sqlstate(err, "0A000");
	err_detail(err, "The connection asked for database \"%s\".", st->database == NULL ? st->user : st->database);
	return err_hint(
	    err, "Connect to the PostgreSQL server itself for SQL; to database \"walcrypt\" for the proxy's console.");
}

static bool
any_slotsync(const struct settings *settings)
{
	for (size_t i = 0; i < settings->nnodes; i++)
		if (settings->nodes[i].slotsync)
			return true;
	return false;
}

int
identify_purpose(struct session *s, struct err *err)
{
	const struct startup *st = &s->startup;

	if (s->site->settings->tls >= SETTINGS_TLS_REQUIRE && s->channel.ssl == NULL && !session_is_local(s)) {
		err_set(err, ERR_REFUSED, "TLS is required");
		err_sqlstate(err, "28000");
		return err_hint(err, "Set sslmode=verify-full, or at least require, in the connection string.");
	}
	/* the listener sees to it, but one that was opened under another auth_type, before a reload, does not */
	if (s->site->settings->auth == SETTINGS_TRUST && !address_is_loopback((const struct sockaddr *)&s->peer.addr)) {
		err_set(err, ERR_REFUSED, "auth_type is trust, which is for loopback and Unix sockets only");
		return err_sqlstate(err, "28000");
	}
	s->console = wants_console(s);
	if (s->console)
		return 0;
	s->slotsync = st->replication == STARTUP_REPLICATION_NONE && st->database != NULL;
	/* where a node may send such queries, whether this one may is told after the authentication */
	if (st->replication == STARTUP_REPLICATION_NONE && (!s->slotsync || !any_slotsync(s->site->settings)))
		return no_sql(s, err);
	if (st->replication == STARTUP_REPLICATION_DATABASE) {
		err_set(err, ERR_REFUSED, "walcrypt-proxy does not carry logical replication");
		err_sqlstate(err, "0A000");
		return err_hint(err,
		                "Connect with replication=true for physical replication, or to the PostgreSQL server itself.");
	}
	return startup_options_filter(st->options, &s->options, err);
}

static int
console_user(struct session *s, struct err *err)
{
	const struct settings *settings = s->site->settings;

	s->admin = site_lists(settings->admin_users, s->startup.user);
	if (s->admin || site_lists(settings->stats_users, s->startup.user))
		return 0;
	err_set(err, ERR_REFUSED, "user \"%s\" may not use walcrypt's console", s->startup.user);
	err_sqlstate(err, "42501");
	return err_hint(err, "List the user in admin_users or stats_users, and have the proxy read them (SIGHUP).");
}

/* On a port of a node's own: who may be taken for it. */
static bool
door_lets_in(const struct settings *settings, const char *door, const char *user)
{
	for (size_t i = 0; i < settings->nlistens; i++)
		if (strcmp(settings->listens[i].name, door) == 0 && settings->listens[i].users != NULL)
			return site_lists(settings->listens[i].users, user);
	return strcmp(door, user) == 0;
}

static bool
comes_from(const struct settings_node *n, const struct peer *peer)
{
	for (size_t i = 0; i < n->naddr; i++)
		if (address_range_has(&n->addr[i], (const struct sockaddr *)&peer->addr))
			return true;
	return n->naddr == 0;
}

int
identify_user(struct session *s, struct err *err)
{
	const char *user = s->startup.user, *door = s->peer.door;

	if (s->console)
		return console_user(s, err);
	s->node = site_node(s->site, door[0] != '\0' ? door : user);
	if (door[0] != '\0' && (s->node == NULL || !door_lets_in(s->site->settings, door, user))) {
		err_set(err, ERR_REFUSED, "user \"%s\" may not connect to the port of \"%s\"", user, door);
		err_sqlstate(err, "28000");
		return err_hint(err, "List the user in users of [listen %s].", door);
	}
	if (s->node == NULL) {
		err_set(err, ERR_REFUSED, "there is no node or profile \"%s\" in walcrypt-proxy's configuration", user);
		err_sqlstate(err, "28000");
		return err_hint(
		    err, "The user's name says which node or profile it is: set user in the connection string to one of them.");
	}
	if (!comes_from(s->node->settings, &s->peer)) {
		err_set(err, ERR_REFUSED, "\"%s\" may not connect from %s", s->node->settings->name, s->peer.text);
		err_sqlstate(err, "28000");
		return err_hint(err, "Its section's allow_addr lists where from.");
	}
	return 0;
}

int
identify_permit(const struct session *s, struct err *err)
{
	bool open = s->channel.ssl == NULL && !address_is_loopback((const struct sockaddr *)&s->peer.addr);

	if (open && (s->console || !s->node->settings->allow_plaintext)) {
		err_set(err, ERR_REFUSED, "a connection over a network needs TLS");
		err_sqlstate(err, "28000");
		err_detail(err, "The client is at %s.", s->peer.text);
		return s->console
		           ? -1
		           : err_hint(err, "If it is meant to do without, set allow_plaintext = on in the section of \"%s\".",
		                      s->node->settings->name);
	}
	if (s->slotsync && !s->node->settings->slotsync)
		return no_sql(s, err);
	if (s->console || s->node->settings->keyset != NULL || s->node->settings->allow_clear)
		return 0;
	err_set(err, ERR_REFUSED, "node \"%s\" is clear: what it takes would leave the proxy unencrypted",
	        s->node->settings->name);
	err_sqlstate(err, "28000");
	return err_hint(err, "If that is meant, set allow_clear = on in its section.");
}

/* The upstream answers under its conninfo's role, which for base backups may read settings that hold passwords, as
 * primary_conninfo. Who may take base backups gets the files that they stand in; who may not is shown what
 * pg_receivewal and a proxy behind this one ask, and what every client is told. */
static bool
is_harmless(const char *setting)
{
	static const char *const names[] = {
	    "wal_segment_size", "data_directory_mode", "block_size",     "wal_block_size",     "segment_size",
	    "data_checksums",   "wal_sender_timeout",  "server_version", "server_version_num", "in_hot_standby"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcasecmp(setting, names[i]) == 0)
			return true;
	return false;
}

int
identify_command(const struct session *s, struct err *err)
{
	static const struct {
		enum command_kind kind;
		enum settings_command needs;
		const char *word;
	} needs[] = {
	    {COMMAND_BASE_BACKUP, SETTINGS_BACKUP, "backup"},    {COMMAND_UPLOAD_MANIFEST, SETTINGS_BACKUP, "backup"},
	    {COMMAND_START_PHYSICAL, SETTINGS_STREAM, "stream"}, {COMMAND_TIMELINE_HISTORY, SETTINGS_STREAM, "stream"},
	    {COMMAND_CREATE_SLOT, SETTINGS_SLOTS, "slots"},      {COMMAND_DROP_SLOT, SETTINGS_SLOTS, "slots"},
	    {COMMAND_READ_SLOT, SETTINGS_SLOTS, "slots"},        {COMMAND_ALTER_SLOT, SETTINGS_SLOTS, "slots"}};
	const struct settings_node *n = s->node->settings;

	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
		if (needs[i].kind == s->command.kind && (n->commands & needs[i].needs) == 0) {
			err_set(err, ERR_REFUSED, "\"%s\" may not use %s", n->name, command_name(s->command.kind));
			err_sqlstate(err, "42501");
			return err_hint(err, "allow_commands of its section has no \"%s\".", needs[i].word);
		}
	if (s->command.kind == COMMAND_SHOW && (n->commands & SETTINGS_BACKUP) == 0 && !is_harmless(s->command.name)) {
		err_set(err, ERR_REFUSED, "\"%s\" may not see the upstream's setting \"%s\"", n->name, s->command.name);
		err_sqlstate(err, "42501");
		return err_hint(err, "allow_commands of its section has no \"backup\".");
	}
	return 0;
}
