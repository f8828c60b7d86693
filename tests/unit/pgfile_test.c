/* What a path is. */
#include "walcrypt/pgfile.h"

#include <stdlib.h>

#include "tests/unit/tap.h"

static const struct {
	const char *path;
	bool in_tablespace;
	enum pgfile_kind kind;
	uint32_t db, rel, block;
	uint8_t fork;
	bool temp;
} rows[] = {
    {"base/5/16384", 0, PGFILE_RELATION, 5, 16384, 0, 0, 0},
    {"./base/5/16384", 0, PGFILE_RELATION, 5, 16384, 0, 0, 0},
    {"base//5///16384", 0, PGFILE_RELATION, 5, 16384, 0, 0, 0},
    {"base/./5/16384/", 0, PGFILE_RELATION, 5, 16384, 0, 0, 0},
    {"base/5/16384_fsm", 0, PGFILE_RELATION, 5, 16384, 0, 1, 0},
    {"base/5/16384_vm.1", 0, PGFILE_RELATION, 5, 16384, 131072, 2, 0},
    {"base/5/16384_init", 0, PGFILE_RELATION, 5, 16384, 0, 3, 0},
    {"base/5/16384.32767", 0, PGFILE_RELATION, 5, 16384, 4294836224u, 0, 0},
    {"base/5/t3_16384", 0, PGFILE_RELATION, 5, 16384, 0, 0, 1},
    {"base/5/t12_16384_fsm.2", 0, PGFILE_RELATION, 5, 16384, 262144, 1, 1},
    {"base/4294967295/4294967295", 0, PGFILE_RELATION, 4294967295u, 4294967295u, 0, 0, 0},
    {"global/1262", 0, PGFILE_RELATION, 0, 1262, 0, 0, 0},
    {"global/1262_vm", 0, PGFILE_RELATION, 0, 1262, 0, 2, 0},
    {"pg_tblspc/16400/PG_15_202209061/5/16384.1", 0, PGFILE_RELATION, 5, 16384, 131072, 0, 0},
    {"PG_15_202209061/5/16384", 1, PGFILE_RELATION, 5, 16384, 0, 0, 0},
    {"PG_15_202209061/pgsql_tmp/pgsql_tmp123.0", 1, PGFILE_TEMP, 0, 0, 0, 0, 0},
    {"pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp1.0", 0, PGFILE_TEMP, 0, 0, 0, 0, 0},
    {"base/pgsql_tmp/pgsql_tmp123.0", 0, PGFILE_TEMP, 0, 0, 0, 0, 0},
    {"base/pgsql_tmp/pgsql_tmp123.0.fileset/o1.p1.0", 0, PGFILE_TEMP, 0, 0, 0, 0, 0},
    {"pg_cryptokeys", 0, PGFILE_KEYDIR, 0, 0, 0, 0, 0},
    {"pg_cryptokeys/live/wal.wkey", 0, PGFILE_KEYDIR, 0, 0, 0, 0, 0},
    {"pg_wal/xlogtemp.1234", 0, PGFILE_WAL_TEMP, 0, 0, 0, 0, 0},
    {"pg_wal/RECOVERYXLOG", 0, PGFILE_WAL_RECOVERY, 0, 0, 0, 0, 0},
    /* what is none of these */
    {"", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"/", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/PG_VERSION", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/pg_filenode.map", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/pg_internal.init", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384_foo", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384_fsmx", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384.", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384.x", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384.1.2", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384.32768", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/4294967296", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/99999999999999999999999", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/t_16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/t3-16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/-1", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/ 16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5x/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/6/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/../base/5/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/000000010000000000000001", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/pgsql_tmp", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"global/pg_control", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_tblspc/16400", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_tblspc/x/PG_15_202209061/5/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_tblspc/16400/5/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"PG_15_202209061/5/16384", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"base/5/16384", 1, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_xact/0000", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/00000002.history", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/000000010000000000000002.00000028.backup", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/archive_status/000000010000000000000001.ready", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/00000001000000000000000g", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/00000001000000000000000a", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/0000000100000000000001", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/xlogtemp.", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_wal/xlogtemp.1x", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"pg_cryptokeys2/live", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
    {"a/b/c/d/e/f/g/h/i/j/k/l", 0, PGFILE_OTHER, 0, 0, 0, 0, 0},
};

static const struct {
	const char *path;
	int prefix;
	enum pgfile_kind kind;
} suffixes[] = {
    {"base/5/16384", 0, PGFILE_RELATION},
    {"/srv/pg/base/5/16384", 8, PGFILE_RELATION},
    {"//srv//pg//base/5/16384", 11, PGFILE_RELATION},
    {"/srv/base/base/5/16384", 10, PGFILE_RELATION},
    {"../data/global/1262", 8, PGFILE_RELATION},
    {"/srv/pg/pg_tblspc/16400/PG_15_1/5/16384", 8, PGFILE_RELATION},
    {"/mnt/fast/PG_15_1/5/16384", 10, PGFILE_RELATION},
    {"/mnt/fast/PG_15_1/pgsql_tmp/pgsql_tmp1.0", 10, PGFILE_TEMP},
    {"/srv/pg/pg_wal/000000010000000000000001", 8, PGFILE_WAL},
    {"/archive/000000010000000000000001.partial", 9, PGFILE_WAL},
    {"000000010000000000000001", 0, PGFILE_WAL},
    {"pg_wal/RECOVERYXLOG", 0, PGFILE_WAL_RECOVERY},
    {"/srv/pg/pg_wal/xlogtemp.5", 8, PGFILE_WAL_TEMP},
    {"/srv/pg/pg_cryptokeys/live/wal.wkey", 8, PGFILE_KEYDIR},
    {"/srv/pg/base/5/../5/16384", -1, PGFILE_OTHER},
    {"/srv/pg/postgresql.conf", -1, PGFILE_OTHER},
    {"", -1, PGFILE_OTHER},
    {"/", -1, PGFILE_OTHER},
};

static void
wal_names(void)
{
	static const struct {
		uint32_t tli;
		uint64_t segno;
		uint32_t size;
		const char *name;
	} names[] = {{1, 1, 16 << 20, "000000010000000000000001"},
	             {0xABCDEF01, 0x123456, 16 << 20, "ABCDEF010000123400000056"},
	             {2, 5, 1 << 30, "000000020000000100000001"},
	             {2, 4096, 1 << 20, "000000020000000100000000"}};
	struct pgfile f;
	char name[25], path[64];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		pgfile_wal_name(name, names[i].tli, names[i].segno, names[i].size);
		is_str(name, names[i].name, "name of segment %llu", (unsigned long long)names[i].segno);
		for (int k = 0; k < 4; k++) {
			snprintf(path, sizeof(path), "%s%s%s", (const char *[]){"pg_wal/", "", "a/b/", "pg_wal/"}[k], name,
			         k == 3 ? ".partial" : "");
			pgfile_parse(path, false, &f);
			ok(f.kind == PGFILE_WAL && f.tli == names[i].tli && pgfile_wal_segno(&f, names[i].size) == names[i].segno,
			   "%s", path);
		}
	}
}

