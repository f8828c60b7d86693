/*
 * pause: whose new sessions are held back until further notice (PAUSE and RESUME on the console). Kept by name, so a
 * reload changes nothing; the proxy's end forgets it. Thread-safe.
 */
#ifndef PROXY_PAUSE_H
#define PROXY_PAUSE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/settings.h"

struct pause;
typedef char pause_name[SETTINGS_NAME_MAX + 1];

struct pause *pause_new(struct err *err);
void pause_free(struct pause *p); /* NULL allowed */

/* All are held but these n, whatever was said before. -1 with err set: out of memory, nothing changed. */
int pause_all(struct pause *p, const pause_name *except, size_t n, struct err *err);
/* Nobody is. */
void pause_none(struct pause *p);
/* One more is held, or one less; the others stay as they are. -1 as above. */
int pause_one(struct pause *p, const char *name, bool held, struct err *err);

bool pause_holds(struct pause *p, const char *name);
/* "no", "all", "all but blue, green", "blue, green"; cut at len. */
void pause_text(struct pause *p, char *out, size_t len);

#endif
