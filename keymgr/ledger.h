/*
 * ledger: how far WAL of a plaintext upstream has been encrypted, so that no keystream is used twice (DESIGN's W5).
 *
 * One line per (system identifier, timeline, hash of the timeline's history, id of the WAL key): a random 64-bit
 * incarnation, which enters the generation of every page, the highest position sent, and a MAC of the
 * plaintext of the segment that holds the byte before that position, from the segment's start up to it; and that of the
 * whole segment before it. Before more is sent, they are read from the upstream again and must give the same MACs;
 * else the line gets a new incarnation: the upstream has been rolled back (a restored snapshot, a discarded promotion),
 * and what it writes now must meet another keystream. The segment before is read while less than 1 MiB of the present
 * one is covered: two histories that part earlier may begin a segment alike, but not for so long without a commit's
 * time.
 *
 * On disk (docs/formats/ledger.md): a header of 4096 bytes, then lines of 512 bytes: identity with checksum, and two
 * slots that are written in turn with a sequence number and a checksum. The file is mapped shared and a slot is written
 * BEFORE the bytes it speaks of are sent: the end of the process loses nothing. Against a crash of the operating system
 * a `reserved` position is made durable ahead of the present one, 64 MiB at a time, with the boot id: a line whose
 * reserved position differs from its position under another boot id was not closed, and gets a new incarnation.
 *
 * One process per file (flock). All functions are thread-safe, but for a trace, which belongs to one thread.
 */
#ifndef KEYMGR_LEDGER_H
#define KEYMGR_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

#define LEDGER_RESERVE (UINT64_C(64) << 20)

struct ledger;

struct ledger_line {
	uint64_t system_identifier;
	uint32_t tli;
	uint8_t history_sha256[32]; /* zeros for timeline 1 */
	uint8_t key_id[KEY_ID_LEN]; /* of the WAL key in use on this timeline */
};

struct ledger_place {
	uint64_t incarnation;
	uint64_t position; /* one past the last byte sent; 0: none yet under this incarnation */
	uint8_t mac[32];   /* of the plaintext of its segment up to it */
	bool has_before;
	uint8_t mac_before[32]; /* of the whole segment before that one */
};

/*
 * Open or make the file, durable when it returns. ERR_REFUSED when another process has it, ERR_DAMAGED when it is no
 * ledger. ledger_close makes every line clean; after a failed close, or without one, the lines are as a crash leaves
 * them.
 */
struct ledger *ledger_open(const char *path, struct err *err);
int ledger_close(struct ledger *l, struct err *err); /* frees l in any case; NULL allowed */

/*
 * Where a line stands; a new line, one that is damaged, or one left open by a crash of the operating system is given a
 * new incarnation, durable when this returns, and *why then says so in words (else NULL).
 */
int ledger_find(struct ledger *l, const struct ledger_line *line, struct ledger_place *place, const char **why,
                struct err *err);
/* A new incarnation for a line, unless it has another than old_incarnation by now; durable when this returns. */
int ledger_renew(struct ledger *l, const struct ledger_line *line, uint64_t old_incarnation, struct ledger_place *place,
                 struct err *err);

/*
 * trace: one session's way along a line. It is pushed every plaintext byte of the stream in order, from the start of a
 * segment on.
 */
struct ledger_trace;
/* wal_key: the data key of the line's key_id. segment_size: a power of two. place: what the session serves under. */
struct ledger_trace *ledger_trace_new(struct ledger *l, const struct ledger_line *line,
                                      const struct ledger_place *place, const struct data_key *wal_key,
                                      uint32_t segment_size, struct err *err);
void ledger_trace_free(struct ledger_trace *t); /* NULL allowed */
/* Where a check of place begins: the start of the segment of its last byte, or with_before of the one before it. */
uint64_t ledger_check_start(const struct ledger_place *place, uint32_t segment_size, bool with_before);
/* Should the segment before be checked too, if the upstream has it? */
bool ledger_check_before(const struct ledger_place *place, uint32_t segment_size);
/*
 * The check: push plaintext from ledger_check_start on; *done once position is reached, *same says whether it is what
 * was sent under this incarnation. Nothing is recorded.
 */
int ledger_trace_check(struct ledger_trace *t, uint64_t pos, const uint8_t *data, size_t len, bool *done, bool *same,
                       struct err *err);
/*
 * The record: to be called before the bytes up to pos + len are sent. The first call's pos must be the start of a
 * segment. ERR_REFUSED when the line has another incarnation by now, or when the bytes that another session sent were
 * different ones: the session must end, and a new one begins with the check.
 */
int ledger_trace_record(struct ledger_trace *t, uint64_t pos, const uint8_t *data, size_t len, struct err *err);

#endif
