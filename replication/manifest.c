#include "replication/manifest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "replication/manifest_line.h"

#define LINE_MAX (16 * 1024) /* a path of 1280 bytes, each escaped, fits with the rest */
#define OUT_HIGH 32768       /* passed on in pieces of about this size */

enum manifest_part {
	PART_NONE,
	PART_VERSION,
	PART_BEFORE_FILES,
	PART_FILES,
	PART_BEFORE_RANGES,
	PART_RANGES,
	PART_CHECKSUM,
	PART_DONE
};

struct manifest {
	struct stage base;
	enum digest_kind checksums;
	struct spool *spool;
	enum manifest_part part;
	int version;
	bool first; /* no file entry has been written */
	bool have_entry, no_more;
	struct spool_entry entry; /* the next one of the spool */
	struct digest *in, *out_digest;
	struct buffer line; /* what came of the present line, without newline */
	struct buffer out;  /* written, not passed on yet */
	uint64_t pos;
};

static int
damaged(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "backup manifest of the upstream %s", what);
	return err_sqlstate(err, "08P01");
}

static int
pass_on(struct manifest *m, struct err *err)
{
	struct chunk c = {.kind = CHUNK_MANIFEST, .pos = m->pos, .data = buffer_data(&m->out), .len = buffer_len(&m->out)};
	int rc;

	if (buffer_check(&m->out, err) != 0)
		return -1;
	if (c.len == 0)
		return 0;
	/* the checksum's own line is not in the checksum */
	if (m->part != PART_DONE && digest_update(m->out_digest, c.data, c.len, err) != 0)
		return -1;
	m->pos += c.len;
	rc = stage_push(m->base.next, &c, err);
	buffer_consume(&m->out, c.len);
	return rc;
}

static int
fetch_entry(struct manifest *m, struct err *err)
{
	int rc;

	if (m->have_entry || m->no_more)
		return 0;
	if ((rc = spool_next(m->spool, &m->entry, err)) < 0)
		return -1;
	m->have_entry = rc == 1;
	m->no_more = rc == 0;
	return 0;
}

static void
begin_entry(struct manifest *m)
{
	buffer_put_text(&m->out, m->first ? "\n" : ",\n");
	m->first = false;
}

/* Those of ours that stand in front of the next changed or dropped one. */
static int
put_inserted(struct manifest *m, struct err *err)
{
	for (;;) {
		if (fetch_entry(m, err) != 0)
			return -1;
		if (!m->have_entry || m->entry.kind != SPOOL_INSERTED)
			return 0;
		begin_entry(m);
		manifest_line_put_new(&m->out, m->checksums, &m->entry);
		m->have_entry = false;
	}
}

static int
take_file(struct manifest *m, const char *line, size_t len, struct err *err)
{
	struct manifest_line l;

	if (manifest_line_parse(line, len, m->checksums, &l, err) != 0 || put_inserted(m, err) != 0)
		return -1;
	if (!m->have_entry || strcmp(m->entry.path, l.path) != 0) {
		begin_entry(m);
		buffer_put(&m->out, line, len - (l.comma ? 1 : 0));
		return 0;
	}
	if (m->entry.kind == SPOOL_CHANGED) {
		begin_entry(m);
		manifest_line_put(&m->out, &l, m->checksums, &m->entry);
	}
	m->have_entry = false;
	return 0;
}

static int
end_files(struct manifest *m, struct err *err)
{
	if (put_inserted(m, err) != 0)
		return -1;
	if (m->have_entry) {
		err_set(err, ERR_DAMAGED, "backup manifest of the upstream lacks a file of the backup: \"%.150s\"",
		        m->entry.path);
		return err_sqlstate(err, "08P01");
	}
	buffer_put_text(&m->out, "\n],\n");
	m->part = PART_BEFORE_RANGES;
	return 0;
}

static int
take_checksum(struct manifest *m, const char *line, size_t len, struct err *err)
{
	static const char head[] = "\"Manifest-Checksum\": \"";
	uint8_t sum[DIGEST_MAX_LEN];
	struct buffer want;
	int n, same;

	if ((n = digest_final(m->in, sum, err)) < 0)
		return -1;
	buffer_init(&want, 256);
	buffer_put_text(&want, head);
	manifest_line_put_hex(&want, sum, (size_t)n);
	buffer_put_text(&want, "\"}");
	if (buffer_check(&want, err) != 0) {
		buffer_free(&want);
		return -1;
	}
	same = buffer_len(&want) == len && memcmp(buffer_data(&want), line, len) == 0;
	buffer_free(&want);
	if (!same)
		return damaged(err, "does not have the checksum that it says");
	if (pass_on(m, err) < 0 || (n = digest_final(m->out_digest, sum, err)) < 0)
		return -1;
	m->part = PART_DONE;
	buffer_put_text(&m->out, head);
	manifest_line_put_hex(&m->out, sum, (size_t)n);
	buffer_put_text(&m->out, "\"}\n");
	return 0;
}

static bool
is(const char *line, size_t len, const char *text)
{
	return strlen(text) == len && memcmp(line, text, len) == 0;
}

static bool
begins(const char *line, size_t len, const char *text)
{
	return strlen(text) <= len && memcmp(line, text, strlen(text)) == 0;
}

static void
copy_line(struct manifest *m, const char *line, size_t len)
{
	buffer_put(&m->out, line, len);
	buffer_put_text(&m->out, "\n");
}

