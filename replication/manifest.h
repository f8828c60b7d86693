/*
 * manifest: a backup_manifest rewritten as it streams by: CHUNK_MANIFEST_BEGIN, CHUNK_MANIFEST... in and out; other
 * kinds pass.
 *
 * One entry a line, as src/backend/backup/backup_manifest.c writes it (versions 1 and 2); entries come in the order of
 * the members, and so does the spool. A changed entry gets its new size and checksum, a dropped one goes, an inserted
 * one comes where it stands in the spool; the Manifest-Checksum of what came is verified and that of what goes is
 * computed. Anything else than that exact shape is refused (ERR_DAMAGED), and so is a spool entry whose file the
 * manifest does not have.
 */
#ifndef REPLICATION_MANIFEST_H
#define REPLICATION_MANIFEST_H

#include "replication/spool.h"
#include "replication/stage.h"

/* checksums: the algorithm asked for. spool must outlive the stage. next is owned on success only. */
struct stage *manifest_new(enum digest_kind checksums, struct spool *spool, struct stage *next, struct err *err);

#endif
