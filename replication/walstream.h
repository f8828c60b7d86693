/*
 * walstream: the WAL stage. The upstream's WAL, clear or encrypted, becomes what the downstream stores: the same number
 * of bytes.
 *
 * In: CHUNK_WAL, in order and without gaps, from the first byte of a segment on, cut anywhere; CHUNK_WAL_END where an
 * upstream message ended. Out: CHUNK_WAL with pos >= from (what lies before is read, checked and dropped), transformed
 * in place, and CHUNK_WAL_END. Between pushes it holds at most 7 bytes back, a granule that is not whole yet (finding
 * P2; of a page header the first 8 bytes, until the timeline in it is known). Of a clear
 * upstream whole granules go to chunk.to when it is given, as far from its beginning as they are from data's, unless
 * what came before them was held back.
 *
 *   upstream clear      encrypted for the downstream: every byte ciphertext (W3: no raw zeros), under the generation of
 *                       the timeline that is streamed, whatever the page's header says (P3); CHUNK_WAL_END hands on
 *                       what is held, so a message keeps its boundaries (finding P1)
 *                       With keep_zeros, for WAL that stands encrypted on the upstream's disk: zero granules go out as
 *                       raw zeros, as one who blanks a page there would else get its keystream (W3); messages as below
 *   upstream encrypted  untouched, translated or opened, as walcrypt/walrekey.h says, page by page; a message that ends
 *                       inside a granule, which no server sends, ends before it
 *
 * Checked in each page header: magic of PostgreSQL 15 to 18 (and always the same one), known flags, page address as the
 * position says, timeline not above the streamed one and not falling, padding zero; at a segment's start the long
 * header's system identifier, segment and page size. A page of the other kind than the upstream's, or without a header,
 * is refused by name (ERR_REFUSED, ERR_DAMAGED). A page that is zero from its first byte to its last follows a segment
 * switch (the server zeroes the rest of the segment, headers too) and travels as it is.
 */
#ifndef REPLICATION_WALSTREAM_H
#define REPLICATION_WALSTREAM_H

#include <stdbool.h>

#include "replication/stage.h"
#include "replication/walscan.h"
#include "walcrypt/keyset.h"

struct walstream_conf {
	/* NULL: clear; both must outlive the stage */
	const struct keyset *upstream, *downstream;
	uint64_t system_identifier;
	uint32_t tli;        /* the timeline that is streamed */
	uint32_t generation; /* upstream clear: wal_proxy_generation() of that timeline */
	bool keep_zeros;     /* upstream clear: see above */
	uint32_t segment_size;
	uint64_t from; /* first LSN that goes downstream */
	/* Check each record as it passes: its header as soon as it is whole (a wrong key shows there), its CRC32C at its
	 * end; a damaged one stops the stream, by its LSN. */
	bool scan;
	/* Of the record scanner, when it runs; -1 stops the stream. NULL: not wanted. */
	int (*on_event)(void *arg, const struct walscan_event *event, struct err *err);
	void *arg;
};

/* The first chunk must be at walstream_begin(from): the segment's first byte. next is owned on success only. */
struct stage *walstream_new(const struct walstream_conf *conf, struct stage *next, struct err *err);

static inline uint64_t
walstream_begin(uint64_t lsn, uint32_t segment_size)
{
	return lsn - lsn % segment_size;
}

/* The WAL page magic of a server's major version, 0 when we do not know that version; and the other way round. */
uint16_t walstream_magic(int major);
int walstream_major(uint16_t magic);

#endif
