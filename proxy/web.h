/*
 * web: the proxy's state over HTTP, for looking only: a page (/), its data (/status.json, /history.json) and metrics
 * for Prometheus (/metrics). A thread of libmicrohttpd's own, which reads what others do as copies and shows.
 *
 * GET and HEAD only. A request's Host must be an address, localhost or one of http_hosts, so that no web site can have
 * a visitor's browser ask us under a name of its own (DNS rebinding). Peers must be on loopback or in http_allow_addr.
 * At most WEB_CONNECTIONS at a time, each for one request and WEB_SECONDS at most.
 */
#ifndef PROXY_WEB_H
#define PROXY_WEB_H

#include "proxy/proxy.h"

#define WEB_CONNECTIONS 32
#define WEB_SECONDS 10

struct web;

/* Listen on http_listen of the proxy's settings and serve. */
struct web *web_new(struct proxy *p, struct err *err);
/* End connections that are older than WEB_SECONDS; called now and then. */
void web_tick(struct web *w);
void web_free(struct web *w); /* NULL allowed; waits for the thread */

#endif
