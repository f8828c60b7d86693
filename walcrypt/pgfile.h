/*
 * pgfile: what a path in (or of) a PostgreSQL data directory is, from its name alone.
 *
 * Relations: base/<db>/NAME, global/NAME, pg_tblspc/<ts>/PG_<version>/<db>/NAME, and in tablespace archives
 * PG_<version>/<db>/NAME, with NAME
 *   ^(t[0-9]+_)?[0-9]+(_(fsm|vm|init))?(\.[0-9]+)?$      (source: common/relpath.c, storage/file/reinit.c)
 * WAL: pg_wal/ or any folder: 24 hex digits, optionally .partial; xlogtemp.<pid>; RECOVERYXLOG (source:
 * access/xlog_internal.h). Temporary files: base/pgsql_tmp/..., pg_tblspc/<ts>/PG_<version>/pgsql_tmp/... (source:
 * storage/file/fd.c).
 */
#ifndef WALCRYPT_PGFILE_H
#define WALCRYPT_PGFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "walcrypt/page.h"

enum pgfile_kind {
	PGFILE_OTHER,
	PGFILE_RELATION,
	PGFILE_WAL,          /* a segment under its own name, or .partial */
	PGFILE_WAL_TEMP,     /* pg_wal/xlogtemp.* (timeline history files go through it too: R2) */
	PGFILE_WAL_RECOVERY, /* pg_wal/RECOVERYXLOG */
	PGFILE_TEMP,         /* below a pgsql_tmp directory */
	PGFILE_KEYDIR        /* pg_cryptokeys or below it */
};

struct pgfile {
	enum pgfile_kind kind;
	struct page_at at; /* relations: db, rel, fork, temp; block = first block of this segment file */
	uint32_t tli;      /* PGFILE_WAL */
	uint32_t log, seg; /* PGFILE_WAL: the two other groups of eight digits */
};

/* path relative to the data directory ("./" and doubled slashes allowed); in_tablespace: relative to pg_tblspc/<ts>/
 * instead. Always fills f. */
void pgfile_parse(const char *path, bool in_tablespace, struct pgfile *f);
/* A path of unknown root (absolute, or relative to anywhere): the longest suffix that parses decides. Returns the
 * length of the prefix before that suffix (0 = relative to the data directory), or -1 for PGFILE_OTHER. */
int pgfile_parse_suffix(const char *path, struct pgfile *f);
/* "000000010000000000000002" from its parts and back; segment_size in bytes. */
void pgfile_wal_name(char out[static 25], uint32_t tli, uint64_t segno, uint32_t segment_size);
uint64_t pgfile_wal_segno(const struct pgfile *f, uint32_t segment_size);

/* "%X/%X"; parse returns -1 on anything else. */
#define LSN_TEXT_LEN 18
void lsn_format(char out[static LSN_TEXT_LEN], uint64_t lsn);
int lsn_parse(const char *text, uint64_t *lsn);

#endif
