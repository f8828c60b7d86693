/*
 * walscan: WAL records, looked at as clear bytes pass by. Nothing is held back and nothing is changed.
 *
 * Each record header is checked as soon as it is whole (length, resource manager, xl_prev against the record before),
 * its CRC32C at its last byte. Bytes come in order from a page's start on; what is left of a record that began before
 * is skipped. source: src/backend/access/transam/xlogreader.c, src/include/access/xlogrecord.h, xlog_internal.h,
 * catalog/pg_control.h.
 */
#ifndef REPLICATION_WALSCAN_H
#define REPLICATION_WALSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum walscan_event_kind {
	WALSCAN_RECORD,              /* every record, its CRC right; the others come before it */
	WALSCAN_SHUTDOWN_CHECKPOINT, /* tli, prev_tli, redo */
	WALSCAN_ONLINE_CHECKPOINT,   /* tli, prev_tli, redo */
	WALSCAN_END_OF_RECOVERY,     /* tli, prev_tli, time: a new timeline begins */
	WALSCAN_COMMIT,              /* time: microseconds since 2000-01-01 */
	WALSCAN_SWITCH               /* XLOG_SWITCH: zeros to the segment's end */
};

struct walscan_event {
	enum walscan_event_kind kind;
	uint64_t lsn, end; /* of the record; end is aligned to 8 as pg_waldump's next LSN, before any page header there */
	uint32_t len, xid;
	uint8_t rmid, info;
	uint32_t tli, prev_tli;
	uint64_t redo;
	int64_t time;
};

struct walscan_conf {
	uint32_t segment_size;
	/* Called for each event; -1 stops the scan with its err. NULL: not wanted. */
	int (*on_event)(void *arg, const struct walscan_event *event, struct err *err);
	void *arg;
};

struct walscan;
/* start: LSN of the first byte that will come, a page's start. */
struct walscan *walscan_new(const struct walscan_conf *conf, uint64_t start, struct err *err);
void walscan_free(struct walscan *w); /* NULL allowed */
/*
 * walscan_push(w, data, len, err): the next bytes; any split gives the same result.
 *   returns 0, or 1 when WAL has ended: a record length of zero where a record must begin, or an all-zero page (a
 * file's unused rest). From then on everything is skipped. In a stream from a server that is damage; in a file it is
 * the normal end. errors  -1 (ERR_DAMAGED) with the LSN of record or page in the text. A file's recycled rest shows
 * itself so too.
 */
int walscan_push(struct walscan *w, const uint8_t *data, size_t len, struct err *err);
/* At a page's start: what comes up to the segment's end follows an XLOG_SWITCH and is skipped, whatever it is. */
bool walscan_after_switch(const struct walscan *w);
uint64_t walscan_position(const struct walscan *w); /* next byte expected */
uint64_t walscan_end(const struct walscan *w);      /* end of the last whole record; 0 before the first */
uint64_t walscan_last(const struct walscan *w);     /* start of the last whole record; 0 before the first */
uint64_t walscan_records(const struct walscan *w);  /* how many */

#endif
