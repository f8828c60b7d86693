/* webjson: what the page shows, as its script asks for it. */
#ifndef PROXY_WEBJSON_H
#define PROXY_WEBJSON_H

#include "proxy/proxy.h"

/* Malloc'ed texts; NULL with err set when memory is out. */

/* What the console shows, table by table. */
char *webjson_status(struct proxy *p, const struct site *site, struct err *err);
/* The lag of each standby: [[time, bytes, seconds], ...] for each name; null where it did not stream. */
char *webjson_history(struct proxy *p, struct err *err);

#endif
