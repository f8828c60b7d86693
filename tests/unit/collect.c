#include "tests/unit/collect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/tar.h"
#include "walcrypt/pgfile.h"

const int split_ways[] = {0, 1, 7, 8, 13, 511, 512, 8191, 8192, 32768, -1, -2, -3, -4, -5, -6, -7, -8, SPLIT_END};

static int
wrong(struct err *err, const char *what)
{
	return err_set(err, ERR_FAILED, "sink: %s", what);
}

static int
mark(struct collect *c, const char *text, const char *name, uint64_t number)
{
	char line[512];

	snprintf(line, sizeof(line), "%s %s %" PRIu64 "\n", text, name, number);
	buffer_put_text(&c->marks, line);
	return 0;
}

static int
take_data(struct collect *c, const struct chunk *chunk, struct err *err)
{
	if (chunk->len == 0 || chunk->data == NULL)
		return wrong(err, "a chunk without data");
	if (c->positioned && chunk->pos != c->next)
		return wrong(err, "a chunk at another position than expected");
	c->next = chunk->pos + chunk->len;
	c->positioned = true;
	c->chunks++;
	buffer_put(&c->bytes, chunk->data, chunk->len);
	return 0;
}

static int
begin_member(struct collect *c, const struct tar_member *m, struct err *err)
{
	if (!c->in_archive || c->in_member)
		return wrong(err, "a member where none can begin");
	c->in_member = c->positioned = true;
	c->next = 0;
	c->member_left = m->size;
	return mark(c, m->type == TAR_FILE ? "M" : m->type == TAR_DIRECTORY ? "D" : "L", m->name, m->size);
}

static int
take(struct collect *c, const struct chunk *chunk, struct err *err)
{
	char lsn[LSN_TEXT_LEN];

	switch (chunk->kind) {
	case CHUNK_WAL:
		return take_data(c, chunk, err);
	case CHUNK_WAL_END:
		if (c->positioned && chunk->pos != c->next)
			return wrong(err, "a message ends elsewhere than its bytes");
		lsn_format(lsn, chunk->pos);
		return mark(c, "W", lsn, 0);
	case CHUNK_ARCHIVE:
		if (c->in_archive)
			return wrong(err, "an archive inside another");
		c->in_archive = c->positioned = true;
		c->next = 0;
		return mark(c, "A", chunk->archive->name, strlen(chunk->archive->path));
	case CHUNK_ARCHIVE_END:
		if (!c->in_archive || c->in_member)
			return wrong(err, "an archive ends where it cannot");
		c->in_archive = false;
		return mark(c, "a", "", 0);
	case CHUNK_TAR:
		return c->in_archive ? take_data(c, chunk, err) : wrong(err, "tar bytes outside an archive");
	case CHUNK_MEMBER:
		return begin_member(c, chunk->member, err);
	case CHUNK_DATA:
		if (!c->in_member || chunk->len > c->member_left)
			return wrong(err, "more contents than the member has");
		c->member_left -= chunk->len;
		return take_data(c, chunk, err);
	case CHUNK_MEMBER_END:
		if (!c->in_member || c->member_left != 0)
			return wrong(err, "a member ends before its contents");
		c->in_member = false;
		return mark(c, "m", "", 0);
	case CHUNK_PROGRESS:
		return mark(c, "P", "", chunk->pos);
	case CHUNK_MANIFEST_BEGIN:
		c->positioned = true;
		c->next = 0;
		return mark(c, "B", "", 0);
	case CHUNK_MANIFEST:
		return take_data(c, chunk, err);
	}
	return wrong(err, "a chunk of unknown kind");
}

static int
collect_push(struct stage *stage, struct chunk *chunk, struct err *err)
{
	struct collect *c = (struct collect *)stage;

	if (c->finished)
		return wrong(err, "a chunk after the end");
	if (take(c, chunk, err) != 0 || buffer_check(&c->bytes, err) != 0 || buffer_check(&c->marks, err) != 0)
		return -1;
	return c->answer;
}

static int
collect_finish(struct stage *stage, struct err *err)
{
	struct collect *c = (struct collect *)stage;

	if (c->finished || c->in_archive || c->in_member)
		return wrong(err, "finished twice, or too early");
	c->finished = true;
	return 0;
}

static void
collect_free(struct stage *stage)
{
	struct collect *c = (struct collect *)stage;

	buffer_free(&c->bytes);
	buffer_free(&c->marks);
	if (c->freed != NULL)
		*c->freed = true;
}

static const struct stage_ops collect_ops = {collect_push, collect_finish, collect_free};

struct stage *
collect_init(struct collect *c, bool *freed)
{
	memset(c, 0, sizeof(*c));
	c->base.ops = &collect_ops;
	c->freed = freed;
	if (freed != NULL)
		*freed = false;
	buffer_init(&c->bytes, 64 << 20);
	buffer_init(&c->marks, 16 << 20);
	return &c->base;
}

void
collect_take(struct collect *c, struct buffer *bytes, struct buffer *marks)
{
	*bytes = c->bytes;
	*marks = c->marks;
	buffer_init(&c->bytes, c->bytes.max);
	buffer_init(&c->marks, c->marks.max);
}

/* xorshift: the same pieces in every run */
static size_t
random_piece(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return 1 + *state % (*state % 3 == 0 ? 20 : *state % 3 == 1 ? 700 : 40000);
}

int
split_feed(const uint8_t *data, size_t len, int how,
           int (*feed)(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err), void *arg,
           struct err *err)
{
	uint32_t state = (uint32_t)(1 - how) * 2654435761u;
	int all = 0;

	for (size_t at = 0, n; at < len; at += n) {
		uint8_t *piece;
		int rc;

		n = how == 0 ? len : how > 0 ? (size_t)how : random_piece(&state);
		if (n > len - at)
			n = len - at;
		if ((piece = malloc(n)) == NULL)
			return err_nomem(err);
		memcpy(piece, data + at, n);
		rc = feed(arg, piece, n, at, err);
		free(piece);
		if (rc < 0)
			return -1;
		all |= rc;
	}
	return all;
}
