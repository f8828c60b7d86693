/*
 * fdtable: what stands behind each file descriptor. A fixed array, so that looking is one load and needs no lock; an
 * entry is made by the call that opens and cleared by the call that closes, in one thread of one process.
 */
#ifndef STORAGE_FDTABLE_H
#define STORAGE_FDTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "walcrypt/page.h"

#define FDTABLE_MAX 65536

enum file_class {
	FILE_NONE, /* all calls pass */
	FILE_RELATION,
	FILE_WAL,
	FILE_WAL_TEMP, /* pg_wal/xlogtemp.*: a new segment, or the text of a history file (R2) */
	FILE_TEMP
};

enum file_view {
	VIEW_CRYPT,   /* the process sees clear pages */
	VIEW_RAW,     /* it sees the bytes on disk */
	VIEW_SENDER,  /* WAL, raw, and a change of generation within a page is found (R7) */
	VIEW_RECEIVER /* WAL written as it arrives (R5) */
};

struct file {
	uint8_t class, view;
	bool append;  /* asked for O_APPEND, which we do ourselves */
	bool text;    /* FILE_WAL_TEMP: a history file */
	bool lasting; /* FILE_TEMP: read again after a restart */
	bool source;  /* belongs to pg_rewind's source, with keys of its own */
	union {
		struct page_at at; /* FILE_RELATION: of the file's first block */
		struct {
			uint32_t tli, log, seg;
			uint32_t peek_until; /* VIEW_RECEIVER: no page at or past this offset can be one that is already there */
			bool peeked;         /* peek_until is known */
		} wal;
		uint8_t tweak[12]; /* FILE_TEMP */
	};
};

extern struct file fdtable[FDTABLE_MAX];

/* NULL when calls on fd pass. */
static inline struct file *
fdtable_file(int fd)
{
	return (unsigned)fd < FDTABLE_MAX && fdtable[fd].class != FILE_NONE ? &fdtable[fd] : NULL;
}

/* Forget what fd was. */
static inline void
fdtable_clear(int fd)
{
	if ((unsigned)fd < FDTABLE_MAX && fdtable[fd].class != FILE_NONE)
		fdtable[fd].class = FILE_NONE;
}

/* The server's data directory, absolute: the same files have names below it. */
void fdtable_root(const char *dir);
/* Classify path by name, open flags and what the process does now; f's class is FILE_NONE when calls pass. */
void fdtable_classify(const char *path, int flags, struct file *f);
/* Would bytes written under one name be read under the other? Not if either is of a class of ours and the other not. */
bool fdtable_same_place(const struct file *a, const struct file *b);

#endif
