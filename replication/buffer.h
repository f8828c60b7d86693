/*
 * buffer: bytes that grow at one end and are consumed at the other, never more than a maximum that is given when it is
 * made.
 *
 *   data        start            end          cap
 *    | consumed  | what it holds  | free space |
 *
 * The put functions return nothing: after one that found no room or no memory the buffer takes nothing more until
 * buffer_check has reported it. So a message is built field by field and checked once. Integers are written in network
 * order.
 */
#ifndef REPLICATION_BUFFER_H
#define REPLICATION_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum buffer_fault { BUFFER_OK, BUFFER_FULL, BUFFER_NOMEM };

struct buffer {
	uint8_t *data;
	size_t start, end, cap;
	size_t max; /* end - start never passes it */
	enum buffer_fault fault;
	/* places, counted from the first byte that was ever put: the front, and the end of what is not changed any more */
	uint64_t front, sealed;
};

/* Allocates nothing yet. */
void buffer_init(struct buffer *b, size_t max);
/* Wipes and frees what it holds; the buffer is as after buffer_init, but its places count on. */
void buffer_free(struct buffer *b);

static inline size_t
buffer_len(const struct buffer *b)
{
	return b->end - b->start;
}

static inline uint8_t *
buffer_data(const struct buffer *b)
{
	return b->data + b->start;
}

/*
 * buffer_reserve(b, len): room for len bytes at the end, to be filled by the caller and then counted by
 * buffer_commit(b, n <= len). errors  NULL with the fault noted (buffer_check says which)
 */
uint8_t *buffer_reserve(struct buffer *b, size_t len);
void buffer_commit(struct buffer *b, size_t n);
/* Drop n bytes from the front (n <= buffer_len). Pointers into the buffer stay good until something is put. */
void buffer_consume(struct buffer *b, size_t n);
/* Take back what was put since buffer_len was len, and forget a fault. */
void buffer_rewind(struct buffer *b, size_t len);

/* The first len bytes are being taken, now or later, and stay as they are: TLS comes back for the very same ones. */
void buffer_seal(struct buffer *b, size_t len);
/* The place behind the last byte. */
uint64_t buffer_end(const struct buffer *b);
/* The byte at a place, to be changed; NULL when it is consumed or sealed, or not there yet. Good until something is
 * put. */
uint8_t *buffer_at(const struct buffer *b, uint64_t place);

void buffer_put(struct buffer *b, const void *data, size_t len);
void buffer_put_u8(struct buffer *b, uint8_t v);
void buffer_put_u16(struct buffer *b, uint16_t v);
void buffer_put_u32(struct buffer *b, uint32_t v);
void buffer_put_u64(struct buffer *b, uint64_t v);
void buffer_put_str(struct buffer *b, const char *s);  /* with its NUL */
void buffer_put_text(struct buffer *b, const char *s); /* without */

/* 0, or -1 with err set when a put has failed since the last check: out of memory (53200) or ERR_FAILED "... larger
 * than N bytes". */
int buffer_check(struct buffer *b, struct err *err);

/* Integers in network order, read from anywhere. */
uint16_t get_u16(const uint8_t *p);
uint32_t get_u32(const uint8_t *p);
uint64_t get_u64(const uint8_t *p);

#endif
