/* What is missing from a data directory, as far as names and lengths tell, and what is in it that walcrypt does not
 * know. */
#include <fnmatch.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/verify.h"
#include "walcrypt/page.h"

/* What PostgreSQL 15 to 18 and walcrypt keep beside relations and WAL. In fnmatch's words; a '*' matches slashes, too.
 */
static const char *const known[] = {"PG_VERSION",
                                    "*/PG_VERSION",
                                    "postgresql.conf",
                                    "postgresql.auto.conf*",
                                    "pg_hba.conf",
                                    "pg_ident.conf",
                                    "postmaster.pid",
                                    "postmaster.opts",
                                    "backup_label*",
                                    "tablespace_map*",
                                    "backup_manifest*",
                                    "standby.signal",
                                    "recovery.signal",
                                    "promote",
                                    "current_logfiles*",
                                    "log/*",
                                    "pg_log/*",
                                    "server.crt",
                                    "server.key",
                                    "root.c??",
                                    "global/pg_control",
                                    "global/pg_filenode.map*",
                                    "global/pg_internal.init*",
                                    "base/*/pg_filenode.map*",
                                    "base/*/pg_internal.init*",
                                    "pg_tblspc/*/pg_filenode.map*",
                                    "pg_tblspc/*/pg_internal.init*",
                                    "base/pgsql_tmp*",
                                    "pg_tblspc/*/pgsql_tmp*",
                                    "pg_cryptokeys/*",
                                    "pg_reencrypt/*",
                                    "pg_wal/*.history",
                                    "pg_wal/*.backup",
                                    "pg_wal/archive_status/*",
                                    "pg_wal/summaries/*",
                                    "pg_wal/pgsql_tmp_walcrypt.*",
                                    "pg_wal/xlogtemp.*",
                                    "pg_wal/RECOVERY*",
                                    "pg_commit_ts/*",
                                    "pg_dynshmem/*",
                                    "pg_logical/*",
                                    "pg_multixact/*",
                                    "pg_notify/*",
                                    "pg_replslot/*",
                                    "pg_serial/*",
                                    "pg_snapshots/*",
                                    "pg_subtrans/*",
                                    "pg_twophase/*",
                                    "pg_xact/*",
                                    "pg_stat/pgstat.stat",
                                    "pg_stat/pg_stat_statements.stat",
                                    "pg_stat_tmp/pgss_query_texts.stat",
                                    "pg_stat_tmp/pgstat*",
                                    "pg_stat/pgstat*"};

static bool
is_known(const char *path, const struct pgfile *is)
{
	if (is->kind != PGFILE_OTHER)
		return true;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (fnmatch(known[i], path, 0) == 0)
			return true;
	return false;
}

static int
unknown_visit(void *arg, const char *path, const struct stat *st, struct err *err)
{
	struct verify *v = arg;
	struct pgfile is;

	(void)err;
	if (!S_ISREG(st->st_mode) || st->st_size == 0)
		return 0;
	pgfile_parse(path, false, &is);
	if (is_known(path, &is))
		return 0;
	v->counts.unknown_files++;
	if (v->json)
		json_array_append_new(v->json_unknown, json_string(path));
	else {
		progress_clear(&v->progress);
		printf("%s: unknown, not looked into: an extension's, or put there by hand; it is not encrypted by walcrypt\n",
		       path);
	}
	return 0;
}

int
verify_unknown(struct verify *v, struct err *err)
{
	return data_files_walk(v->datadir, ".", unknown_visit, v, err);
}

static int
by_path(const void *key, const void *file)
{
	return strcmp(key, ((const struct data_file *)file)->path);
}

/* A relation's segments follow one another, and all but the last have 1 GB. */
static int
segment_check(struct verify *v, const struct data_file *f, struct err *err)
{
	uint32_t number = f->is.at.block / PAGE_BLOCKS_PER_SEGMENT;
	const struct data_file *before;
	char path[PATH_MAX];
	int stem = (int)(strrchr(f->path, '.') - f->path);

	if (path_format(path, err, number == 1 ? "%.*s" : "%.*s.%u", stem, f->path, number - 1) != 0)
		return -1;
	before = bsearch(path, v->files.file, v->files.nrelations, sizeof(*f), by_path);
	if (before == NULL)
		verify_finding(v, path, "is missing: \"%s\" follows it", f->path);
	else if (before->len != (uint64_t)PAGE_BLOCKS_PER_SEGMENT * PAGE_LEN)
		verify_finding(v, path, "has %" PRIu64 " bytes instead of 1 GB: \"%s\" follows it", before->len, f->path);
	return 0;
}

/* The WAL from the last checkpoint's redo position on must be there, under whatever timeline. */
static void
wal_check(struct verify *v)
{
	const struct datadir_control *c = &v->control;
	uint64_t must = c->min_recovery > c->checkpoint ? c->min_recovery - 1 : c->checkpoint;
	uint64_t segment = c->redo / c->wal_segment_size, last = must / c->wal_segment_size;

	for (; segment <= last; segment++) {
		char name[25], path[64];
		bool there = false;

		for (size_t i = v->files.nrelations; i < v->files.n && !there; i++)
			there = pgfile_wal_segno(&v->files.file[i].is, c->wal_segment_size) == segment;
		if (there)
			continue;
		pgfile_wal_name(name, c->tli, segment, c->wal_segment_size);
		snprintf(path, sizeof(path), "pg_wal/%s", name);
		verify_finding(v, path, "is missing: the server needs it to start");
	}
}

int
verify_missing(struct verify *v, struct err *err)
{
	char path[PATH_MAX];

	/* under a running server files come and go while they are listed */
	if (v->in_use)
		return 0;
	for (size_t i = 0; i < v->files.nrelations; i++) {
		const struct data_file *f = &v->files.file[i];

		/* what a truncation leaves of later segments is empty */
		if (f->is.at.block > 0 && f->len > 0 && segment_check(v, f, err) != 0)
			return -1;
	}
	/* a base backup takes its WAL from elsewhere */
	if (path_format(path, err, "%s/backup_label", v->datadir) != 0)
		return -1;
	if (access(path, F_OK) != 0)
		wal_check(v);
	return 0;
}
