/*
 * memberout: members of a base backup on their way to the next stage, with what the manifest must be told of those that
 * change: size, checksum, that they are gone or new.
 */
#ifndef REPLICATION_MEMBEROUT_H
#define REPLICATION_MEMBEROUT_H

#include <stdbool.h>

#include "replication/spool.h"
#include "replication/stage.h"
#include "replication/tar.h"

struct memberout {
	struct stage *next;         /* the owner's */
	struct spool *spool;        /* NULL: no manifest wanted; the owner's */
	enum digest_kind checksums; /* of the manifest */
	uint64_t mtime;             /* of what is inserted */
	char prefix[64];            /* what the manifest puts before the archive's names */
	/* the present member, or the last one */
	struct tar_member member;
	uint64_t pos;
	bool noted; /* the manifest is to be told */
	struct digest *digest;
};

/* Zero the struct and set its first four fields; memberout_free frees what it made for itself. */
void memberout_free(struct memberout *o);

/* m is copied; its size must be what will be put. noted: it changes, and stands in the manifest. 0, 1 (pause), -1; so
 * do all below. */
int memberout_begin(struct memberout *o, const struct tar_member *m, bool noted, struct err *err);
int memberout_data(struct memberout *o, uint8_t *data, size_t len, struct err *err);
int memberout_end(struct memberout *o, struct err *err);
/* The manifest has m, and it does not go on. */
int memberout_drop(struct memberout *o, const struct tar_member *m, struct err *err);
/* A whole member that the upstream does not have; a directory when data is NULL. Owner and group are the member's
 * before. Not between begin and end. */
int memberout_insert(struct memberout *o, const char *name, const void *data, size_t len, struct err *err);

#endif
