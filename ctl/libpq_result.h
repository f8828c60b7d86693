/* libpq_result: the answer to a query that was sent, waited for with a limit. */
#ifndef CTL_LIBPQ_RESULT_H
#define CTL_LIBPQ_RESULT_H

#include <postgresql/libpq-fe.h>

/* The last result, as PQexec gives it, to be PQcleared; NULL with errno ETIMEDOUT when it does not come in time (0: it
 * takes as long as it takes), and the connection is of no more use. */
PGresult *libpq_result(PGconn *conn, int timeout_ms);

#endif
