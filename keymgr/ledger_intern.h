/*
 * ledger_intern: the ledger's file, for ledger.c (its life and its lines) and ledger_trace.c (a session's way along a
 * line).
 */
#ifndef KEYMGR_LEDGER_INTERN_H
#define KEYMGR_LEDGER_INTERN_H

#include <pthread.h>

#include "keymgr/ledger.h"

#define LEDGER_LINE_LEN 512
#define LEDGER_BOOT_ID_LEN 36

struct ledger_slot {
	uint64_t sequence;
	uint64_t incarnation;
	uint64_t position;
	uint64_t reserved;
	uint8_t mac[32], mac_before[32];
	char boot_id[LEDGER_BOOT_ID_LEN];
	uint32_t has_before;
	uint32_t zero;
	uint32_t crc; /* of all before; 0 sequence and 0 crc: never written */
};

/* A line is one sector, so that the operating system writes it whole; two slots, because it may do so at any moment. */
struct ledger_record {
	uint64_t system_identifier;
	uint8_t history_sha256[32];
	uint8_t key_id[KEY_ID_LEN];
	uint32_t tli;
	uint32_t crc; /* of all before */
	struct ledger_slot slot[2];
	uint8_t unused[LEDGER_LINE_LEN - 56 - 2 * sizeof(struct ledger_slot)];
};
_Static_assert(sizeof(struct ledger_slot) == 144, "a slot has no padding");
_Static_assert(sizeof(struct ledger_record) == LEDGER_LINE_LEN, "a line is one sector");

struct ledger {
	int fd;
	uint8_t *map;
	char boot_id[LEDGER_BOOT_ID_LEN];
	char path[512];
	pthread_mutex_t mutex;
};

/* All of these with the mutex held. */

/* The slot that counts, or NULL when both are damaged or empty. */
struct ledger_slot *ledger_record_slot(struct ledger_record *at);
/* Write next over the slot that does not count. */
void ledger_record_put(struct ledger_record *at, const struct ledger_slot *next);
/* The line's place in the file, NULL when there is none. */
struct ledger_record *ledger_record_find(struct ledger *l, const struct ledger_line *line);
/* What was written is durable. */
int ledger_sync(struct ledger *l, struct err *err);

#endif
