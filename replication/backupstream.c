#include "replication/backupstream.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "replication/tar.h"

struct backupstream {
	struct stage *first;
	bool in_archive, in_manifest;
	struct backup_archive archive;
	uint64_t pos; /* in the archive or manifest */
};

static int
bad_message(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "invalid base backup stream from the upstream: %s", what);
	return err_sqlstate(err, "08P01");
}

static int
push_mark(struct backupstream *b, enum chunk_kind kind, uint64_t pos, struct err *err)
{
	struct chunk c = {.kind = kind, .pos = pos, .archive = &b->archive};

	return stage_push(b->first, &c, err);
}

/* An archive's end has no message of its own. */
static int
end_archive(struct backupstream *b, struct err *err)
{
	if (!b->in_archive)
		return 0;
	b->in_archive = false;
	return push_mark(b, CHUNK_ARCHIVE_END, b->pos, err);
}

/* A string with its NUL out of what is left of the message. */
static int
take_string(const uint8_t **p, size_t *left, char *to, size_t size)
{
	const uint8_t *nul = *left > 0 ? memchr(*p, 0, *left) : NULL;
	size_t len = nul != NULL ? (size_t)(nul - *p) : 0;

	if (nul == NULL || len >= size)
		return -1;
	memcpy(to, *p, len + 1);
	*p += len + 1;
	*left -= len + 1;
	return 0;
}

static int
begin_archive(struct backupstream *b, const uint8_t *p, size_t len, struct err *err)
{
	int paused, rc;

	if (b->in_manifest)
		return bad_message(err, "an archive begins behind the manifest");
	if ((paused = end_archive(b, err)) < 0)
		return -1;
	memset(&b->archive, 0, sizeof(b->archive));
	if (take_string(&p, &len, b->archive.name, sizeof(b->archive.name)) != 0 ||
	    take_string(&p, &len, b->archive.path, sizeof(b->archive.path)) != 0 || len != 0 || b->archive.name[0] == '\0')
		return bad_message(err, "malformed beginning of an archive");
	b->in_archive = true;
	b->pos = 0;
	return (rc = push_mark(b, CHUNK_ARCHIVE, 0, err)) < 0 ? -1 : paused | rc;
}

static int
begin_manifest(struct backupstream *b, struct err *err)
{
	int paused, rc;

	if (b->in_manifest)
		return bad_message(err, "the manifest begins twice");
	if ((paused = end_archive(b, err)) < 0)
		return -1;
	b->in_manifest = true;
	b->pos = 0;
	return (rc = push_mark(b, CHUNK_MANIFEST_BEGIN, 0, err)) < 0 ? -1 : paused | rc;
}

int
backupstream_push(struct backupstream *b, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.pos = b->pos, .archive = &b->archive};

	if (len == 0)
		return bad_message(err, "empty message");
	c.data = data + 1;
	c.len = len - 1;
	switch (data[0]) {
	case 'n':
		return begin_archive(b, data + 1, len - 1, err);
	case 'd':
		if (!b->in_archive && !b->in_manifest)
			return bad_message(err, "data comes before any archive");
		c.kind = b->in_manifest ? CHUNK_MANIFEST : CHUNK_TAR;
		b->pos += c.len;
		return c.len > 0 ? stage_push(b->first, &c, err) : 0;
	case 'p':
		if (len != 9)
			return bad_message(err, "malformed progress report");
		return push_mark(b, CHUNK_PROGRESS, get_u64(data + 1), err);
	case 'm':
		return len == 1 ? begin_manifest(b, err) : bad_message(err, "malformed beginning of the manifest");
	default:
		return bad_message(err, "unknown message type");
	}
}

int
backupstream_finish(struct backupstream *b, struct err *err)
{
	int paused = end_archive(b, err);

	return paused < 0 ? -1 : stage_finish(b->first, err);
}

struct backupstream *
backupstream_new(struct stage *first, struct err *err)
{
	struct backupstream *b = calloc(1, sizeof(*b));

	if (b == NULL) {
		err_nomem(err);
		return NULL;
	}
	b->first = first;
	return b;
}

void
backupstream_free(struct backupstream *b)
{
	if (b == NULL)
		return;
	stage_free(b->first);
	free(b);
}
