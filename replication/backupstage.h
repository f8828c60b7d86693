/*
 * backupstage: a base backup's members as the encrypted standby must have them.
 *
 * In and out: what tar_reader makes. Stands between tar_reader and tar_writer.
 *   relation files   encrypted under the standby's relation key, whole pages in place where the data allows it; a short
 * last block is stored as zeros (PostgreSQL never reads it) WAL files        (-X fetch) encrypted under a random
 * generation drawn for this backup; trailing zeros raw (W2), pages whose header is not the one expected there (recycled
 * leftovers) become zero pages; a page that is encrypted already is refused pg_cryptokeys/   of the upstream: dropped;
 * the standby's own put in, in the main archive, before global/pg_control or at its end postgresql.auto.conf of the
 * main archive: the guard's lines appended; made when there is none pgsql_tmp        dropped: the server skips it, and
 * it would be clear text INCREMENTAL.*    refused the rest         untouched
 */
#ifndef REPLICATION_BACKUPSTAGE_H
#define REPLICATION_BACKUPSTAGE_H

#include "replication/spool.h"
#include "replication/stage.h"
#include "walcrypt/keyset.h"

/* A file of pg_cryptokeys/live/. */
struct backupstage_file {
	const char *name;
	const uint8_t *data;
	size_t len;
};

struct backupstage_conf {
	const struct keyset *keyset;             /* must outlive the stage */
	const struct backupstage_file *keyfiles; /* copied */
	size_t nkeyfiles;
	const char *guard;          /* lines for postgresql.auto.conf, each ended by a newline; copied */
	enum digest_kind checksums; /* of the manifest */
	struct spool *spool;        /* NULL: no manifest wanted, nothing is computed; must outlive the stage */
	uint64_t mtime;             /* of what is put in: seconds since 1970 */
};

struct backupstage_counts {
	uint64_t relation_files, relation_bytes, wal_files, wal_bytes, other_files, other_bytes;
};

/* next is owned on success only. */
struct stage *backupstage_new(const struct backupstage_conf *conf, struct stage *next, struct err *err);
const struct backupstage_counts *backupstage_counted(const struct stage *s);

#endif
