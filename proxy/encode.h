/* encode: what libpq made of an upstream's answer, as the messages that it came from. */
#ifndef PROXY_ENCODE_H
#define PROXY_ENCODE_H

#include <postgresql/libpq-fe.h>

#include "common/err.h"
#include "replication/buffer.h"

/* One result: rows with their description, CommandComplete, EmptyQueryResponse, ErrorResponse, or the beginning of a
 * COPY. */
int encode_result(struct buffer *out, const PGresult *res, struct err *err);
/* A notice, with all its fields. */
int encode_notice(struct buffer *out, const PGresult *res, struct err *err);
/* The settings that a server reports to its clients, as ParameterStatus. */
int encode_parameters(struct buffer *out, const PGconn *conn, struct err *err);
/* Did libpq make this error itself (the connection is gone), and not the server? */
int encode_is_own_error(const PGresult *res);

#endif
