#include "replication/memberout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
memberout_free(struct memberout *o)
{
	digest_free(o->digest);
	o->digest = NULL;
}

static int
push_mark(struct memberout *o, enum chunk_kind kind, struct err *err)
{
	struct chunk c = {.kind = kind, .member = &o->member};

	return stage_push(o->next, &c, err);
}

static int
note(struct memberout *o, enum spool_kind kind, const struct tar_member *m, struct err *err)
{
	struct spool_entry e = {.kind = kind, .size = m->size, .mtime = m->mtime};
	int len;

	if (o->spool == NULL)
		return 0;
	snprintf(e.path, sizeof(e.path), "%s%s", o->prefix, m->name);
	if (o->digest != NULL) {
		if ((len = digest_final(o->digest, e.checksum, err)) < 0)
			return -1;
		e.checksum_len = (size_t)len;
		digest_free(o->digest);
		o->digest = NULL;
	}
	return spool_add(o->spool, &e, err);
}

int
memberout_begin(struct memberout *o, const struct tar_member *m, bool noted, struct err *err)
{
	o->member = *m;
	o->pos = 0;
	o->noted = noted && o->spool != NULL;
	if (o->noted && o->checksums != DIGEST_NONE && (o->digest = digest_new(o->checksums, err)) == NULL)
		return -1;
	return push_mark(o, CHUNK_MEMBER, err);
}

int
memberout_data(struct memberout *o, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.kind = CHUNK_DATA, .pos = o->pos, .member = &o->member, .data = data, .len = len};

	if (len == 0)
		return 0;
	if (o->digest != NULL && digest_update(o->digest, data, len, err) != 0)
		return -1;
	o->pos += len;
	return stage_push(o->next, &c, err);
}

static int
end(struct memberout *o, enum spool_kind kind, struct err *err)
{
	int rc = push_mark(o, CHUNK_MEMBER_END, err);

	return rc < 0 || (o->noted && note(o, kind, &o->member, err) != 0) ? -1 : rc;
}

int
memberout_end(struct memberout *o, struct err *err)
{
	return end(o, SPOOL_CHANGED, err);
}

int
memberout_drop(struct memberout *o, const struct tar_member *m, struct err *err)
{
	return note(o, SPOOL_DROPPED, m, err);
}

int
memberout_insert(struct memberout *o, const char *name, const void *data, size_t len, struct err *err)
{
	struct tar_member m = o->member;
	uint8_t *copy = NULL;
	int b, d, e;

	snprintf(m.name, sizeof(m.name), "%s", name);
	m.link[0] = '\0';
	m.type = data != NULL ? TAR_FILE : TAR_DIRECTORY;
	m.mode = data != NULL ? 0600 : 0700;
	m.size = data != NULL ? len : 0;
	m.mtime = o->mtime;
	if ((b = memberout_begin(o, &m, data != NULL, err)) < 0)
		return -1;
	/* a chunk's data is writable for the stages behind */
	if (data != NULL && len > 0) {
		if ((copy = malloc(len)) == NULL)
			return err_nomem(err);
		memcpy(copy, data, len);
	}
	d = copy == NULL ? 0 : memberout_data(o, copy, len, err);
	free(copy);
	return d < 0 || (e = end(o, SPOOL_INSERTED, err)) < 0 ? -1 : b | d | e;
}
