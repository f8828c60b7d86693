/*
 * settings: walcrypt.ini as typed values; shared by walcrypt-proxy and walcrypt-ctl. The file's syntax is
 * common/conf.h's.
 *
 * One table (settings_options) drives parsing, `-t`, the documentation check and the sample: section, name, type,
 * default, help. Values are checked strictly: unknown, repeated, malformed or contradictory is ERR_USAGE naming file
 * and line.
 */
#ifndef COMMON_SETTINGS_H
#define COMMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/address.h"
#include "common/err.h"
#include "common/log.h"

#define SETTINGS_SOCKET_PORT 6434 /* in the Unix socket's name when there is no TCP listener */
#define SETTINGS_NAME_MAX 63      /* node, profile and kek names: [a-z_][a-z0-9_-]*, a role name everywhere */

struct settings_kek { /* [kek NAME] */
	char *name, *uri;
	int timeout_ms;
	char *token_file, *ca_file, *cert_file, *key_file, *vault_namespace; /* of servers; NULL: not set */
	char *login, *login_mount, *login_role, *login_file;
	bool provider_random;
};

struct settings_node { /* [node NAME] or [profile NAME] */
	char *name;
	bool profile;     /* a profile never becomes an upstream: no conninfo, no datadir */
	char *conninfo;   /* how to reach this node as an upstream; NULL: it cannot be one yet */
	char *keyset;     /* folder in the keystore; NULL: `none`, the node is clear */
	bool keyset_auto; /* `auto`: the folder has the node's name, and is made when it is first needed */
	char *kek;        /* name of its [kek] section; NULL when clear */
	bool allow_clear; /* keyset NULL: it may take what its upstream sends, in clear */
	char *datadir;
	char *control, *control_data, *fence, *keys,
	    *control_conninfo;      /* commands and SQL of walcrypt-ctl; NULL: not set */
	char *upstream;             /* the node that this one streams from, a standby too; NULL: whichever is the primary */
	char **allow_addr;          /* NULL: any */
	struct address_range *addr; /* the same, naddr of them */
	size_t naddr;
	char **allow_commands;
	unsigned commands; /* the same: enum settings_command */
	int max_sessions;  /* 0: any */
	bool allow_plaintext;
	char **client_cn;
	char *allow_sql; /* NULL: a profile */
	bool slotsync;   /* the same */
	char *walsender; /* NULL: a profile */
	bool clear_wal;  /* the same: encrypted, but its walsenders stream clear WAL */
};

enum settings_command { SETTINGS_BACKUP = 1, SETTINGS_STREAM = 2, SETTINGS_SLOTS = 4 };

struct settings_listen { /* [listen NAME] */
	char *name;          /* of a node or profile */
	char *addr;
	int port;
	char **users; /* NULL: the name alone */
};

enum settings_auth { SETTINGS_TRUST, SETTINGS_SCRAM, SETTINGS_CERT };
enum settings_tls {
	SETTINGS_TLS_DISABLE,
	SETTINGS_TLS_ALLOW,
	SETTINGS_TLS_PREFER,
	SETTINGS_TLS_REQUIRE,
	SETTINGS_TLS_VERIFY_CA,
	SETTINGS_TLS_VERIFY_FULL
};

struct conf;

