/*
 * walstream: the WAL stage. Plaintext WAL from the upstream becomes what the standby stores: the same number of bytes,
 * ciphertext.
 *
 * In: CHUNK_WAL, in order and without gaps, from the first byte of a segment on, cut anywhere; CHUNK_WAL_END where an
 * upstream message ended. Out: CHUNK_WAL with pos >= from (what lies before is read, checked and dropped), transformed
 * in place, and CHUNK_WAL_END. Between pushes it holds at most 7 bytes back, a granule that is not whole yet (finding
 * P2; of a page header the first 8 bytes, until the timeline in it is known); CHUNK_WAL_END hands them on, so a message
 * keeps its boundaries (finding P1). Every byte is ciphertext (W3: no raw zeros), under the generation of the timeline
 * that is streamed, whatever the page's header says (P3).
 *
 * Checked in each page header: magic of PostgreSQL 15 to 18 (and always the same one), known flags, page address as the
 * position says, timeline not above the streamed one and not falling, padding zero; at a segment's start the long
 * header's system identifier, segment and page size. A page that arrives encrypted, or without a header, is refused by
 * name (ERR_REFUSED, ERR_DAMAGED). A page that is zero from its first byte to its last follows a segment switch (the
 * server zeroes the rest of the segment, headers too) and travels as it is.
 */
#ifndef REPLICATION_WALSTREAM_H
#define REPLICATION_WALSTREAM_H

#include <stdbool.h>

#include "replication/stage.h"
#include "replication/walscan.h"
#include "walcrypt/keyset.h"

struct walstream_hooks {
	void *arg;
	/*
	 * Each byte that arrives, once, in order, before it is changed and before anything of it goes downstream; those
	 * before `from` included (the ledger's digest covers the segment). May stop the stream by -1. NULL: not wanted.
	 */
	int (*on_plain)(void *arg, uint64_t lsn, const uint8_t *data, size_t len, struct err *err);
	/* Of the record scanner, when it runs. NULL: not wanted. */
	int (*on_event)(void *arg, const struct walscan_event *event, struct err *err);
};

struct walstream_conf {
	const struct keyset *keyset; /* must outlive the stage */
	uint64_t system_identifier;
	uint32_t tli;        /* the timeline that is streamed */
	uint32_t generation; /* wal_proxy_generation() of that timeline */
	uint32_t segment_size;
	uint64_t from; /* first LSN that goes downstream */
	bool scan; /* check each record as it passes, its CRC32C at its end; a damaged one stops the stream, by its LSN */
	struct walstream_hooks hooks;
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
