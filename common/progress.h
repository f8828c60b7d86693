/*
 * progress: how far long work has come: bytes, rate and time left; one line that is rewritten on a terminal, a plain
 * line every ten seconds elsewhere. Goes to stderr, so that output stays clean. Threads may add at once.
 */
#ifndef COMMON_PROGRESS_H
#define COMMON_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what; /* "verifying" */
	uint64_t total;   /* bytes; 0: not known */
	bool quiet, terminal;
	int64_t begun_ms;
	_Atomic uint64_t done;
	_Atomic int64_t shown_ms;
};

/* quiet: show nothing. what must live as long as p. */
void progress_begin(struct progress *p, const char *what, uint64_t total, bool quiet);
void progress_add(struct progress *p, uint64_t bytes);
/* Take the line away, so that something else can be printed; on a terminal only. */
void progress_clear(struct progress *p);
/* The last word: what was done and how long it took. */
void progress_end(struct progress *p);

/* "12.3 MB" (powers of 1024), for people. */
void bytes_format(char out[static 32], double bytes);

#endif
