/* settings_check: what no single value of walcrypt.ini shows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/settings_intern.h"

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

/* The index of a word in a list of them; -1 when it is none. */
static int
word(const char *text, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(text, words[i]) == 0)
			return (int)i;
	return -1;
}

static int
check_port(const struct settings *s, const char *kind, const char *name, const char *addr, struct err *err)
{
	if (s->auth != SETTINGS_TRUST || address_text_is_loopback(addr))
		return 0;
	settings_error(s, kind, name, "listen_addr", err, "listen_addr %s with auth_type = trust would let anybody in",
	               addr);
	return err_hint(err, "Listen on 127.0.0.1, ::1, localhost or a Unix socket, or set auth_type = scram-sha-256.");
}

static int
check_listen(const struct settings *s, struct err *err)
{
	if (s->listen_port != 0 && check_port(s, "walcrypt", NULL, s->listen_addr, err) != 0)
		return -1;
	if (s->listen_port == 0 && s->unix_socket_dir == NULL && s->nlistens == 0)
		return settings_error(s, "walcrypt", NULL, "listen_port", err,
		                      "listen_port is 0 and unix_socket_dir is not set: nothing to listen on");
	for (size_t i = 0; i < s->nlistens; i++) {
		const struct settings_listen *l = &s->listens[i];

		if (settings_node(s, l->name) == NULL)
			return settings_error(s, "listen", l->name, "listen_port", err, "there is no node or profile \"%s\"",
			                      l->name);
		if (check_port(s, "listen", l->name, l->addr, err) != 0)
			return -1;
	}
	return 0;
}

static int
check_auth(struct settings *s, struct err *err)
{
	static const char *const auths[] = {"trust", "scram-sha-256", "cert"};
	int auth = word(s->auth_type, auths, 3);

	if (auth < 0)
		return settings_error(s, "walcrypt", NULL, "auth_type", err,
		                      "auth_type \"%s\" is not one of trust, scram-sha-256, cert", s->auth_type);
	s->auth = (enum settings_auth)auth;
	if (s->auth == SETTINGS_SCRAM && s->auth_file == NULL && s->auth_conninfo == NULL) {
		settings_error(s, "walcrypt", NULL, "auth_type", err, "auth_type = scram-sha-256 needs users");
		return err_hint(err, "Set auth_file, auth_conninfo or both.");
	}
	if (s->auth == SETTINGS_CERT && (s->tls < SETTINGS_TLS_ALLOW || s->client_tls_ca_file == NULL)) {
		settings_error(s, "walcrypt", NULL, "auth_type", err, "auth_type = cert needs TLS and client_tls_ca_file");
		return err_hint(err,
		                "Set client_tls_sslmode = verify-full, and the files of a certificate and of the authority.");
	}
	return 0;
}

