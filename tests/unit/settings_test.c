/* walcrypt.ini as typed values: defaults, every kind of value, contradictions. */
#include "common/settings.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

#define MAIN "[walcrypt]\nauth_type = trust\nkeystore = ks\n"
#define SCRAM "[walcrypt]\nauth_type = scram-sha-256\nauth_file = users\nkeystore = ks\n"
#define TLS "client_tls_cert_file = c\nclient_tls_key_file = k\n"
#define KEK "[kek site]\nuri = file:kek\n"

static struct settings *
parse(const char *text, struct err *err)
{
	memset(err, 0, sizeof(*err));
	return settings_parse("/etc/walcrypt/walcrypt.ini", text, strlen(text), err);
}

static void
defaults(void)
{
	struct err err;
	struct settings *s = parse(MAIN, &err);

	if (!ok(s != NULL, "the least that a proxy needs"))
		return;
	is_str(s->listen_addr, "127.0.0.1", "listen_addr");
	is_int(s->listen_port, 6434, "listen_port");
	ok(s->unix_socket_dir == NULL, "unix_socket_dir");
	is_str(s->keystore, "/etc/walcrypt/ks", "a relative path lies below the file's folder");
	is_str(s->ledger, "/etc/walcrypt/ks/ledger", "ledger");
	is_int(s->workers, 2, "workers");
	is_int(s->connect_timeout_ms, 10000, "connect_timeout");
	is_int(s->tcp_keepalive_s, 60, "tcp_keepalive");
	is_int(s->log_level, LOG_INFO, "log_level");
	ok(!s->allow_no_checksums, "allow_no_checksums");
	ok(s->admin_users == NULL && s->stats_users == NULL, "nobody uses the console");
	ok(strstr(s->guard_library, "/lib/walcrypt/libwalcrypt-storage.so") != NULL && s->guard_library[0] == '/',
	   "guard_library is the one installed with the program");
	settings_free(s);
	s = parse(KEK, &err);
	ok(s != NULL && s->keystore == NULL && s->auth_type == NULL,
	   "[kek] sections alone are a file for the control tool");
	ok(s != NULL && strcmp(settings_kek(s, "site")->uri, "file:/etc/walcrypt/kek") == 0, "file: paths, too");
	settings_free(s);
	settings_free(NULL);
}

static void
values(void)
{
	struct err err;
	struct settings *s =
	    parse("[walcrypt]\nauth_type = trust\nkeystore = /k\nledger = l\nlisten_addr = ::1\nlisten_port = 1\n"
	          "unix_socket_dir = /run\nadmin_users = a, b ,c\nstats_users = d\nworkers = 256\nguard_library = /x/y.so\n"
	          "connect_timeout = 500ms\ntcp_keepalive = 2 min\nallow_no_checksums = YES\nlog_level = Debug\n"
	          "[kek site]\nuri = command:cat /k ; true\ntimeout = 7\n"
	          "[node red]\nconninfo = host=x user='a b'\nkeyset = none\n"
	          "[node blue]\nkeyset = b_1-x\nkek = site\ndatadir = /d\n"
	          "[profile archive]\nkeyset = archive\nkek = site\n",
	          &err);

	if (!ok(s != NULL, "everything set") || s == NULL) {
		printf("# %s\n", err.text);
		return;
	}
	is_str(s->ledger, "/etc/walcrypt/l", "ledger");
	is_int(s->listen_port, 1, "listen_port");
	ok(strcmp(s->admin_users[0], "a") == 0 && strcmp(s->admin_users[1], "b") == 0 &&
	       strcmp(s->admin_users[2], "c") == 0 && s->admin_users[3] == NULL,
	   "a list");
	ok(strcmp(s->stats_users[0], "d") == 0 && s->stats_users[1] == NULL, "a list of one");
	is_int(s->connect_timeout_ms, 500, "milliseconds");
	is_int(s->tcp_keepalive_s, 120, "minutes");
	ok(s->allow_no_checksums, "a switch");
	is_int(s->log_level, LOG_DEBUG, "a level");
	is_str(s->guard_library, "/x/y.so", "a path");
	is_str(settings_kek(s, "site")->uri, "command:cat /k ; true", "a command with a semicolon");
	is_int(settings_kek(s, "site")->timeout_ms, 7000, "a time without a unit is in seconds");
	ok(settings_kek(s, "other") == NULL && settings_node(s, "other") == NULL, "what is not there");
	is_str(settings_node(s, "red")->conninfo, "host=x user='a b'", "conninfo");
	ok(settings_node(s, "red")->keyset == NULL, "keyset = none");
	is_str(settings_node(s, "blue")->keyset, "b_1-x", "keyset");
	ok(settings_node(s, "archive")->profile && !settings_node(s, "blue")->profile, "profile");
	settings_free(s);
}

