/* libpq_error: what libpq says, as a struct err: the first line of a message, with the server's DETAIL and HINT. */
#ifndef CTL_LIBPQ_ERROR_H
#define CTL_LIBPQ_ERROR_H

#include "common/err.h"

/* what: "could not ask node \"red\""; message: PQerrorMessage's. Returns -1. */
int libpq_error(struct err *err, enum err_class class, const char *what, const char *message);

#endif
