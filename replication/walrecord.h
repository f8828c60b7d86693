/*
 * walrecord: what the records say that a walscan tells more of: checkpoints, a timeline's beginning, a segment's end,
 * commits. source: src/include/access/xlogrecord.h, xact.h, xlog_internal.h, catalog/pg_control.h.
 */
#ifndef REPLICATION_WALRECORD_H
#define REPLICATION_WALRECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "replication/walscan.h"

#define WALRECORD_HEADER_LEN 24 /* XLogRecord */

/* Are there such records of this resource manager? RM_XLOG_ID and RM_XACT_ID */
static inline bool
walrecord_is_told(uint8_t rmid)
{
	return rmid <= 1;
}

/*
 * bytes: the beginning of a whole record, have of them. e: its rmid and info are set, what the kind calls for gets set.
 *   returns 1: e->kind says what it is; 0: any other; -1: it is too short for what it says to be
 */
int walrecord_look(const uint8_t *bytes, size_t have, struct walscan_event *e);

#endif
