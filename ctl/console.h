/* console: a connection to the proxy's console, database "walcrypt". */
#ifndef CTL_CONSOLE_H
#define CTL_CONSOLE_H

#include <postgresql/libpq-fe.h>

#include "common/err.h"
#include "common/settings.h"

struct console_where {
	const char *host, *port, *user; /* NULL: the configuration's */
	bool admin;                     /* it is to change something: an admin_users' */
};

/* settings: NULL when there is no configuration file. PQfinish frees. NULL with err set. */
PGconn *console_open(const struct console_where *where, const struct settings *settings, struct err *err);
/* The answer to a query, a table or none; PQclear frees. NULL with err set: what the proxy said against it. */
PGresult *console_ask(PGconn *conn, const char *query, struct err *err);

/* What options say where. */
#define CONSOLE_OPTIONS(type, users)                                                                                     \
	{"host",      'h',                                                                                                   \
	 OPTION_TEXT, offsetof(type, where.host),                                                                            \
	 "HOST",      "the proxy's address or socket folder (default: the configuration's)",                                 \
	 0,           0},                                                                                                    \
	    {"port", 'p', OPTION_TEXT, offsetof(type, where.port), "PORT", "its port (default: the configuration's)", 0, 0}, \
	{                                                                                                                    \
		"user", 'U', OPTION_TEXT, offsetof(type, where.user), "NAME",                                                    \
		    "role (default: the first of the configuration's " users ")", 0, 0                                           \
	}

#endif
