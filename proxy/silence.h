/*
 * silence: a peer that says nothing any more, though it should: a link that loses every packet closes nothing.
 *
 *   upstream   while it streams, or owes the answer to a command that takes no time: after half of wal_receiver_timeout
 *              without a byte a stream's server is asked for a keepalive, after the whole the session ends. Not while
 *              we do not read it ourselves, because the client is slow.
 *   client     while it is streamed to: after the upstream's own wal_sender_timeout. Before that the upstream asks for
 *              a reply, which we pass on, so a client that is there has answered; and an upstream that is not read
 *              because nobody takes what it sent could not tell us that it has given up. While it uploads a manifest:
 *              after client_stall_timeout, but for the time in which the upstream takes nothing.
 *
 * In a base backup, and between commands, nothing need be said for a long time: there TCP finds out (tcp_keepalive).
 */
#ifndef PROXY_SILENCE_H
#define PROXY_SILENCE_H

#include <ev.h>
#include <stdbool.h>

struct session;

/* Both times are ev_now's. */
struct silence {
	ev_timer timer;
	ev_tstamp client; /* when it was heard last */
	bool asked;       /* the upstream, for a keepalive */
};

void silence_init(struct session *s);
/* The session has a new state: begin to listen, or stop. */
void silence_watch(struct session *s);
void silence_stop(struct session *s);

#endif