static int
take_line(struct manifest *m, const char *line, size_t len, struct err *err)
{
	switch (m->part) {
	case PART_VERSION:
		m->version = is(line, len, "{ \"PostgreSQL-Backup-Manifest-Version\": 1,")   ? 1
		             : is(line, len, "{ \"PostgreSQL-Backup-Manifest-Version\": 2,") ? 2
		                                                                             : 0;
		if (m->version == 0)
			return damaged(err, "has an unknown version");
		m->part = PART_BEFORE_FILES;
		copy_line(m, line, len);
		return 0;
	case PART_BEFORE_FILES:
		if (m->version == 2 && begins(line, len, "\"System-Identifier\": ")) {
			copy_line(m, line, len);
			return 0;
		}
		if (!is(line, len, "\"Files\": ["))
			break;
		m->part = PART_FILES;
		buffer_put(&m->out, line, len); /* its newline comes with the first entry, or with the end */
		return 0;
	case PART_FILES:
		return is(line, len, "],") ? end_files(m, err) : take_file(m, line, len, err);
	case PART_BEFORE_RANGES:
		if (!is(line, len, "\"WAL-Ranges\": ["))
			break;
		m->part = PART_RANGES;
		copy_line(m, line, len);
		return 0;
	case PART_RANGES:
		if (is(line, len, "],"))
			m->part = PART_CHECKSUM;
		else if (!begins(line, len, "{ \"Timeline\": "))
			break;
		copy_line(m, line, len);
		return 0;
	case PART_CHECKSUM:
		return take_checksum(m, line, len, err);
	case PART_NONE:
	case PART_DONE:
		break;
	}
	return damaged(err, "has a line of unknown shape");
}

/* What the checksum covers: all lines before its own. Digested with their newline, when they are whole. */
static int
end_line(struct manifest *m, struct err *err)
{
	buffer_put_text(&m->line, "\n");
	if (buffer_check(&m->line, err) != 0)
		return -1;
	if (m->part != PART_CHECKSUM && digest_update(m->in, buffer_data(&m->line), buffer_len(&m->line), err) != 0)
		return -1;
	if (take_line(m, (const char *)buffer_data(&m->line), buffer_len(&m->line) - 1, err) != 0)
		return -1;
	buffer_consume(&m->line, buffer_len(&m->line));
	return 0;
}

static int
push_bytes(struct manifest *m, struct chunk *c, struct err *err)
{
	const uint8_t *data = c->data, *end = data + c->len;
	int rc, paused = 0;

	if (m->part == PART_NONE)
		return damaged(err, "has no beginning");
	while (data < end) {
		const uint8_t *newline = memchr(data, '\n', (size_t)(end - data));
		size_t n = (size_t)((newline != NULL ? newline : end) - data);

		if (n > LINE_MAX - buffer_len(&m->line))
			return damaged(err, "has a line that is too long");
		buffer_put(&m->line, data, n);
		if (buffer_check(&m->line, err) != 0)
			return -1;
		data += n;
		if (newline == NULL)
			break;
		data++;
		if (end_line(m, err) != 0)
			return -1;
		if (buffer_len(&m->out) >= OUT_HIGH || m->part == PART_DONE) {
			if ((rc = pass_on(m, err)) < 0)
				return -1;
			paused |= rc;
		}
	}
	return paused;
}

static int
manifest_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct manifest *m = (struct manifest *)stage;

	if (c->kind == CHUNK_MANIFEST)
		return push_bytes(m, c, err);
	if (c->kind == CHUNK_MANIFEST_BEGIN) {
		if (m->part != PART_NONE)
			return damaged(err, "begins twice");
		m->part = PART_VERSION;
	}
	return stage_push(m->base.next, c, err);
}

static int
manifest_finish(struct stage *stage, struct err *err)
{
	struct manifest *m = (struct manifest *)stage;

	if (m->part != PART_DONE || buffer_len(&m->line) > 0)
		return damaged(err, m->part == PART_NONE ? "did not come" : "is cut off");
	return stage_finish(m->base.next, err);
}

static void
manifest_free(struct stage *stage)
{
	struct manifest *m = (struct manifest *)stage;

	digest_free(m->in);
	digest_free(m->out_digest);
	buffer_free(&m->line);
	buffer_free(&m->out);
	stage_free(m->base.next);
	free(m);
}

static const struct stage_ops manifest_ops = {manifest_push, manifest_finish, manifest_free};

struct stage *
manifest_new(enum digest_kind checksums, struct spool *spool, struct stage *next, struct err *err)
{
	struct manifest *m = calloc(1, sizeof(*m));

	if (m == NULL) {
		err_nomem(err);
		return NULL;
	}
	m->base.ops = &manifest_ops;
	m->checksums = checksums;
	m->spool = spool;
	m->first = true;
	buffer_init(&m->line, LINE_MAX + 1);
	/* one push adds a line at a time, and what is inserted there: the standby's keys, at most 160 files */
	buffer_init(&m->out, OUT_HIGH + 8 * LINE_MAX);
	if ((m->in = digest_new(DIGEST_SHA256, err)) == NULL || (m->out_digest = digest_new(DIGEST_SHA256, err)) == NULL) {
		manifest_free(&m->base);
		return NULL;
	}
	m->base.next = next;
	return &m->base;
}