struct settings {
	char *file;        /* where it was read from, absolute */
	struct conf *conf; /* its text, for messages that name a line */
	char *listen_addr;
	int listen_port;         /* 0: no TCP listener */
	char *unix_socket_dir;   /* NULL: none */
	char *auth_type;         /* NULL only when the file has no [walcrypt] section */
	enum settings_auth auth; /* the same */
	char *auth_file, *auth_conninfo, *auth_query;
	int auth_cache_s, login_timeout_ms, max_logins, max_logins_per_address, max_failed_logins;
	char *client_tls_sslmode;
	enum settings_tls tls; /* the same */
	char *client_tls_cert_file, *client_tls_key_file, *client_tls_ca_file, *client_tls_crl_file;
	char **client_tls_protocols;
	char *client_tls_ciphers, *client_tls13_ciphers;
	char *keystore;                    /* absolute; NULL only then, too */
	char *audit_log;                   /* absolute; default: "audit.log" in the keystore */
	char *ledger;                      /* absolute; default: "ledger" in the keystore */
	char *switchover_hook;             /* command; NULL: none */
	char **admin_users, **stats_users; /* NULL-terminated */
	int workers;
	char *guard_library; /* path put into the standbys' shared_preload_libraries */
	int connect_timeout_ms;
	int max_sessions, drain_timeout_ms, client_idle_timeout_ms; /* 0: any, not at all, none */
	int client_stall_timeout_ms;                                /* 0: none */
	int pause_timeout_ms;                                       /* 0: none */
	int console_idle_timeout_ms;                                /* 0: none */
	char *http_listen;                                          /* NULL: none */
	char *http_addr;                                            /* the same, in two parts */
	int http_port;
	char **http_hosts;               /* names that a request may be for, besides addresses */
	char **http_allow_addr;          /* NULL: loopback */
	struct address_range *http_from; /* the same, nhttp_from of them */
	size_t nhttp_from;
	int wal_receiver_timeout_ms;              /* 0: none */
	int tcp_keepalive_s, tcp_user_timeout_ms; /* 0: the system's */
	bool allow_no_checksums;                  /* serve base backups of clusters without data checksums */
	enum log_level log_level;
	char *log_format;
	bool log_json; /* the same */
	struct settings_kek *keks;
	size_t nkeks;
	struct settings_node *nodes;
	size_t nnodes;
	struct settings_listen *listens;
	size_t nlistens;
};

/* Read and check a file. Refused (ERR_REFUSED) when others than root or the present user may write it. NULL on error.
 * Relative paths in the file are relative to the folder that the file is in. A file with [kek] sections alone is fine
 * for walcrypt-ctl; with a [walcrypt] section auth_type and keystore must be set. */
struct settings *settings_load(const char *path, struct err *err);
/* The same from bytes, as if they stood in the file path (absolute). */
struct settings *settings_parse(const char *path, const char *text, size_t len, struct err *err);
void settings_free(struct settings *s);
const struct settings_node *settings_node(const struct settings *s, const char *name); /* NULL when there is none */
const struct settings_kek *settings_kek(const struct settings *s, const char *name);
/* Does a node or profile name it? */
bool settings_kek_used(const struct settings *s, const struct settings_kek *k);

/* ERR_USAGE naming file and line of an option (of its section, when the option is not set), as conf_error does; name:
 * NULL for [walcrypt]. Returns -1. */
int settings_error(const struct settings *s, const char *kind, const char *name, const char *option, struct err *err,
                   const char *fmt, ...) __attribute__((format(printf, 6, 7)));

enum settings_kind {
	SETTING_TEXT,
	SETTING_PATH,
	SETTING_NAME, /* SETTINGS_NAME_MAX, [a-z_][a-z0-9_-]* */
	SETTING_LIST, /* comma-separated */
	SETTING_NUMBER,
	SETTING_MS,      /* a time: 500ms, 30s (also a number without a unit), 5min */
	SETTING_SECONDS, /* the same, kept in seconds */
	SETTING_BOOL,    /* on, off, true, false, yes, no, 1, 0 */
	SETTING_LOG_LEVEL
};

/* The table, for settings_help, docs and checks. section is "walcrypt", "kek", "node", "profile" or "listen". */
struct settings_option {
	const char *section, *name;
	enum settings_kind kind;
	size_t offset;   /* of the field in struct settings or of the section's own */
	const char *def; /* as it would stand in the file; NULL: none */
	int min, max;    /* of numbers and times, in the field's unit */
	const char *help;
};
/* "number", "time" ... as documentation says it. */
const char *settings_kind_name(enum settings_kind kind);
extern const struct settings_option settings_options[];
extern const size_t settings_noptions;
/* Every option with its kind, range and default, a section after the other: walcrypt-proxy --help-config. */
void settings_help(FILE *to);

#endif