static void
refused(void)
{
	static const struct {
		const char *text, *said;
	} rows[] = {
	    {"[walcrypt]\nkeystore = /k\n", "ini:1: auth_type is not set"},
	    {"[walcrypt]\nauth_type = trust\n", "ini:1: keystore is not set"},
	    {"[walcrypt]\nauth_type = scram-sha-256\nkeystore = /k\n", "ini:2: auth_type = scram-sha-256 needs users"},
	    {"[walcrypt]\nauth_type = md5\nkeystore = /k\n", "ini:2: auth_type \"md5\" is not one of"},
	    {SCRAM "listen_addr = 0.0.0.0\nclient_tls_sslmode = on\n", "ini:6: client_tls_sslmode \"on\" is not one of"},
	    {SCRAM "client_tls_sslmode = require\n", "needs client_tls_cert_file and client_tls_key_file"},
	    {SCRAM TLS "client_tls_sslmode = verify-ca\n",
	     "ini:7: client_tls_sslmode = verify-ca needs client_tls_ca_file"},
	    {SCRAM TLS "client_tls_crl_file = r\n", "ini:7: client_tls_crl_file needs client_tls_ca_file"},
	    {SCRAM TLS "client_tls_protocols = secure, tlsv1.1\n", "ini:7: client_tls_protocols has \"tlsv1.1\""},
	    {"[walcrypt]\nauth_type = cert\nkeystore = /k\n", "ini:2: auth_type = cert needs TLS and client_tls_ca_file"},
	    {MAIN "[node a]\nkeyset = none\nallow_addr = 10.0.0.0/8, ten\n", "ini:6: \"ten\" in allow_addr is no address"},
	    {MAIN "[node a]\nkeyset = none\nallow_commands = backup, sql\n", "ini:6: allow_commands has \"sql\""},
	    {MAIN "[node a]\nkeyset = none\nwalsender = files, clear\n", "ini:6: walsender \"files, clear\" is neither"},
	    {MAIN "[node a]\nkeyset = none\nwalsender = clear\n", "ini:6: walsender = clear is for encrypted servers"},
	    {MAIN "[node a]\nkeyset = none\nallow_sql = all\n", "ini:6: allow_sql \"all\" is neither none nor slotsync"},
	    {MAIN "[listen a]\nlisten_port = 5\n", "ini:5: there is no node or profile \"a\""},
	    {MAIN "[node a]\nkeyset = none\n[listen a]\n", "ini:6: [listen a] has no listen_port"},
	    {MAIN "[node a]\nkeyset = none\n[listen a]\nlisten_port = 5\nlisten_addr = ::\n",
	     "ini:8: listen_addr :: with auth_type = trust would let anybody in"},
	    {MAIN "listen_addr = 0.0.0.0\n", "ini:4: listen_addr 0.0.0.0 with auth_type = trust would let anybody in"},
	    {MAIN "listen_addr = 127.0.0.1.example.org\n", "would let anybody in"},
	    {MAIN "listen_port = 0\n", "ini:4: listen_port is 0 and unix_socket_dir is not set: nothing to listen on"},
	    {MAIN "listen_port = 65536\n", "ini:4: listen_port = \"65536\" is out of range"},
	    {MAIN "listen_port = -1\n", "is not a number"},
	    {MAIN "listen_port = 12x\n", "is not a number"},
	    {MAIN "workers = 0\n", "is out of range"},
	    {MAIN "connect_timeout = 5 parsecs\n", "no unit of time that is known"},
	    {MAIN "connect_timeout = 99999999999999h\n", "is out of range"},
	    {MAIN "connect_timeout = 1ms\n", "is out of range"},
	    {MAIN "allow_no_checksums = maybe\n", "neither on nor off"},
	    {MAIN "log_level = loud\n", "is not one of"},
	    {MAIN "admin_users = a,,b\n", "admin_users has an empty member"},
	    {MAIN "admin_users = a,\n", "admin_users has an empty member"},
	    {MAIN "unix_socket_dir =\n", "unix_socket_dir has no value"},
	    {MAIN "colour = blue\n", "ini:4: unknown setting \"colour\" in [walcrypt]"},
	    {MAIN "[kek site]\n", "ini:4: [kek site] has no uri"},
	    {MAIN "[kek]\nuri = file:/k\n", "[kek] has no name"},
	    {MAIN "[walcrypt x]\n", "[walcrypt] takes no name"},
	    {MAIN "[house x]\n", "unknown section [house]"},
	    {MAIN "[node Blue]\nkeyset = none\n", "\"Blue\" is not a name"},
	    {MAIN "[node none]\nkeyset = none\n", "\"none\" is not a name"},
	    {MAIN "[node auto]\nkeyset = none\n", "\"auto\" is not a name"},
	    {MAIN "[node blue]\n", "[node blue] has no keyset"},
	    {MAIN "[node blue]\nkeyset = blue\n", "ini:5: [node blue] has a keyset, but no kek"},
	    {MAIN KEK "[node blue]\nkeyset = none\nkek = site\n", "ini:8: [node blue] has a kek, but keyset = none"},
	    {MAIN "[node blue]\nkeyset = blue\nkek = site\n", "ini:6: there is no [kek site]"},
	    {MAIN KEK "[node blue]\nkeyset = blue\nkek = sites\n", "ini:8: there is no [kek sites]"},
	    {MAIN "[node a]\nkeyset = none\nuri = file:/k\n", "ini:6: unknown setting \"uri\" in [node]"},
	    {MAIN "listen_addr = '::1'\n", "ini:4: the value of listen_addr stands in quotes"},
	    {MAIN "admin_users = \"a\", b\n", "ini:4: the value of admin_users stands in quotes"},
	    {MAIN "stats_users = a, b\n[node b]\nkeyset = none\n",
	     "ini:4: \"b\" in stats_users is the name of a node or profile"},
	    {MAIN "[profile b]\nkeyset = none\n[walcrypt]\n", "section [walcrypt] stands already in line 1"},
	    {MAIN KEK "[node blue]\nkeyset = ../x\nkek = site\n", "\"../x\" in keyset is not a name"},
	    {MAIN KEK "[profile a]\nkeyset = a\nkek = site\nconninfo = x\n", "unknown setting \"conninfo\" in [profile]"},
	    {MAIN "[node a]\nkeyset = none\n[profile a]\nkeyset = none\n", "is the name of another node or profile"},
	};
	struct err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct settings *s = parse(rows[i].text, &err);

		ok(s == NULL, "refused: %s", rows[i].said);
		is_err(&err, ERR_USAGE, rows[i].said, "... and said");
		settings_free(s);
	}
}

