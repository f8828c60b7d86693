#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "replication/tar.h"

struct tar_writer {
	struct stage base;
	bool in_archive, in_member;
	uint64_t pos;           /* in the archive */
	uint64_t size, written; /* of the present member */
};

/* Ours, not the upstream's: a stage in front broke its promise. */
static int
wrong(struct err *err, const char *what)
{
	return err_set(err, ERR_FAILED, "cannot write tar archive: %s", what);
}

static int
put_bytes(struct tar_writer *t, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.kind = CHUNK_TAR, .pos = t->pos, .data = data, .len = len};

	if (len == 0)
		return 0;
	t->pos += len;
	return stage_push(t->base.next, &c, err);
}

static int
put_zeros(struct tar_writer *t, size_t len, struct err *err)
{
	uint8_t zeros[2 * TAR_BLOCK] = {0};

	return put_bytes(t, zeros, len, err);
}

static int
begin_member(struct tar_writer *t, const struct tar_member *m, struct err *err)
{
	uint8_t block[TAR_BLOCK];

	if (!t->in_archive || t->in_member)
		return wrong(err, "a member begins where none can");
	if (tar_header_format(m, block, err) != 0)
		return -1;
	t->in_member = true;
	t->size = m->type == TAR_FILE ? m->size : 0;
	t->written = 0;
	return put_bytes(t, block, sizeof(block), err);
}

static int
put_data(struct tar_writer *t, struct chunk *c, struct err *err)
{
	if (!t->in_member || c->pos != t->written || c->len > t->size - t->written)
		return wrong(err, "contents do not fit the member's size");
	t->written += c->len;
	return put_bytes(t, c->data, c->len, err);
}

static int
end_member(struct tar_writer *t, struct err *err)
{
	if (!t->in_member || t->written != t->size)
		return wrong(err, "contents are shorter than the member's size");
	t->in_member = false;
	return put_zeros(t, (size_t)((TAR_BLOCK - t->size % TAR_BLOCK) % TAR_BLOCK), err);
}

static int
tar_writer_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct tar_writer *t = (struct tar_writer *)stage;
	int rc, end_rc;

	switch (c->kind) {
	case CHUNK_MEMBER:
		return begin_member(t, c->member, err);
	case CHUNK_DATA:
		return put_data(t, c, err);
	case CHUNK_MEMBER_END:
		return end_member(t, err);
	case CHUNK_ARCHIVE:
		if (t->in_archive)
			return wrong(err, "an archive begins inside another one");
		t->in_archive = true;
		t->pos = 0;
		return stage_push(t->base.next, c, err);
	case CHUNK_ARCHIVE_END:
		if (!t->in_archive || t->in_member)
			return wrong(err, "an archive ends where it cannot");
		t->in_archive = false;
		if ((rc = put_zeros(t, 2 * TAR_BLOCK, err)) < 0 || (end_rc = stage_push(t->base.next, c, err)) < 0)
			return -1;
		return rc | end_rc;
	default:
		return stage_push(t->base.next, c, err);
	}
}

static int
tar_writer_finish(struct stage *stage, struct err *err)
{
	struct tar_writer *t = (struct tar_writer *)stage;

	return t->in_archive ? wrong(err, "it has no end") : stage_finish(t->base.next, err);
}

static void
tar_writer_free(struct stage *stage)
{
	stage_free(stage->next);
	free(stage);
}

static const struct stage_ops tar_writer_ops = {tar_writer_push, tar_writer_finish, tar_writer_free};

struct stage *
tar_writer_new(struct stage *next, struct err *err)
{
	struct tar_writer *t = calloc(1, sizeof(*t));

	if (t == NULL) {
		err_nomem(err);
		return NULL;
	}
	t->base.ops = &tar_writer_ops;
	t->base.next = next;
	return &t->base;
}
