/*
 * startup: the first packet of a connection. source: src/backend/postmaster/postmaster.c (backend_startup.c from 18
 * on), libpq/pqcomm.h.
 */
#ifndef REPLICATION_STARTUP_H
#define REPLICATION_STARTUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define STARTUP_MAX_PARAMS 64
#define STARTUP_MAX_CANCEL_KEY 256
#define STARTUP_NEWEST_MINOR 2 /* we speak 3.0 and 3.2 (3.1 was never used by anyone) */
#define STARTUP_PROTOCOL(major, minor) ((uint32_t)(major) << 16 | (uint32_t)(minor))

enum startup_kind { STARTUP_SESSION, STARTUP_SSL, STARTUP_GSS, STARTUP_CANCEL };
enum startup_replication { STARTUP_REPLICATION_NONE, STARTUP_REPLICATION_PHYSICAL, STARTUP_REPLICATION_DATABASE };

struct startup {
	enum startup_kind kind;
	/* STARTUP_CANCEL */
	uint32_t cancel_pid;
	uint8_t cancel_key[STARTUP_MAX_CANCEL_KEY];
	size_t cancel_key_len;
	/* STARTUP_SESSION; the strings lie in text */
	uint16_t minor;       /* as asked; answer with message_negotiate when above STARTUP_NEWEST_MINOR or nunknown > 0 */
	const char *user;     /* never NULL or empty */
	const char *database; /* NULL when not given */
	const char *application_name; /* "" when not given */
	const char *options;          /* NULL when not given */
	enum startup_replication replication;
	struct startup_param {
		const char *name, *value;
	} params[STARTUP_MAX_PARAMS]; /* all of them, in order */
	size_t nparams;
	const char *unknown[STARTUP_MAX_PARAMS]; /* names beginning with _pq_. */
	size_t nunknown;
	char *text; /* owned */
};

/*
 * startup_parse(data, len, s, err): the body of a startup packet (length word removed).
 *   owns    a copy of the text; startup_free
 *   errors  -1, s as after startup_free: unknown protocol (0A000), malformed (08P01), no user name (28000), too many
 * parameters, a value of `replication` that is no boolean and not `database` (22023)
 */
int startup_parse(const uint8_t *data, size_t len, struct startup *s, struct err *err);
void startup_free(struct startup *s);
/* The first byte of a connection: a TLS handshake without SSLRequest (PostgreSQL 17+, sslnegotiation=direct)? */
bool startup_is_tls(uint8_t first);

#endif
