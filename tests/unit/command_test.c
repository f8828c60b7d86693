/* Commands: what stock clients of 15 to 18 send, how each is written for the upstream, what is refused and with which
 * words. */
#include "replication/command.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

static int
parse(const char *text, struct command *cmd, struct err *err)
{
	size_t len = strlen(text);
	char *exact = malloc(len > 0 ? len : 1);
	int rc;

	memset(cmd, 0, sizeof(*cmd));
	if (exact == NULL)
		return err_nomem(err);
	memcpy(exact, text, len);
	memset(err, 0, sizeof(*err));
	rc = command_parse(exact, len, cmd, err);
	free(exact);
	return rc;
}

/* text -> what is written; NULL: cannot be written. Writing that again gives the same. */
static const struct {
	const char *text;
	enum command_kind kind;
	const char *written;
} forms[] = {
    {"IDENTIFY_SYSTEM", COMMAND_IDENTIFY_SYSTEM, "IDENTIFY_SYSTEM"},
    {"  IDENTIFY_SYSTEM ; ", COMMAND_IDENTIFY_SYSTEM, "IDENTIFY_SYSTEM"},
    {"SHOW wal_segment_size", COMMAND_SHOW, "SHOW \"wal_segment_size\""},
    {"SHOW data_directory_mode;", COMMAND_SHOW, "SHOW \"data_directory_mode\""},
    {"SHOW My.Setting", COMMAND_SHOW, "SHOW \"my\".\"setting\""},
    {"SHOW \"a.b\".c", COMMAND_SHOW, "SHOW \"a\".\"b\".\"c\""},
    {"TIMELINE_HISTORY 4294967295", COMMAND_TIMELINE_HISTORY, "TIMELINE_HISTORY 4294967295"},
    {"READ_REPLICATION_SLOT \"blue\"", COMMAND_READ_SLOT, "READ_REPLICATION_SLOT \"blue\""},
    {"CREATE_REPLICATION_SLOT \"pg_basebackup_123\" TEMPORARY PHYSICAL ( RESERVE_WAL)", COMMAND_CREATE_SLOT,
     "CREATE_REPLICATION_SLOT \"pg_basebackup_123\" TEMPORARY PHYSICAL (reserve_wal)"},
    {"CREATE_REPLICATION_SLOT blue PHYSICAL RESERVE_WAL", COMMAND_CREATE_SLOT,
     "CREATE_REPLICATION_SLOT \"blue\" PHYSICAL (reserve_wal)"},
    {"CREATE_REPLICATION_SLOT blue PHYSICAL", COMMAND_CREATE_SLOT, "CREATE_REPLICATION_SLOT \"blue\" PHYSICAL"},
    {"CREATE_REPLICATION_SLOT s LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER)", COMMAND_CREATE_SLOT,
     "CREATE_REPLICATION_SLOT \"s\" LOGICAL \"pgoutput\" (snapshot 'nothing', failover)"},
    {"CREATE_REPLICATION_SLOT s LOGICAL pgoutput NOEXPORT_SNAPSHOT TWO_PHASE", COMMAND_CREATE_SLOT,
     "CREATE_REPLICATION_SLOT \"s\" LOGICAL \"pgoutput\" (snapshot 'nothing', two_phase)"},
    {"DROP_REPLICATION_SLOT \"blue\"", COMMAND_DROP_SLOT, "DROP_REPLICATION_SLOT \"blue\""},
    {"DROP_REPLICATION_SLOT wait WAIT;", COMMAND_DROP_SLOT, "DROP_REPLICATION_SLOT \"wait\" WAIT"},
    {"ALTER_REPLICATION_SLOT blue ( FAILOVER false, TWO_PHASE 1 )", COMMAND_ALTER_SLOT,
     "ALTER_REPLICATION_SLOT \"blue\" (failover \"false\", two_phase 1)"},
    {"START_REPLICATION 0/1000000", COMMAND_START_PHYSICAL, "START_REPLICATION PHYSICAL 0/1000000"},
    {"START_REPLICATION SLOT \"blue\" 16/B374D848 TIMELINE 3", COMMAND_START_PHYSICAL,
     "START_REPLICATION SLOT \"blue\" PHYSICAL 16/B374D848 TIMELINE 3"},
    {"START_REPLICATION PHYSICAL ffffffff/FFFFFFFF", COMMAND_START_PHYSICAL,
     "START_REPLICATION PHYSICAL FFFFFFFF/FFFFFFFF"},
    {"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '4', publication_names '\"p\"')", COMMAND_START_LOGICAL,
     NULL},
    {"START_REPLICATION SLOT s LOGICAL 0/0", COMMAND_START_LOGICAL, NULL},
    {"BASE_BACKUP", COMMAND_BASE_BACKUP, "BASE_BACKUP"},
    {"BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  MANIFEST 'yes',  "
     "TARGET 'client')",
     COMMAND_BASE_BACKUP,
     "BASE_BACKUP (label 'pg_basebackup base backup', progress, checkpoint 'fast', wait 0, manifest 'yes', target "
     "'client')"},
    {"BASE_BACKUP (LABEL 'it''s')", COMMAND_BASE_BACKUP, "BASE_BACKUP (label 'it''s')"},
    {"BASE_BACKUP (LABEL '')", COMMAND_BASE_BACKUP, "BASE_BACKUP (label '')"},
    {"BASE_BACKUP (\"Label\" \"X y\")", COMMAND_BASE_BACKUP, "BASE_BACKUP (\"Label\" \"X y\")"},
    {"BASE_BACKUP LABEL 'old' PROGRESS FAST WAL NOWAIT MAX_RATE 1024 TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'yes' "
     "MANIFEST_CHECKSUMS "
     "'SHA256'",
     COMMAND_BASE_BACKUP,
     "BASE_BACKUP (label 'old', progress, checkpoint 'fast', wal, wait 'false', max_rate 1024, tablespace_map, "
     "verify_checksums 'false', "
     "manifest 'yes', manifest_checksums 'SHA256')"},
    {"UPLOAD_MANIFEST", COMMAND_UPLOAD_MANIFEST, "UPLOAD_MANIFEST"},
    {"", COMMAND_EMPTY, NULL},
    {" ;; ; ", COMMAND_EMPTY, NULL},
    {"SELECT 1", COMMAND_SQL, NULL},
    {"select pg_catalog.set_config('search_path', '', false);", COMMAND_SQL, NULL},
    {"identify_system", COMMAND_SQL, NULL},
    {"; SELECT 1", COMMAND_SQL, NULL},
    {"/* BASE_BACKUP */", COMMAND_SQL, NULL},
    {"'BASE_BACKUP'", COMMAND_SQL, NULL},
    {"\"BASE_BACKUP\"", COMMAND_SQL, NULL},
    {"PHYSICAL", COMMAND_SQL, NULL},
};

