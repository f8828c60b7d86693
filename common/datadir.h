/* datadir: what a PostgreSQL data directory says about itself: global/pg_control and PG_VERSION. Read-only. */
#ifndef COMMON_DATADIR_H
#define COMMON_DATADIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* PostgreSQL's major versions that walcrypt supports. */
#define DATADIR_OLDEST_MAJOR 15
#define DATADIR_NEWEST_MAJOR 18

enum datadir_state { /* DBState of catalog/pg_control.h */
	                 DATADIR_STARTUP,
	                 DATADIR_SHUTDOWNED,
	                 DATADIR_SHUTDOWNED_IN_RECOVERY,
	                 DATADIR_SHUTDOWNING,
	                 DATADIR_IN_CRASH_RECOVERY,
	                 DATADIR_IN_ARCHIVE_RECOVERY,
	                 DATADIR_IN_PRODUCTION
};

struct datadir_control {
	uint64_t system_identifier;
	uint32_t version; /* of pg_control: 1300 for PostgreSQL 13 to 16, then 1700, 1800 */
	enum datadir_state state;
	uint64_t checkpoint, redo; /* the last checkpoint's record, and where its redo begins */
	uint32_t tli;              /* of that checkpoint */
	uint64_t min_recovery;     /* end of what a standby must replay; 0 on a primary */
	uint32_t min_recovery_tli;
	uint32_t block_size, blocks_per_segment, wal_block_size, wal_segment_size; /* bytes, blocks */
	uint32_t checksum_version;                                                 /* 0: no data checksums */
};

/* Read DIR/global/pg_control. A file caught in the middle of a write is read again; ERR_DAMAGED when its CRC never
 * fits, ERR_REFUSED for a version that is not known, ERR_FAILED with os_errno when it cannot be read. */
int datadir_control_read(const char *dir, struct datadir_control *c, struct err *err);
/* What pg_controldata calls the state: "shut down", "in production" ... */
const char *datadir_state_name(enum datadir_state state);
/* The major version in DIR/PG_VERSION. -1 with err set when there is none: no data directory. */
int datadir_major_version(const char *dir, int *major, struct err *err);
/* The same, and ERR_REFUSED when walcrypt does not support that version. */
int datadir_supported(const char *dir, int *major, struct err *err);
/* The server that runs in it (postmaster.pid names a living process); 0: none. */
pid_t datadir_server(const char *dir);
bool datadir_in_use(const char *dir);

#endif
