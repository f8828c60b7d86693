/*
 * scram: SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as a server, as messages in and messages out, and the SASL messages that
 * carry them. source: RFC 5802, 7677, 5929 (tls-server-end-point); PostgreSQL documentation, "SASL Authentication";
 * src/backend/libpq/auth-scram.c.
 *
 *   client-first   p=tls-server-end-point,,n=,r=<nonce>     or n,, or y,, instead of the p=
 *   server-first   r=<nonce><ours>,s=<salt>,i=<iterations>
 *   client-final   c=<gs2 header and channel binding data>,r=<nonce><ours>,p=<proof>
 *   server-final   v=<signature>
 *
 * The user's name within the messages is ignored, as PostgreSQL does: the startup packet's counts, and it chose the
 * verifier. Passwords are normalised (SASLprep) by the client and by who made the verifier; a server never sees one.
 */
#ifndef REPLICATION_SCRAM_H
#define REPLICATION_SCRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "replication/buffer.h"
#include "walcrypt/verifier.h"

#define SCRAM_PLAIN "SCRAM-SHA-256"
#define SCRAM_PLUS "SCRAM-SHA-256-PLUS"
#define SCRAM_BINDING_MAX 64
#define SCRAM_NONCE_LEN 18 /* bytes of ours, before base64 */

struct scram;

struct scram_conf {
	const char *user; /* for the error's text */
	const struct verifier *verifier;
	bool doomed;            /* go through it, and refuse whatever comes: the user is unknown or may not come in */
	const uint8_t *binding; /* hash of the server's certificate; NULL: PLUS is not offered */
	size_t binding_len;
	const char *nonce; /* ours; NULL: a random one */
};

/* AuthenticationSASL: the mechanisms that are offered, the better one first. */
int scram_offer(struct buffer *out, bool plus, struct err *err);

/* NULL with err set on a lack of memory. Copies what conf points to. */
struct scram *scram_new(const struct scram_conf *conf, struct err *err);
void scram_free(struct scram *s); /* wipes; NULL allowed */

/*
 * scram_push(s, body, len, out, err): the body of the next message of type 'p': a SASLInitialResponse first, then
 * SASLResponses. What is to be answered is appended to out.
 *   returns 0: go on; 1: the client has proved that it knows the password (AuthenticationOk is the caller's to send)
 *   errors  -1: wrong password, or doomed (28P01); what breaks the protocol (08P01); after it only scram_free
 */
int scram_push(struct scram *s, const uint8_t *body, size_t len, struct buffer *out, struct err *err);

#endif