static void
written_again(void)
{
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		struct command cmd, again;
		struct err err;
		char *text, *twice;

		if (!is_int(parse(forms[i].text, &cmd, &err), 0, "parses: %s", forms[i].text)) {
			printf("# %s\n", err.text);
			continue;
		}
		is_int(cmd.kind, forms[i].kind, "... as %s", command_name(forms[i].kind));
		is_int(command_write(&cmd, &text, &err), forms[i].written != NULL ? 0 : -1, "... %s",
		       forms[i].written ? "is written" : "is not written");
		is_str(text, forms[i].written, "... as this");
		if (text != NULL) {
			if (is_int(parse(text, &again, &err), 0, "... which parses")) {
				is_int(command_write(&again, &twice, &err), 0, "... and is written");
				is_str(twice, text, "... the same");
				free(twice);
				command_free(&again);
			}
			free(text);
		}
		command_free(&cmd);
	}
}

static void
malformed(void)
{
	static const char *const rows[] = {
	    "IDENTIFY_SYSTEM x",
	    "IDENTIFY_SYSTEM ; ;",
	    "IDENTIFY_SYSTEM; SELECT 1",
	    "SHOW",
	    "SHOW a.",
	    "SHOW \".\"",
	    "SHOW \".a\"",
	    "SHOW a.\".\"",
	    "SHOW a.\"b..c\"",
	    "SHOW 'a'",
	    "TIMELINE_HISTORY",
	    "TIMELINE_HISTORY 0",
	    "TIMELINE_HISTORY 4294967296",
	    "TIMELINE_HISTORY 99999999999999999999999999",
	    "TIMELINE_HISTORY -1",
	    "START_REPLICATION",
	    "START_REPLICATION 0",
	    "START_REPLICATION 0/",
	    "START_REPLICATION /0",
	    "START_REPLICATION 123456789/0",
	    "START_REPLICATION 0/123456789",
	    "START_REPLICATION SLOT 0/0",
	    "START_REPLICATION SLOT WAIT 0/0",
	    "START_REPLICATION 0/0 TIMELINE",
	    "START_REPLICATION 0/0 TIMELINE 0",
	    "START_REPLICATION 0/0 TIMELINE 1 TIMELINE 1",
	    "START_REPLICATION LOGICAL 0/0",
	    "START_REPLICATION SLOT \"a\"\"b\" 0/0",
	    "START_REPLICATION SLOT \"\" 0/0",
	    "START_REPLICATION SLOT \"a 0/0",
	    "CREATE_REPLICATION_SLOT",
	    "CREATE_REPLICATION_SLOT x",
	    "CREATE_REPLICATION_SLOT x LOGICAL",
	    "CREATE_REPLICATION_SLOT x PHYSICAL (",
	    "CREATE_REPLICATION_SLOT x PHYSICAL ()",
	    "CREATE_REPLICATION_SLOT x PHYSICAL (reserve_wal",
	    "CREATE_REPLICATION_SLOT x PHYSICAL (reserve_wal,)",
	    "CREATE_REPLICATION_SLOT x PHYSICAL WAIT",
	    "DROP_REPLICATION_SLOT",
	    "DROP_REPLICATION_SLOT x y",
	    "DROP_REPLICATION_SLOT x_0123456789012345678901234567890123456789012345678901234567890123456789",
	    "ALTER_REPLICATION_SLOT x",
	    "BASE_BACKUP (",
	    "BASE_BACKUP (LABEL 'x)",
	    "BASE_BACKUP (LABEL 'x' 'y')",
	    "BASE_BACKUP LABEL",
	    "BASE_BACKUP LABEL x",
	    "BASE_BACKUP MAX_RATE 'x'",
	    "BASE_BACKUP FASTER",
	    "BASE_BACKUP )",
	};
	struct command cmd;
	struct err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		is_int(parse(rows[i], &cmd, &err), -1, "refused: %s", rows[i]);
		ok(strcmp(err.sqlstate, "42601") == 0 || strcmp(err.sqlstate, "42622") == 0, "... %s: %s", err.sqlstate,
		   err.text);
		ok(cmd.name == NULL && cmd.options == NULL, "... nothing is left");
	}
	memset(&err, 0, sizeof(err));
	is_int(command_parse("SHOW a\0b", 8, &cmd, &err), -1, "refused: a zero byte");
	is_str(err.sqlstate, "08P01", "... as a protocol violation");
}

