/*
 * shows: what there is to see, as tables: the console's SHOW commands and the page's data. docs/proxy.md has the
 * columns. Any thread; what sessions know is read as copies, under the locks of their keepers.
 */
#ifndef PROXY_SHOWS_H
#define PROXY_SHOWS_H

#include "proxy/proxy.h"
#include "proxy/table.h"

struct show {
	const char *name; /* "SESSIONS" */
	const char *help;
	const char *const *columns;
	/* Fill a table that has these columns. site: the caller holds a reference. */
	int (*fill)(struct table *t, struct proxy *p, const struct site *site, struct err *err);
};

/* The i-th, NULL behind the last. */
const struct show *show_at(size_t i);
/* By its name, in capitals; NULL when there is none. */
const struct show *show_find(const char *name);
/* Make the table of a show; to be freed, also after an error. */
int show_make(const struct show *show, struct table *t, struct proxy *p, const struct site *site, struct err *err);
#endif
