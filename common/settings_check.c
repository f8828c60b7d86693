/* settings_check: what no single value of walcrypt.ini shows. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/settings_intern.h"

static bool
is_loopback(const char *addr)
{
	struct in_addr v4;

	if (inet_pton(AF_INET, addr, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return strcmp(addr, "::1") == 0 || strcmp(addr, "localhost") == 0;
}

static int
check_kek(const struct settings *s, const struct settings_node *n, struct err *err)
{
	char known[200] = "";
	size_t used = 0;

	if (n->kek == NULL || settings_kek(s, n->kek) != NULL)
		return 0;
	settings_error(s, n->profile ? "profile" : "node", n->name, "kek", err, "there is no [kek %s]", n->kek);
	for (size_t i = 0; i < s->nkeks && used < sizeof(known); i++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", s->keks[i].name);
	return s->nkeks == 0 ? err_hint(err, "The file has no [kek ...] section.") : err_hint(err, "Known are: %s.", known);
}

/* The node that this one is told to stream from. */
static int
check_upstream(const struct settings *s, const struct settings_node *n, struct err *err)
{
	const char *kind = n->profile ? "profile" : "node";
	const struct settings_node *up;

	if (n->upstream == NULL)
		return 0;
	up = settings_node(s, n->upstream);
	if (up == NULL || up->profile) {
		settings_error(s, kind, n->name, "upstream", err, "there is no [node %s]", n->upstream);
		return err_hint(err, "upstream is the name of a [node ...] with a conninfo.");
	}
	if (up == n)
		return settings_error(s, kind, n->name, "upstream", err, "node \"%s\" cannot stream from itself", n->name);
	if (up->conninfo == NULL) {
		settings_error(s, kind, n->name, "upstream", err, "[node %s] has no conninfo", n->upstream);
		return err_hint(err, "Say there how the server is reached.");
	}
	return 0;
}

/* Who connects as a node must not be the console's user too: the one's credentials would open the other. */
static int
check_users(const struct settings *s, const char *option, char *const *users, struct err *err)
{
	for (; users != NULL && *users != NULL; users++)
		if (settings_node(s, *users) != NULL) {
			settings_error(s, "walcrypt", NULL, option, err, "\"%s\" in %s is the name of a node or profile", *users,
			               option);
			return err_hint(err, "Give the console's users names of their own.");
		}
	return 0;
}

static int
check_listen(const struct settings *s, struct err *err)
{
	if (strcmp(s->auth_type, "trust") != 0)
		return settings_error(s, "walcrypt", NULL, "auth_type", err,
		                      "auth_type \"%s\" is not known; this version has trust", s->auth_type);
	if (s->listen_port != 0 && !is_loopback(s->listen_addr)) {
		settings_error(s, "walcrypt", NULL, "listen_addr", err,
		               "listen_addr %s with auth_type = trust would let anybody in", s->listen_addr);
		return err_hint(err, "Listen on 127.0.0.1, ::1 or localhost, or set listen_port = 0 and use unix_socket_dir.");
	}
	if (s->listen_port == 0 && s->unix_socket_dir == NULL)
		return settings_error(s, "walcrypt", NULL, "listen_port", err,
		                      "listen_port is 0 and unix_socket_dir is not set: nothing to listen on");
	return 0;
}

int
settings_check(struct settings *s, struct err *err)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (check_kek(s, &s->nodes[i], err) != 0 || check_upstream(s, &s->nodes[i], err) != 0)
			return -1;
	if (conf_line(s->conf, "walcrypt", NULL, "keystore") == 0)
		return 0; /* no [walcrypt] */
	if (s->keystore == NULL)
		return settings_error(s, "walcrypt", NULL, "keystore", err, "keystore is not set");
	if (s->auth_type == NULL) {
		settings_error(s, "walcrypt", NULL, "auth_type", err, "auth_type is not set");
		return err_hint(err, "For a proxy that listens on loopback or a Unix socket only: auth_type = trust");
	}
	if (check_listen(s, err) != 0 || check_users(s, "admin_users", s->admin_users, err) != 0 ||
	    check_users(s, "stats_users", s->stats_users, err) != 0)
		return -1;
	if (s->ledger == NULL && asprintf(&s->ledger, "%s/ledger", s->keystore) < 0) {
		s->ledger = NULL;
		return err_nomem(err);
	}
	return 0;
}