static void
access_rules(void)
{
	struct err err;
	struct settings *s = parse(SCRAM TLS "client_tls_sslmode = verify-full\nclient_tls_ca_file = ca\nlisten_addr = ::\n"
	                                     "[node blue]\nkeyset = none\nallow_addr = 10.0.0.0/8, fd00::/8, local\n"
	                                     "allow_commands = stream, slots\nclient_cn = a, b\nallow_plaintext = on\n"
	                                     "[listen blue]\nlisten_port = 7000\nusers = replicator\n",
	                           &err);

	if (!ok(s != NULL, "scram-sha-256 listens anywhere"))
		return;
	is_int(s->auth, SETTINGS_SCRAM, "auth_type");
	is_int(s->tls, SETTINGS_TLS_VERIFY_FULL, "client_tls_sslmode");
	is_str(s->auth_file, "/etc/walcrypt/users", "auth_file");
	ok(s->auth_conninfo == NULL && strstr(s->auth_query, "$1") != NULL, "auth_query");
	is_int(s->auth_cache_s, 60, "auth_cache");
	is_str(s->client_tls_ca_file, "/etc/walcrypt/ca", "client_tls_ca_file");
	is_int(s->login_timeout_ms, 60000, "client_login_timeout");
	is_int(s->nodes[0].naddr, 3, "allow_addr");
	is_int(s->nodes[0].commands, SETTINGS_STREAM | SETTINGS_SLOTS, "allow_commands");
	is_str(s->nodes[0].client_cn[1], "b", "client_cn");
	ok(s->nodes[0].allow_plaintext, "allow_plaintext");
	is_int(s->listens[0].port, 7000, "[listen blue]");
	is_str(s->listens[0].addr, "127.0.0.1", "its address");
	is_str(s->listens[0].users[0], "replicator", "its users");
	settings_free(s);
	s = parse(MAIN "[profile p]\nkeyset = none\n", &err);
	is_int(s->nodes[0].commands, 7, "all commands when not said otherwise");
	ok(s->nodes[0].naddr == 0 && s->nodes[0].client_cn == NULL, "from anywhere");
	settings_free(s);
}

static int
parse_once(void *arg)
{
	struct err err;
	struct settings *s = parse(arg, &err);

	if (s == NULL)
		return err.class == ERR_FAILED && strcmp(err.text, "out of memory") == 0 ? -1 : 1;
	settings_free(s);
	return 0;
}

int
main(void)
{
	char whole[] =
	    MAIN "admin_users = a, b\nunix_socket_dir = s\n" KEK
	         "[node red]\nconninfo = host=x\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\ndatadir = d\n";

	defaults();
	values();
	access_rules();
	refused();
	ok(failmalloc_each(parse_once, whole) > 20, "each allocation failing: reported, nothing leaked");
	for (size_t i = 0; i < settings_noptions; i++)
		ok(settings_options[i].help[0] != '\0' && settings_kind_name(settings_options[i].kind) != NULL,
		   "[%s] %s is explained", settings_options[i].section, settings_options[i].name);
	return tap_done();
}
