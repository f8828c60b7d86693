/*
 * backupstream: the one COPY stream of a base backup (PostgreSQL 15 and later), taken apart into chunks and put
 * together again. source: src/backend/backup/basebackup_copy.c.
 *
 *   'n' archive name NUL | tablespace path NUL    a new archive
 *   'd' bytes                                     of the archive, or of the manifest once it has begun
 *   'p' bytes done (8)                            progress
 *   'm'                                           the manifest begins
 */
#ifndef REPLICATION_BACKUPSTREAM_H
#define REPLICATION_BACKUPSTREAM_H

#include "replication/buffer.h"
#include "replication/stage.h"

/* PostgreSQL's are of 32 KiB, and pg_basebackup makes two system calls to read each and two to write its file. */
#define BACKUPSTREAM_DATA_MAX (128u << 10)

/* Takes the payloads of CopyData messages, each whole; pushes CHUNK_ARCHIVE, _TAR, _PROGRESS, _ARCHIVE_END,
 * _MANIFEST_BEGIN, _MANIFEST. */
struct backupstream;
struct backupstream *backupstream_new(struct stage *first, struct err *err); /* first is owned on success only */
void backupstream_free(struct backupstream *b);                              /* and the chain; NULL allowed */
/* data is lent and changed. 0, 1 (taken, but pause), -1. */
int backupstream_push(struct backupstream *b, uint8_t *data, size_t len, struct err *err);
/* CopyDone came: everything must be complete. */
int backupstream_finish(struct backupstream *b, struct err *err);

/*
 * The last stage: CopyData messages appended to out, of at most BACKUPSTREAM_DATA_MAX bytes of data each. While the
 * last one is not sealed in out, and nothing stands behind it, what comes next makes it longer. push returns 1 while
 * out holds more than high bytes; out->max must leave room above that for what one push can make: the upstream's
 * message, 256 KiB, and the key files that backupstage puts in. Progress is passed on as it came. out is the caller's.
 */
struct stage *backupwriter_new(struct buffer *out, size_t high, struct err *err);
/* Where in writer's out the next CHUNK_TAR's data will stand, if it has len bytes and nothing else comes before: a
 * chunk whose data lies there is not copied. NULL when it would not be in one message, or out has a fault. */
uint8_t *backupwriter_room(struct stage *writer, size_t len);

#endif
