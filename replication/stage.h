/*
 * stage: one step of a stream. Stages form a chain; each passes what it made to the next one.
 *
 * A chunk's data is lent for the call and writable: transform in place, no copy. Any split of the input gives the same
 * output bytes. push returns 0, 1 (taken, but pause: the far end is full) or -1 with err set; after -1 only stage_free
 * is legal. finish checks completeness (no short member, no missing tail) and passes on. free frees the stage and all
 * after it; NULL allowed.
 */
#ifndef REPLICATION_STAGE_H
#define REPLICATION_STAGE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum chunk_kind {
	CHUNK_WAL,        /* pos: LSN of data[0] */
	CHUNK_WAL_END,    /* an upstream message ends here: flush what is held (finding P1); no data */
	CHUNK_ARCHIVE,    /* an archive begins; archive is set; no data */
	CHUNK_TAR,        /* raw tar bytes of the present archive; pos: offset in the archive */
	CHUNK_MEMBER,     /* a member begins; member is set; no data */
	CHUNK_DATA,       /* its contents; pos: offset in the member */
	CHUNK_MEMBER_END, /* no data */
	CHUNK_ARCHIVE_END,
	CHUNK_PROGRESS,       /* pos: bytes that the upstream has sent of the backup; no data */
	CHUNK_MANIFEST_BEGIN, /* no data */
	CHUNK_MANIFEST        /* bytes of the backup manifest */
};

struct tar_member;
struct backup_archive;

struct chunk {
	enum chunk_kind kind;
	uint64_t pos;
	const struct tar_member *member;
	const struct backup_archive *archive;
	uint8_t *data;
	size_t len;
	/* CHUNK_WAL: where what becomes of data may be put, len bytes, none of them in data; NULL: in place */
	uint8_t *to;
};

struct stage;
struct stage_ops {
	int (*push)(struct stage *, struct chunk *, struct err *);
	int (*finish)(struct stage *, struct err *);
	void (*free)(struct stage *);
};
struct stage {
	const struct stage_ops *ops;
	struct stage *next; /* owned; NULL at the end of the chain */
};

static inline int
stage_push(struct stage *s, struct chunk *c, struct err *err)
{
	return s->ops->push(s, c, err);
}

static inline int
stage_finish(struct stage *s, struct err *err)
{
	return s->ops->finish(s, err);
}

static inline void
stage_free(struct stage *s)
{
	if (s != NULL)
		s->ops->free(s);
}

#endif
