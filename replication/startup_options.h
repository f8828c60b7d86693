/*
 * startup_options: the `options` of a startup packet: settings that a client asks its server for. Through the proxy
 * they would hold on a connection of another role, the one in the node's conninfo, which may be allowed far more than
 * the client: so only those go on that replication clients have a use for.
 *
 *   wal_sender_timeout                            standbys, in primary_conninfo
 *   statement_timeout, lock_timeout               Patroni
 *   datestyle, intervalstyle, timezone,
 *   extra_float_digits, client_min_messages       Barman, drivers
 *   tcp_keepalives_*, tcp_user_timeout            links with a mind of their own
 *
 * source: src/backend/utils/init/postinit.c (pg_split_opts), tcop/postgres.c (process_postgres_switches),
 * utils/misc/guc.c (ParseLongOption)
 */
#ifndef REPLICATION_STARTUP_OPTIONS_H
#define REPLICATION_STARTUP_OPTIONS_H

#include "common/err.h"

/*
 * startup_options_filter(options, out, err): *out is the same settings, written anew as "-c name=value ...", so that
 * what was checked is what goes on; NULL when there are none. The caller frees it. options may be NULL. errors  -1,
 * *out NULL: a setting that is not passed on (42501), anything else than settings (42601), no memory
 */
int startup_options_filter(const char *options, char **out, struct err *err);

#endif
