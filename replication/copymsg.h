/*
 * copymsg: what travels in the CopyData messages of physical streaming replication.
 * source: src/backend/replication/walsender.c (XLogSendPhysical, WalSndKeepalive, ProcessStandby*Message). Integers in
 * network order.
 *
 *   from the server   'w' start LSN (8) | end of WAL there (8) | send time (8) | WAL bytes
 *                     'k' end of WAL there (8) | send time (8) | reply asked for (1)
 *                     's' primary status update, of later versions: passed on unread
 *   from the client   'r' written (8) | flushed (8) | applied (8) | send time (8) | reply asked for (1)
 *                     'h' send time (8) | xmin (4) | its epoch (4) | catalog xmin (4) | its epoch (4)
 */
#ifndef REPLICATION_COPYMSG_H
#define REPLICATION_COPYMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "replication/buffer.h"

#define COPYMSG_WAL_HEADER_LEN 25 /* of a 'w' message, type byte included */

enum copymsg_kind { COPYMSG_WAL, COPYMSG_KEEPALIVE, COPYMSG_PRIMARY_STATUS, COPYMSG_STATUS, COPYMSG_FEEDBACK };

struct copymsg {
	enum copymsg_kind kind;
	int64_t sent_at; /* microseconds since 2000-01-01; as received */
	/* COPYMSG_WAL */
	uint64_t start;
	uint8_t *data; /* inside the message that was parsed */
	size_t len;
	/* COPYMSG_WAL, COPYMSG_KEEPALIVE */
	uint64_t end;
	/* COPYMSG_STATUS */
	uint64_t write, flush, apply;
	/* COPYMSG_KEEPALIVE, COPYMSG_STATUS */
	bool reply;
	/* COPYMSG_FEEDBACK */
	uint32_t xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch;
};

/*
 * copymsg_parse_server / _client(data, len, m, err): the payload of one CopyData message.
 *   errors  -1 (ERR_FAILED, 08P01): empty, unknown type, wrong length, a WAL range that wraps
 */
int copymsg_parse_server(uint8_t *data, size_t len, struct copymsg *m, struct err *err);
int copymsg_parse_client(uint8_t *data, size_t len, struct copymsg *m, struct err *err);

/* Append the payload to out, which may be one that is being built by message_begin(out, 'd'). For COPYMSG_WAL data and
 * len too. COPYMSG_PRIMARY_STATUS cannot be built (assert): pass its bytes on. out keeps the fault. */
void copymsg_put(struct buffer *out, const struct copymsg *m);
/* As a whole CopyData message. */
int copymsg_write(struct buffer *out, const struct copymsg *m, struct err *err);

#endif
