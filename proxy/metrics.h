/*
 * metrics: the proxy's numbers in Prometheus' text format (version 0.0.4). docs/proxy.md lists them. Any thread.
 */
#ifndef PROXY_METRICS_H
#define PROXY_METRICS_H

#include "proxy/proxy.h"
#include "replication/buffer.h"

/* site: the caller holds a reference. -1: out of memory; out has a part then. */
int metrics_write(struct buffer *out, struct proxy *p, const struct site *site, struct err *err);

#endif
