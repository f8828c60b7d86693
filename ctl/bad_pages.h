/* bad_pages: the pages of one file that are not as they must be, told one by one, and neighbours with the same fault in
 * one line. */
#ifndef CTL_BAD_PAGES_H
#define CTL_BAD_PAGES_H

#include "ctl/verify.h"

struct bad_pages {
	struct verify *v;
	const char *path; /* relative to the data directory */
	const char *what; /* "block", "WAL page" */
	uint64_t first, n;
	int kind;
	char why[256], why_many[256];
};

/* Page `number` has this fault. kind: pages with the same are told together, in the words of why_many. */
void bad_pages_add(struct bad_pages *b, uint64_t number, int kind, const char *why, const char *why_many);
/* The file is at its end: tell what is left. */
void bad_pages_end(struct bad_pages *b);

#endif
