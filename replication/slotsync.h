/*
 * slotsync: the queries of a standby that synchronises logical slots (sync_replication_slots,
 * pg_sync_replication_slots) of PostgreSQL 17 and 18, and no others. source:
 * src/backend/replication/logical/slotsync.c, libpqwalreceiver.c.
 */
#ifndef REPLICATION_SLOTSYNC_H
#define REPLICATION_SLOTSYNC_H

#include <stdbool.h>

/* Is it one of them, to the letter? (The name of a slot is letters, digits and underscores.) */
bool slotsync_knows(const char *text);

#endif