static void
many_options(void)
{
	char text[2000] = "BASE_BACKUP (";
	struct command cmd;
	struct err err;

	for (int i = 0; i < 65; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "o%d,", i);
	text[strlen(text) - 1] = ')';
	is_int(parse(text, &cmd, &err), -1, "65 options are too many");
}

static void
refusals(void)
{
	static const struct {
		const char *text, *part; /* NULL: honoured */
	} rows[] = {
	    {"SELECT 1", "not SQL"},
	    {"START_REPLICATION SLOT s LOGICAL 0/0", "logical"},
	    {"CREATE_REPLICATION_SLOT s LOGICAL pgoutput", "logical"},
	    {"UPLOAD_MANIFEST", NULL},
	    {"BASE_BACKUP (INCREMENTAL)", NULL},
	    {"BASE_BACKUP (INCREMENTAL 'maybe')", "Boolean"},
	    {"BASE_BACKUP (COMPRESSION 'gzip')", "compresses"},
	    {"BASE_BACKUP (COMPRESSION lz4, COMPRESSION_DETAIL '1')", "compresses"},
	    {"BASE_BACKUP (COMPRESSION 'none', COMPRESSION_DETAIL '1')", "compresses"},
	    {"BASE_BACKUP (COMPRESSION)", "compresses"},
	    {"BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/tmp/x')", "on the server"},
	    {"BASE_BACKUP (TARGET 'blackhole')", "on the server"},
	    {"BASE_BACKUP (TARGET)", "on the server"},
	    {"BASE_BACKUP (TARGET 'client', TARGET_DETAIL 'x')", "on the server"},
	    {"BASE_BACKUP (FUTURE)", "unrecognized base backup option: \"future\""},
	    {"BASE_BACKUP (\"Label\" 'x')", "unrecognized base backup option"},
	    {"BASE_BACKUP (WAL, WAL false)", "duplicate option: \"wal\""},
	    {"BASE_BACKUP (WAL 'perhaps')", "wal requires a Boolean"},
	    {"BASE_BACKUP (MANIFEST 'sometimes')", "manifest option"},
	    {"BASE_BACKUP (MANIFEST_CHECKSUMS 'SHA256')", "require a backup manifest"},
	    {"BASE_BACKUP (MANIFEST 'yes', MANIFEST_CHECKSUMS 'MD5')", "checksum algorithm"},
	    {"BASE_BACKUP (MANIFEST 'yes', MANIFEST_CHECKSUMS)", "checksum algorithm"},
	    {"BASE_BACKUP (COMPRESSION 'none')", NULL},
	    {"BASE_BACKUP (INCREMENTAL false, TARGET 'client', MAX_RATE 32)", NULL},
	    {"ALTER_REPLICATION_SLOT s (FAILOVER)", NULL},
	    {"IDENTIFY_SYSTEM", NULL},
	    {"SHOW x", NULL},
	    {"TIMELINE_HISTORY 1", NULL},
	    {"CREATE_REPLICATION_SLOT s PHYSICAL", NULL},
	    {"DROP_REPLICATION_SLOT s", NULL},
	    {"READ_REPLICATION_SLOT s", NULL},
	    {"START_REPLICATION 0/0", NULL},
	    {"", NULL},
	};
	struct command cmd;
	struct err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!is_int(parse(rows[i].text, &cmd, &err), 0, "parses: %s", rows[i].text))
			continue;
		is_int(command_check(&cmd, &err), rows[i].part != NULL ? -1 : 0, "... is %s",
		       rows[i].part != NULL ? "refused" : "honoured");
		if (rows[i].part != NULL)
			is_err(&err, ERR_REFUSED, rows[i].part, "... saying: %s", err.text);
		command_free(&cmd);
	}
}