static int
check_tls(struct settings *s, struct err *err)
{
	static const char *const modes[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"};
	int mode = word(s->client_tls_sslmode, modes, sizeof(modes) / sizeof(modes[0]));

	if (mode < 0)
		return settings_error(s, "walcrypt", NULL, "client_tls_sslmode", err,
		                      "client_tls_sslmode \"%s\" is not one of disable, allow, prefer, require, verify-ca, "
		                      "verify-full",
		                      s->client_tls_sslmode);
	s->tls = (enum settings_tls)mode;
	if (s->tls != SETTINGS_TLS_DISABLE && (s->client_tls_cert_file == NULL || s->client_tls_key_file == NULL))
		return settings_error(s, "walcrypt", NULL, "client_tls_sslmode", err,
		                      "client_tls_sslmode = %s needs client_tls_cert_file and client_tls_key_file",
		                      s->client_tls_sslmode);
	if (s->tls >= SETTINGS_TLS_VERIFY_CA && s->client_tls_ca_file == NULL)
		return settings_error(s, "walcrypt", NULL, "client_tls_sslmode", err,
		                      "client_tls_sslmode = %s needs client_tls_ca_file", s->client_tls_sslmode);
	if (s->client_tls_crl_file != NULL && s->client_tls_ca_file == NULL)
		return settings_error(s, "walcrypt", NULL, "client_tls_crl_file", err,
		                      "client_tls_crl_file needs client_tls_ca_file");
	for (char **p = s->client_tls_protocols; p != NULL && *p != NULL; p++)
		if (strcmp(*p, "secure") != 0 && strcmp(*p, "tlsv1.2") != 0 && strcmp(*p, "tlsv1.3") != 0) {
			settings_error(s, "walcrypt", NULL, "client_tls_protocols", err,
			               "client_tls_protocols has \"%s\", which is none of secure, tlsv1.2, tlsv1.3", *p);
			return err_hint(err, "Versions before 1.2 are broken and not supported.");
		}
	return 0;
}

/* A list of addresses and networks, for the option's field. */
static int
parse_ranges(const struct settings *s, const char *kind, const char *name, const char *option, char *const *list,
             struct address_range **out, size_t *n, struct err *err)
{
	size_t count = 0;

	while (list != NULL && list[count] != NULL)
		count++;
	if (count > 0 && (*out = calloc(count, sizeof(**out))) == NULL)
		return err_nomem(err);
	for (; *n < count; (*n)++)
		if (address_range_parse(list[*n], &(*out)[*n]) != 0) {
			settings_error(s, kind, name, option, err, "\"%s\" in %s is no address and no network", list[*n], option);
			return err_hint(err, "Write 10.0.0.12, 10.0.0.0/8 or fd00::/8; the bits behind a network's are zero.");
		}
	return 0;
}

/* http_listen: ADDRESS:PORT, an IPv6 address in brackets. */
static int
check_http(struct settings *s, struct err *err)
{
	const char *colon, *text = s->http_listen;
	char *end;
	long port;

	if (parse_ranges(s, "walcrypt", NULL, "http_allow_addr", s->http_allow_addr, &s->http_from, &s->nhttp_from, err) !=
	    0)
		return -1;
	if (text == NULL)
		return 0;
	colon = strrchr(text, ':');
	port = colon == NULL ? 0 : strtol(colon + 1, &end, 10);
	if (colon == NULL || colon == text || *end != '\0' || port < 1 || port > 65535) {
		settings_error(s, "walcrypt", NULL, "http_listen", err, "http_listen \"%s\" is no address and port", text);
		return err_hint(err, "Write 127.0.0.1:9634 or [::1]:9634.");
	}
	s->http_port = (int)port;
	if (*text == '[' && colon[-1] == ']') {
		text++;
		colon--;
	}
	if ((s->http_addr = strndup(text, (size_t)(colon - text))) == NULL)
		return err_nomem(err);
	if (address_text_is_loopback(s->http_addr) || s->nhttp_from > 0)
		return 0;
	settings_error(s, "walcrypt", NULL, "http_listen", err,
	               "http_listen %s is not loopback: what it shows has no keys in it, but would be anybody's to see",
	               s->http_listen);
	return err_hint(err, "Listen on 127.0.0.1 or ::1, or say in http_allow_addr who may ask.");
}

static int
check_access(const struct settings *s, struct settings_node *n, struct err *err)
{
	static const char *const commands[] = {"backup", "stream", "slots"};
	const char *kind = n->profile ? "profile" : "node";

	for (char **p = n->allow_commands; p != NULL && *p != NULL; p++) {
		int i = word(*p, commands, 3);

		if (i < 0)
			return settings_error(s, kind, n->name, "allow_commands", err,
			                      "allow_commands has \"%s\", which is none of backup, stream, slots", *p);
		n->commands |= 1u << i;
	}
	if (n->allow_sql != NULL && strcmp(n->allow_sql, "none") != 0 && strcmp(n->allow_sql, "slotsync") != 0)
		return settings_error(s, kind, n->name, "allow_sql", err, "allow_sql \"%s\" is neither none nor slotsync",
		                      n->allow_sql);
	n->slotsync = n->allow_sql != NULL && strcmp(n->allow_sql, "slotsync") == 0;
	n->clear_wal = n->walsender != NULL && strcmp(n->walsender, "clear") == 0;
	if (n->walsender != NULL && !n->clear_wal && strcmp(n->walsender, "files") != 0)
		return settings_error(s, kind, n->name, "walsender", err, "walsender \"%s\" is neither files nor clear",
		                      n->walsender);
	if (n->clear_wal && n->keyset == NULL)
		return settings_error(s, kind, n->name, "walsender", err, "walsender = clear is for encrypted servers");
	return parse_ranges(s, kind, n->name, "allow_addr", n->allow_addr, &n->addr, &n->naddr, err);
}

static int
check_log(struct settings *s, struct err *err)
{
	s->log_json = strcmp(s->log_format, "json") == 0;
	if (s->log_json || strcmp(s->log_format, "text") == 0)
		return 0;
	return settings_error(s, "walcrypt", NULL, "log_format", err, "log_format \"%s\" is neither text nor json",
	                      s->log_format);
}

int
settings_check(struct settings *s, struct err *err)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (check_kek(s, &s->nodes[i], err) != 0 || check_upstream(s, &s->nodes[i], err) != 0 ||
		    check_access(s, &s->nodes[i], err) != 0)
			return -1;
	if (conf_line(s->conf, "walcrypt", NULL, "keystore") == 0)
		return 0; /* no [walcrypt] */
	if (s->keystore == NULL)
		return settings_error(s, "walcrypt", NULL, "keystore", err, "keystore is not set");
	if (s->auth_type == NULL) {
		settings_error(s, "walcrypt", NULL, "auth_type", err, "auth_type is not set");
		return err_hint(err, "For a proxy that listens on loopback or a Unix socket only: auth_type = trust");
	}
	if (check_log(s, err) != 0 || check_http(s, err) != 0 || check_tls(s, err) != 0 || check_auth(s, err) != 0 ||
	    check_listen(s, err) != 0 || check_users(s, "admin_users", s->admin_users, err) != 0 ||
	    check_users(s, "stats_users", s->stats_users, err) != 0)
		return -1;
	if (s->ledger == NULL && asprintf(&s->ledger, "%s/ledger", s->keystore) < 0) {
		s->ledger = NULL;
		return err_nomem(err);
	}
	if (s->audit_log == NULL && asprintf(&s->audit_log, "%s/audit.log", s->keystore) < 0) {
		s->audit_log = NULL;
		return err_nomem(err);
	}
	return 0;
}
