#include "ctl/bad_pages.h"

#include <inttypes.h>
#include <stdio.h>

void
bad_pages_end(struct bad_pages *b)
{
	if (b->n == 1)
		verify_finding(b->v, b->path, "%s %" PRIu64 " %s", b->what, b->first, b->why);
	else if (b->n > 1)
		verify_finding(b->v, b->path, "%ss %" PRIu64 " to %" PRIu64 " %s", b->what, b->first, b->first + b->n - 1,
		               b->why_many);
	b->n = 0;
}

void
bad_pages_add(struct bad_pages *b, uint64_t number, int kind, const char *why, const char *why_many)
{
	b->v->counts.bad_pages++;
	if (b->n > 0 && b->kind == kind && b->first + b->n == number) {
		b->n++;
		return;
	}
	bad_pages_end(b);
	b->first = number;
	b->n = 1;
	b->kind = kind;
	snprintf(b->why, sizeof(b->why), "%s", why);
	snprintf(b->why_many, sizeof(b->why_many), "%s", why_many);
}
