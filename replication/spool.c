#include "replication/spool.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "replication/buffer.h"

/* One entry: kind (1) | checksum length (1) | path length (2) | size (8) | mtime (8) | checksum | path. */
#define HEAD_LEN 20
#define WRITE_AT_ONCE 65536

struct spool {
	struct spool_io io;
	struct buffer pending; /* written but not handed to io yet; while reading, what io gave and was not used */
	bool reading;
};

struct spool *
spool_new(const struct spool_io *io, struct err *err)
{
	struct spool *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->io = *io;
	buffer_init(&s->pending, 2 * WRITE_AT_ONCE);
	return s;
}

void
spool_free(struct spool *s)
{
	if (s == NULL)
		return;
	buffer_free(&s->pending);
	free(s);
}

static int
write_out(struct spool *s, struct err *err)
{
	if (buffer_len(&s->pending) > 0 &&
	    s->io.write(s->io.arg, buffer_data(&s->pending), buffer_len(&s->pending), err) != 0)
		return -1;
	buffer_consume(&s->pending, buffer_len(&s->pending));
	return 0;
}

int
spool_add(struct spool *s, const struct spool_entry *e, struct err *err)
{
	size_t path_len = strlen(e->path);

	buffer_put_u8(&s->pending, (uint8_t)e->kind);
	buffer_put_u8(&s->pending, (uint8_t)e->checksum_len);
	buffer_put_u16(&s->pending, (uint16_t)path_len);
	buffer_put_u64(&s->pending, e->size);
	buffer_put_u64(&s->pending, e->mtime);
	buffer_put(&s->pending, e->checksum, e->checksum_len);
	buffer_put(&s->pending, e->path, path_len);
	if (buffer_check(&s->pending, err) != 0)
		return -1;
	return buffer_len(&s->pending) >= WRITE_AT_ONCE ? write_out(s, err) : 0;
}

/* At least len bytes in pending: 1; 0 when the spool ends before the first of them; -1. */
static int
want(struct spool *s, size_t len, struct err *err)
{
	while (buffer_len(&s->pending) < len) {
		uint8_t *to = buffer_reserve(&s->pending, 4096);
		int got;

		if (to == NULL)
			return buffer_check(&s->pending, err);
		if ((got = s->io.read(s->io.arg, to, 4096, err)) < 0)
			return -1;
		if (got == 0)
			return buffer_len(&s->pending) == 0
			           ? 0
			           : err_set(err, ERR_FAILED, "the list of changed backup files is cut off");
		buffer_commit(&s->pending, (size_t)got);
	}
	return 1;
}

int
spool_next(struct spool *s, struct spool_entry *e, struct err *err)
{
	const uint8_t *p;
	size_t path_len;
	int rc;

	if (!s->reading && write_out(s, err) != 0)
		return -1;
	s->reading = true;
	memset(e, 0, sizeof(*e));
	if ((rc = want(s, HEAD_LEN, err)) <= 0)
		return rc;
	p = buffer_data(&s->pending);
	path_len = get_u16(p + 2);
	e->checksum_len = p[1];
	if (p[0] < SPOOL_CHANGED || p[0] > SPOOL_INSERTED || e->checksum_len > sizeof(e->checksum) ||
	    path_len >= sizeof(e->path))
		return err_set(err, ERR_FAILED, "the list of changed backup files is damaged");
	if ((rc = want(s, HEAD_LEN + e->checksum_len + path_len, err)) <= 0)
		return -1;
	p = buffer_data(&s->pending);
	e->kind = (enum spool_kind)p[0];
	e->size = get_u64(p + 4);
	e->mtime = get_u64(p + 12);
	memcpy(e->checksum, p + HEAD_LEN, e->checksum_len);
	memcpy(e->path, p + HEAD_LEN + e->checksum_len, path_len);
	buffer_consume(&s->pending, HEAD_LEN + e->checksum_len + path_len);
	return 1;
}

struct spool_memory {
	struct buffer bytes;
};

static int
memory_write(void *arg, const void *data, size_t len, struct err *err)
{
	struct spool_memory *m = arg;

	buffer_put(&m->bytes, data, len);
	return buffer_check(&m->bytes, err);
}

static int
memory_read(void *arg, void *data, size_t len, struct err *err)
{
	struct spool_memory *m = arg;
	size_t n = buffer_len(&m->bytes) < len ? buffer_len(&m->bytes) : len;

	(void)err;
	if (n > 0)
		memcpy(data, buffer_data(&m->bytes), n);
	buffer_consume(&m->bytes, n);
	return (int)n;
}

struct spool_memory *
spool_memory_new(size_t max, struct spool_io *io, struct err *err)
{
	struct spool_memory *m = calloc(1, sizeof(*m));

	if (m == NULL) {
		err_nomem(err);
		return NULL;
	}
	buffer_init(&m->bytes, max);
	*io = (struct spool_io){m, memory_write, memory_read};
	return m;
}

void
spool_memory_free(struct spool_memory *m)
{
	if (m == NULL)
		return;
	buffer_free(&m->bytes);
	free(m);
}
