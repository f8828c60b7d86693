#include "replication/buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/secmem.h"

void
buffer_init(struct buffer *b, size_t max)
{
	memset(b, 0, sizeof(*b));
	b->max = max;
}

void
buffer_free(struct buffer *b)
{
	uint64_t end = buffer_end(b);
	size_t max = b->max;

	if (b->data != NULL)
		secmem_wipe(b->data, b->cap);
	free(b->data);
	buffer_init(b, max);
	b->front = b->sealed = end;
}

/* Not realloc: what was in the old place may have been a password, so it is wiped there. */
static int
grow(struct buffer *b, size_t need)
{
	size_t cap = b->cap < 512 ? 512 : b->cap;
	uint8_t *data;

	while (cap < need)
		cap = cap > SIZE_MAX / 2 ? need : cap * 2;
	if (cap > b->max)
		cap = b->max;
	if ((data = malloc(cap)) == NULL)
		return -1;
	if (buffer_len(b) > 0)
		memcpy(data, buffer_data(b), buffer_len(b));
	if (b->data != NULL)
		secmem_wipe(b->data, b->cap);
	free(b->data);
	b->data = data;
	b->end -= b->start;
	b->start = 0;
	b->cap = cap;
	return 0;
}

uint8_t *
buffer_reserve(struct buffer *b, size_t len)
{
	size_t held = buffer_len(b);

	if (b->fault != BUFFER_OK)
		return NULL;
	if (len > b->max - held) {
		b->fault = BUFFER_FULL;
		return NULL;
	}
	if (len > b->cap - b->end && held + len <= b->cap && held <= b->cap / 2) {
		memmove(b->data, b->data + b->start, held);
		b->start = 0;
		b->end = held;
	}
	if ((len > b->cap - b->end || b->data == NULL) && grow(b, held + len) != 0) {
		b->fault = BUFFER_NOMEM;
		return NULL;
	}
	return b->data + b->end;
}

void
buffer_commit(struct buffer *b, size_t n)
{
	assert(n <= b->cap - b->end);
	b->end += n;
}

void
buffer_consume(struct buffer *b, size_t n)
{
	assert(n <= buffer_len(b));
	buffer_seal(b, n);
	b->start += n;
	b->front += n;
	if (b->start == b->end)
		b->start = b->end = 0;
}

void
buffer_rewind(struct buffer *b, size_t len)
{
	assert(len <= buffer_len(b));
	b->end = b->start + len;
	b->fault = BUFFER_OK;
}

void
buffer_seal(struct buffer *b, size_t len)
{
	if (b->sealed < b->front + len)
		b->sealed = b->front + len;
}

uint64_t
buffer_end(const struct buffer *b)
{
	return b->front + buffer_len(b);
}

uint8_t *
buffer_at(const struct buffer *b, uint64_t place)
{
	return place < b->sealed || place >= buffer_end(b) ? NULL : buffer_data(b) + (place - b->front);
}

void
buffer_put(struct buffer *b, const void *data, size_t len)
{
	uint8_t *to;

	if (len == 0 || (to = buffer_reserve(b, len)) == NULL)
		return;
	memcpy(to, data, len);
	b->end += len;
}

void
buffer_put_u8(struct buffer *b, uint8_t v)
{
	buffer_put(b, &v, 1);
}

void
buffer_put_u16(struct buffer *b, uint16_t v)
{
	buffer_put(b, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

void
buffer_put_u32(struct buffer *b, uint32_t v)
{
	buffer_put_u16(b, (uint16_t)(v >> 16));
	buffer_put_u16(b, (uint16_t)v);
}

void
buffer_put_u64(struct buffer *b, uint64_t v)
{
	buffer_put_u32(b, (uint32_t)(v >> 32));
	buffer_put_u32(b, (uint32_t)v);
}

void
buffer_put_str(struct buffer *b, const char *s)
{
	buffer_put(b, s, strlen(s) + 1);
}

void
buffer_put_text(struct buffer *b, const char *s)
{
	buffer_put(b, s, strlen(s));
}

int
buffer_check(struct buffer *b, struct err *err)
{
	enum buffer_fault fault = b->fault;

	b->fault = BUFFER_OK;
	if (fault == BUFFER_NOMEM)
		return err_nomem(err);
	if (fault == BUFFER_FULL)
		return err_set(err, ERR_FAILED, "buffer would become larger than %zu bytes", b->max);
	return 0;
}

uint16_t
get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t
get_u32(const uint8_t *p)
{
	return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

uint64_t
get_u64(const uint8_t *p)
{
	return (uint64_t)get_u32(p) << 32 | get_u32(p + 4);
}
