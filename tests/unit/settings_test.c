/* walcrypt.ini as typed values: defaults, every kind of value, contradictions. */
#include "common/settings.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

#define MAIN "[walcrypt]\nauth_type = trust\nkeystore = ks\n"
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
	    {"[walcrypt]\nauth_type = scram-sha-256\nkeystore = /k\n", "ini:2: auth_type \"scram-sha-256\" is not known"},
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
	refused();
	ok(failmalloc_each(parse_once, whole) > 20, "each allocation failing: reported, nothing leaked");
	for (size_t i = 0; i < settings_noptions; i++)
		ok(settings_options[i].help[0] != '\0' && settings_kind_name(settings_options[i].kind) != NULL,
		   "[%s] %s is explained", settings_options[i].section, settings_options[i].name);
	return tap_done();
}
