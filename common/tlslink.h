/*
 * tlslink: a connection inside TLS that carries bytes, for protocols that are not HTTP; blocks until its deadline.
 * Peer, trust and deadline are those of struct http_peer (never clear); the deadline holds for all calls together.
 */
#ifndef COMMON_TLSLINK_H
#define COMMON_TLSLINK_H

#include <stddef.h>

#include "common/http.h"

struct tlslink;

/* Connect and shake hands. peer and its strings outlive the link. NULL with err: ERR_UNREACHABLE, ERR_USAGE for files
 * of peer that cannot be used. */
struct tlslink *tlslink_open(const struct http_peer *peer, struct err *err);
/* The peer that an open link goes on with, the same one with another deadline; it outlives the link, too, or the next
 * such call. */
void tlslink_peer(struct tlslink *l, const struct http_peer *peer);
/* All of data; exactly len bytes. ERR_UNREACHABLE when the peer hangs up or the deadline passes. */
int tlslink_send(struct tlslink *l, const void *data, size_t len, struct err *err);
int tlslink_recv(struct tlslink *l, void *data, size_t len, struct err *err);
void tlslink_close(struct tlslink *l); /* NULL is allowed */

#endif
