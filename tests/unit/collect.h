/*
 * collect: the strict end of a chain of stages. Writes down what it gets in a form that does not depend on how it was
 * cut, and checks what every stage promises: no empty data, positions without gaps, members inside archives, contents
 * as long as the member says.
 *
 * Bytes go to `bytes` as they are; everything else is a line of `marks` ("W 0/1000028", "A base.tar", "M base/1/1
 * 8192", "m", ...).
 */
#ifndef TESTS_UNIT_COLLECT_H
#define TESTS_UNIT_COLLECT_H

#include <stdbool.h>

#include "replication/buffer.h"
#include "replication/stage.h"

struct collect {
	struct stage base;
	struct buffer bytes, marks;
	uint64_t next;   /* position that the next data must have */
	bool positioned; /* next is known: always inside a member, archive or manifest; for WAL after the first chunk */
	bool in_archive, in_member, finished;
	uint64_t member_left;
	size_t chunks; /* data chunks */
	int answer;    /* what push returns when all is well: 0, or 1 to ask for a pause */
	bool *freed;   /* set when the chain is freed */
};

/* c is the caller's memory; stage_free of it frees what it collected unless collect_take did. */
struct stage *collect_init(struct collect *c, bool *freed);
/* The bytes and marks, moved out: they live on when the chain is freed. */
void collect_take(struct collect *c, struct buffer *bytes, struct buffer *marks);

/*
 * Give data to feed in pieces, each in an allocation of exactly its size (so a sanitizer sees one byte too far).
 * how: 0 whole; n > 0: n bytes at a time; n < 0: pieces of random lengths, another sequence for each n.
 * Returns -1 when feed does, else all return values or'ed.
 */
int split_feed(const uint8_t *data, size_t len, int how,
               int (*feed)(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err), void *arg,
               struct err *err);
extern const int split_ways[]; /* ends with INT_MIN */
#define SPLIT_END (-2147483647 - 1)

#endif