static void
lsns(void)
{
	static const char *const bad[] = {"",     "/",    "1",     "1/",          "/1",          "1/2 ", " 1/2", "1/2/3",
	                                  "-1/2", "+1/2", "0x1/2", "123456789/0", "0/123456789", "g/0",  "0/g",  "1//2"};
	char text[LSN_TEXT_LEN];
	uint64_t lsn = 0;

	lsn_format(text, UINT64_C(0x16B3748));
	is_str(text, "0/16B3748", "an LSN");
	lsn_format(text, UINT64_MAX);
	is_str(text, "FFFFFFFF/FFFFFFFF", "the longest");
	ok(lsn_parse(text, &lsn) == 0 && lsn == UINT64_MAX, "... and back");
	ok(lsn_parse("1a/0b", &lsn) == 0 && lsn == UINT64_C(0x1A0000000B), "small letters");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		is_int(lsn_parse(bad[i], &lsn), -1, "\"%s\" is none", bad[i]);
}

int
main(void)
{
	struct pgfile f;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		pgfile_parse(rows[i].path, rows[i].in_tablespace, &f);
		is_int(f.kind, rows[i].kind, "\"%s\"%s: kind", rows[i].path, rows[i].in_tablespace ? " in a tablespace" : "");
		ok(f.at.db == rows[i].db && f.at.rel == rows[i].rel && f.at.block == rows[i].block &&
		       f.at.fork == rows[i].fork && f.at.temp == rows[i].temp,
		   "... and place");
	}
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		is_int(pgfile_parse_suffix(suffixes[i].path, &f), suffixes[i].prefix, "\"%s\": prefix", suffixes[i].path);
		is_int(f.kind, suffixes[i].kind, "... and kind");
	}
	wal_names();
	lsns();
	return tap_done();
}
