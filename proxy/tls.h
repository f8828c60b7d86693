/*
 * tls: TLS towards clients: certificate, key, authorities and rules, loaded once and shared by the sessions that began
 * under them. TLS 1.2 and later; no renegotiation, no compression, no session tickets or other resumption; 0-RTT never.
 */
#ifndef PROXY_TLS_H
#define PROXY_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/err.h"
#include "common/settings.h"

struct tls;

/* NULL with err set when a file can't be read or used; the key file may be nobody else's to read. */
struct tls *tls_new(const struct settings *settings, struct err *err);
void tls_free(struct tls *t); /* NULL allowed */
/* A server's side of a connection; NULL with err set. */
SSL *tls_session(const struct tls *t, struct err *err);
/* When the certificate ends; 0 when that can't be said. */
time_t tls_expiry(const struct tls *t);
/* The certificate's hash for tls-server-end-point (RFC 5929); NULL when its signature names no hash (EdDSA). */
const uint8_t *tls_binding(const struct tls *t, size_t *len);

/* What OpenSSL says went wrong, for the log; empties the thread's queue. */
void tls_reason(SSL *ssl, char *out, size_t len);
/* The one common name of the client's certificate, if it gave one that the authorities vouch for. */
bool tls_client_name(SSL *ssl, char *out, size_t len);
/* Has the client said that it speaks our protocol (ALPN)? */
bool tls_has_alpn(SSL *ssl);

#endif
