/* settings_table: every option of walcrypt.ini. */
#include "common/settings.h"

#define GLOBAL(field) offsetof(struct settings, field)
#define KEK(field) offsetof(struct settings_kek, field)
#define NODE(field) offsetof(struct settings_node, field)

const struct settings_option settings_options[] = {
    {"walcrypt", "listen_addr", SETTING_TEXT, GLOBAL(listen_addr), "127.0.0.1", 0, 0,
     "address of the TCP listener; with auth_type = trust only a loopback address"},
    {"walcrypt", "listen_port", SETTING_NUMBER, GLOBAL(listen_port), "6434", 0, 65535,
     "port of the TCP listener and of the Unix socket's name; 0: no TCP listener"},
    {"walcrypt", "unix_socket_dir", SETTING_PATH, GLOBAL(unix_socket_dir), NULL, 0, 0,
     "folder of the Unix socket; none when not set"},
    {"walcrypt", "auth_type", SETTING_TEXT, GLOBAL(auth_type), NULL, 0, 0,
     "how clients prove who they are; must be set; trust: not at all, for loopback and Unix sockets only"},
    {"walcrypt", "keystore", SETTING_PATH, GLOBAL(keystore), NULL, 0, 0,
     "folder of the keysets, made by walcrypt-ctl key init; must be set"},
    {"walcrypt", "ledger", SETTING_PATH, GLOBAL(ledger), NULL, 0, 0,
     "file of the positions encrypted so far; default: ledger in the keystore; never shared by two proxies"},
    {"walcrypt", "admin_users", SETTING_LIST, GLOBAL(admin_users), NULL, 0, 0,
     "who may use the console, comma-separated"},
    {"walcrypt", "stats_users", SETTING_LIST, GLOBAL(stats_users), NULL, 0, 0,
     "who may look at the console, comma-separated"},
    {"walcrypt", "workers", SETTING_NUMBER, GLOBAL(workers), "2", 1, 256, "threads that carry sessions"},
    {"walcrypt", "guard_library", SETTING_PATH, GLOBAL(guard_library), NULL, 0, 0,
     "path of libwalcrypt-storage.so on the standbys, put into their shared_preload_libraries; default: the one "
     "installed with this program"},
    {"walcrypt", "connect_timeout", SETTING_MS, GLOBAL(connect_timeout_ms), "10s", 100, 3600000,
     "longest time to wait for an upstream's connection"},
    {"walcrypt", "wal_receiver_timeout", SETTING_MS, GLOBAL(wal_receiver_timeout_ms), "60s", 0, 3600000,
     "longest silence of an upstream that streams or owes an answer; 0: none is too long"},
    {"walcrypt", "tcp_keepalive", SETTING_SECONDS, GLOBAL(tcp_keepalive_s), "60s", 0, 86400,
     "idle time after which TCP probes a peer, which is given up after as long again; 0: the system's"},
    {"walcrypt", "tcp_user_timeout", SETTING_MS, GLOBAL(tcp_user_timeout_ms), "0", 0, 86400000,
     "longest time that what was sent to a client may stay unacknowledged; 0: the system's"},
    {"walcrypt", "allow_no_checksums", SETTING_BOOL, GLOBAL(allow_no_checksums), "off", 0, 0,
     "serve base backups of clusters without data checksums"},
    {"walcrypt", "log_level", SETTING_LOG_LEVEL, GLOBAL(log_level), "info", 0, 0,
     "least level that is logged: debug, info, notice, warning, error, fatal"},
    {"kek", "uri", SETTING_TEXT, KEK(uri), NULL, 0, 0,
     "where the cluster key comes from: file:PATH or command:COMMAND"},
    {"kek", "timeout", SETTING_MS, KEK(timeout_ms), "30s", 100, 3600000, "longest time to wait for the cluster key"},
    {"node", "conninfo", SETTING_TEXT, NODE(conninfo), NULL, 0, 0,
     "libpq connection string of the server as an upstream; not set: it can't be one yet"},
    {"node", "keyset", SETTING_NAME, NODE(keyset), NULL, 0, 0,
     "keyset in the keystore under which its files are encrypted; none: the node is clear; must be set"},
    {"node", "kek", SETTING_NAME, NODE(kek), NULL, 0, 0, "[kek] section whose cluster key wraps the keyset"},
    {"node", "allow_clear", SETTING_BOOL, NODE(allow_clear), "off", 0, 0,
     "let a node without keyset take backups and WAL in clear"},
    {"node", "datadir", SETTING_PATH, NODE(datadir), NULL, 0, 0, "data directory, when it is on this machine"},
    {"node", "upstream", SETTING_NAME, NODE(upstream), NULL, 0, 0,
     "the node that this one streams from, which may be a standby; not set: the one that is the primary"},
    {"profile", "keyset", SETTING_NAME, NODE(keyset), NULL, 0, 0,
     "keyset in the keystore under which what it takes is encrypted; none: clear; must be set"},
    {"profile", "kek", SETTING_NAME, NODE(kek), NULL, 0, 0, "[kek] section whose cluster key wraps the keyset"},
    {"profile", "allow_clear", SETTING_BOOL, NODE(allow_clear), "off", 0, 0,
     "let a profile without keyset take backups and WAL in clear"},
    {"profile", "upstream", SETTING_NAME, NODE(upstream), NULL, 0, 0,
     "the node that this profile streams from, which may be a standby; not set: the one that is the primary"},
};
const size_t settings_noptions = sizeof(settings_options) / sizeof(settings_options[0]);

const char *
settings_kind_name(enum settings_kind kind)
{
	static const char *const names[] = {
	    [SETTING_TEXT] = "text",    [SETTING_PATH] = "path",      [SETTING_NAME] = "name",
	    [SETTING_LIST] = "list",    [SETTING_NUMBER] = "number",  [SETTING_MS] = "time",
	    [SETTING_SECONDS] = "time", [SETTING_BOOL] = "on or off", [SETTING_LOG_LEVEL] = "level"};

	return names[kind];
}
