/*
 * backupstage: a base backup's members as the downstream must have them.
 *
 * In and out: what tar_reader makes. Stands between tar_reader and tar_writer. Each side is encrypted under a keyset or
 * clear.
 *   relation files   from the upstream's relation key to the downstream's (relrekey.h); a short last block is stored as
 *                    zeros (PostgreSQL never reads it)
 *   WAL files        (-X fetch) as walfile.h says; clear ones under a random generation drawn for each file
 *   pg_cryptokeys/   the upstream's is dropped, its keyset.json shown to the owner; the downstream's own put in, in the
 *                    main archive, before global/pg_control or at its end, with relation_id.<id>, by which a manifest
 *                    tells the relation key (manifest_key.h)
 *   postgresql.auto.conf of the main archive: the guard (autoconf.h); made when there is none
 *   pgsql_tmp        dropped: the server skips it, and it would be clear text
 *   INCREMENTAL.*    of relation files: their blocks as theirs (incrfile.h)
 *   the rest         untouched
 */
#ifndef REPLICATION_BACKUPSTAGE_H
#define REPLICATION_BACKUPSTAGE_H

#include <stdbool.h>

#include "replication/spool.h"
#include "replication/stage.h"
#include "walcrypt/keyset.h"

/* A file of pg_cryptokeys/live/. */
struct backupstage_file {
	const char *name;
	const uint8_t *data;
	size_t len;
};

struct backupstage_hooks {
	void *arg;
	/* Where the next len bytes of a file will stand if they go on as one chunk: they are put there, which saves a copy.
	 * NULL, or returned NULL: no such place. */
	uint8_t *(*room)(void *arg, size_t len);
	/* The upstream's keyset.json, at the end of the main archive when there is none: text NULL. May stop the backup by
	 * -1. */
	int (*on_keyset)(void *arg, const uint8_t *text, size_t len, struct err *err);
	/* A page that came encrypted has a wrong checksum. path: as the manifest has it; block: in the file. */
	void (*on_fault)(void *arg, const char *path, uint32_t block, uint16_t stored, uint16_t calculated);
};

struct backupstage_conf {
	const struct keyset *upstream, *downstream; /* NULL: clear; must outlive the stage */
	const struct backupstage_file *keyfiles;    /* the downstream's; copied */
	size_t nkeyfiles;
	const char *relation_id;    /* of the downstream's relation key, in hex; copied */
	const char *guard;          /* lines for postgresql.auto.conf, each ended by a newline; copied */
	bool verify;                /* page checksums of what comes encrypted */
	enum digest_kind checksums; /* of the manifest */
	struct spool *spool;        /* NULL: no manifest wanted, nothing is computed; must outlive the stage */
	uint64_t mtime;             /* of what is put in: seconds since 1970 */
	struct backupstage_hooks hooks;
};

struct backupstage_counts {
	uint64_t relation_files, relation_bytes, wal_files, wal_bytes, other_files, other_bytes;
};

/* next is owned on success only. */
struct stage *backupstage_new(const struct backupstage_conf *conf, struct stage *next, struct err *err);
/* Where the backup begins, before its first archive. */
void backupstage_start(struct stage *s, uint64_t lsn);
const struct backupstage_counts *backupstage_counted(const struct stage *s);

#endif
