/* walmake: WAL made by a test, record by record, page headers included, as PostgreSQL lays it out. Aborts when it runs
 * out of its array. */
#ifndef TESTS_UNIT_WALMAKE_H
#define TESTS_UNIT_WALMAKE_H

#include <stddef.h>
#include <stdint.h>

#define WALMAKE_SYSTEM_IDENTIFIER UINT64_C(0x1122334455667788)
#define WALMAKE_SEGMENT (1u << 20)

struct walmake {
	uint8_t *data;
	size_t len, size;
	uint64_t start; /* LSN of data[0] */
	uint32_t tli;
	uint16_t magic;
	uint64_t last; /* start of the record before; as xl_prev of the next */
	int records;   /* whole ones */
};

/* start: a page's beginning. */
void walmake_init(struct walmake *w, uint64_t start, size_t size);
void walmake_free(struct walmake *w);
/* A record with main data; its start is returned. */
uint64_t walmake_record(struct walmake *w, uint8_t rmid, uint8_t info, const void *data, size_t len);
/* Only its first `keep` bytes, as a crash leaves it; then zeros to the page's end, and the next page says "overwrite
 * contrecord". */
uint64_t walmake_torn(struct walmake *w, size_t len, size_t keep);
/* An XLOG_SWITCH record and what follows it to the segment's end: pages with headers, or all zero. */
uint64_t walmake_switch(struct walmake *w, int headers);
/* Zeros without any header up to len bytes in all. */
void walmake_zeros(struct walmake *w, size_t len);
/* Ordinary records of mixed lengths until there are at least len bytes. */
void walmake_fill(struct walmake *w, size_t len);

static inline uint64_t
walmake_lsn(const struct walmake *w)
{
	return w->start + w->len;
}

#endif
