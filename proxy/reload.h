/*
 * reload: the configuration, the keysets and the certificates are read again, in a thread of its own, because a key
 * provider may take its time. When all is well the proxy has another site from then on; else all stays as it was.
 */
#ifndef PROXY_RELOAD_H
#define PROXY_RELOAD_H

#include <ev.h>
#include <stdbool.h>

#include "proxy/proxy.h"

struct reload;

/* loop: the main thread's, which the site is changed in. */
struct reload *reload_new(struct ev_loop *loop, struct proxy *proxy, struct err *err);
void reload_free(struct reload *r); /* NULL allowed; waits for one that is under way */
/* Begin one, or when one is under way another after it (any thread). Returns its number for reload_over. */
unsigned reload_ask(struct reload *r);
/* Is it over (any thread)? What came of it is in *rc, 0 or -1 with err set. */
bool reload_over(struct reload *r, unsigned number, int *rc, struct err *err);

#endif