static void
backup(void)
{
	struct command_backup b;
	struct command cmd;
	struct err err;
	char *text;

	parse("BASE_BACKUP (WAL 1, TABLESPACE_MAP, MANIFEST 'force-encode', MANIFEST_CHECKSUMS sha224, PROGRESS off)", &cmd,
	      &err);
	ok(command_backup(&cmd, &b, &err) == 0 && b.wal && b.tablespace_map && b.manifest && !b.progress &&
	       b.checksums == DIGEST_SHA224,
	   "options of a base backup");
	is_int(command_set_option(&cmd, "wal", COMMAND_VALUE_STRING, "no", &err), 0, "an option changed");
	is_int(command_set_option(&cmd, "verify_checksums", COMMAND_VALUE_NUMBER, "0", &err), 0, "one added");
	command_drop_option(&cmd, "progress");
	command_drop_option(&cmd, "nothing");
	command_write(&cmd, &text, &err);
	is_str(text,
	       "BASE_BACKUP (wal 'no', tablespace_map, manifest 'force-encode', manifest_checksums \"sha224\", "
	       "verify_checksums 0)",
	       "written");
	free(text);
	command_free(&cmd);
	parse("BASE_BACKUP (MANIFEST)", &cmd, &err);
	ok(command_backup(&cmd, &b, &err) == 0 && b.manifest && b.checksums == DIGEST_CRC32C, "CRC32C is the default");
	command_free(&cmd);
	parse("BASE_BACKUP (MANIFEST 'yes', MANIFEST_CHECKSUMS 'none')", &cmd, &err);
	ok(command_backup(&cmd, &b, &err) == 0 && b.manifest && b.checksums == DIGEST_NONE, "a manifest without checksums");
	command_free(&cmd);
	parse("BASE_BACKUP", &cmd, &err);
	ok(command_backup(&cmd, &b, &err) == 0 && !b.manifest && !b.wal && b.checksums == DIGEST_NONE, "nothing asked for");
	command_free(&cmd);
}

static int
starve(void *arg)
{
	struct command cmd;
	struct err err = {0};
	char *text = NULL;
	int rc = parse("BASE_BACKUP (LABEL 'x', WAL, MAX_RATE 100)", &cmd, &err);

	(void)arg;
	if (rc == 0)
		rc = command_set_option(&cmd, "wal", COMMAND_VALUE_STRING, "yes", &err);
	if (rc == 0)
		rc = command_write(&cmd, &text, &err);
	free(text);
	command_free(&cmd);
	if (rc == 0 && (rc = parse("CREATE_REPLICATION_SLOT a LOGICAL b (c 'd')", &cmd, &err)) == 0)
		command_free(&cmd);
	if (rc == 0 && (rc = parse("SHOW a.b", &cmd, &err)) == 0)
		command_free(&cmd);
	return rc != 0 && strcmp(err.sqlstate, "53200") != 0 ? 1 : rc;
}

int
main(void)
{
	written_again();
	malformed();
	many_options();
	refusals();
	backup();
	ok(failmalloc_each(starve, NULL) > 15, "each allocation may fail");
	return tap_done();
}
