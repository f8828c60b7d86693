/*
 * channel: the bytes to and from a client, as they are or through TLS. Never blocks. Buffers of TLS: one record each
 * way.
 */
#ifndef PROXY_CHANNEL_H
#define PROXY_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "proxy/tls.h"

struct channel {
	int fd;
	SSL *ssl;         /* NULL: no TLS */
	bool encrypted;   /* the handshake is done */
	bool wants_write; /* TLS has something of its own to send before it can go on */
	char why[160];    /* after EPROTO */
};

void channel_init(struct channel *c, int fd);
void channel_close(struct channel *c);
/* From now on TLS, which channel_handshake begins. */
int channel_tls(struct channel *c, const struct tls *tls, struct err *err);
/* 1: done; 0: when there is more to read, or room to write if wants_write; -1: why says what was wrong. */
int channel_handshake(struct channel *c);
/* As recv and send: bytes, 0 at the end, or -1 with errno: EAGAIN, what the socket says, EPROTO with `why`. */
ssize_t channel_read(struct channel *c, void *to, size_t len);
ssize_t channel_write(struct channel *c, const void *from, size_t len);
/* Bytes that came with others and wait inside: the socket will not say so. */
bool channel_pending(const struct channel *c);
/* No more will be sent. */
void channel_farewell(struct channel *c);

#endif
