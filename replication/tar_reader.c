#include <stdlib.h>
#include <string.h>

#include "replication/tar.h"

/* What the next bytes of the archive are. */
enum tar_part { PART_OUTSIDE, PART_HEADER, PART_CONTENTS, PART_PADDING, PART_END };

struct tar_reader {
	struct stage base;
	enum tar_part part;
	uint8_t block[TAR_BLOCK];
	size_t got; /* of the header block, or of the end's zero bytes up to two blocks */
	uint64_t pos;
	struct tar_member member;
	uint64_t offset; /* in the member */
	size_t padding;  /* bytes left of it */
};

static int
damaged(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "invalid tar archive in the base backup: %s", what);
	return err_sqlstate(err, "08P01");
}

static int
push_mark(struct tar_reader *t, enum chunk_kind kind, struct err *err)
{
	struct chunk c = {.kind = kind, .member = &t->member};

	return stage_push(t->base.next, &c, err);
}

static int
end_member(struct tar_reader *t, struct err *err)
{
	t->padding = (size_t)((TAR_BLOCK - t->member.size % TAR_BLOCK) % TAR_BLOCK);
	t->part = t->padding > 0 ? PART_PADDING : PART_HEADER;
	t->got = 0;
	return push_mark(t, CHUNK_MEMBER_END, err);
}

static int
take_header(struct tar_reader *t, struct err *err)
{
	static const uint8_t zeros[TAR_BLOCK];
	int rc, end_rc;

	if (memcmp(t->block, zeros, TAR_BLOCK) == 0) {
		t->part = PART_END;
		t->got = TAR_BLOCK;
		return 0;
	}
	if (tar_header_parse(t->block, &t->member, err) != 0)
		return -1;
	t->offset = 0;
	t->part = PART_CONTENTS;
	if ((rc = push_mark(t, CHUNK_MEMBER, err)) < 0 || t->member.size > 0)
		return rc;
	return (end_rc = end_member(t, err)) < 0 ? -1 : rc | end_rc;
}

static int
eat_header(struct tar_reader *t, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	*used = TAR_BLOCK - t->got < len ? TAR_BLOCK - t->got : len;
	memcpy(t->block + t->got, data, *used);
	t->got += *used;
	return t->got == TAR_BLOCK ? take_header(t, err) : 0;
}

static int
eat_contents(struct tar_reader *t, uint8_t *data, size_t len, size_t *used, struct err *err)
{
	uint64_t left = t->member.size - t->offset;
	struct chunk c = {.kind = CHUNK_DATA, .pos = t->offset, .member = &t->member, .data = data};
	int rc, end_rc;

	c.len = *used = left < len ? (size_t)left : len;
	t->offset += *used;
	if ((rc = stage_push(t->base.next, &c, err)) < 0 || t->offset < t->member.size)
		return rc;
	return (end_rc = end_member(t, err)) < 0 ? -1 : rc | end_rc;
}

static int
eat_padding(struct tar_reader *t, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	*used = t->padding < len ? t->padding : len;
	t->padding -= *used;
	for (size_t i = 0; i < *used; i++)
		if (data[i] != 0)
			return damaged(err, "the padding behind a member is not zero");
	if (t->padding == 0)
		t->part = PART_HEADER;
	return 0;
}

/* Two zero blocks; more zeros are as good. */
static int
eat_end(struct tar_reader *t, const uint8_t *data, size_t len, size_t *used, struct err *err)
{
	size_t want = 2 * TAR_BLOCK - t->got;

	*used = len;
	for (size_t i = 0; i < len; i++)
		if (data[i] != 0)
			return damaged(err, "there is something behind its end");
	t->got += len < want ? len : want;
	return 0;
}

static int
push_tar(struct tar_reader *t, struct chunk *c, struct err *err)
{
	uint8_t *data = c->data;
	size_t len = c->len, used;
	int rc, paused = 0;

	if (t->part == PART_OUTSIDE)
		return damaged(err, "bytes come before any archive has begun");
	if (c->pos != t->pos)
		return damaged(err, "bytes are missing");
	t->pos += len;
	for (; len > 0; data += used, len -= used, paused |= rc) {
		if (t->part == PART_HEADER)
			rc = eat_header(t, data, len, &used, err);
		else if (t->part == PART_CONTENTS)
			rc = eat_contents(t, data, len, &used, err);
		else if (t->part == PART_PADDING)
			rc = eat_padding(t, data, len, &used, err);
		else
			rc = eat_end(t, data, len, &used, err);
		if (rc < 0)
			return -1;
	}
	return paused;
}

static int
tar_reader_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct tar_reader *t = (struct tar_reader *)stage;

	switch (c->kind) {
	case CHUNK_TAR:
		return push_tar(t, c, err);
	case CHUNK_ARCHIVE:
		if (t->part != PART_OUTSIDE)
			return damaged(err, "another one begins before its end");
		t->part = PART_HEADER;
		t->got = 0;
		t->pos = 0;
		break;
	case CHUNK_ARCHIVE_END:
		if (t->part != PART_END || t->got < 2 * TAR_BLOCK)
			return damaged(err, "it is cut off");
		t->part = PART_OUTSIDE;
		break;
	default:
		break;
	}
	return stage_push(t->base.next, c, err);
}

static int
tar_reader_finish(struct stage *stage, struct err *err)
{
	struct tar_reader *t = (struct tar_reader *)stage;

	return t->part == PART_OUTSIDE ? stage_finish(t->base.next, err) : damaged(err, "it is cut off");
}

static void
tar_reader_free(struct stage *stage)
{
	stage_free(stage->next);
	free(stage);
}

static const struct stage_ops tar_reader_ops = {tar_reader_push, tar_reader_finish, tar_reader_free};

struct stage *
tar_reader_new(struct stage *next, struct err *err)
{
	struct tar_reader *t = calloc(1, sizeof(*t));

	if (t == NULL) {
		err_nomem(err);
		return NULL;
	}
	t->base.ops = &tar_reader_ops;
	t->base.next = next;
	return &t->base;
}
