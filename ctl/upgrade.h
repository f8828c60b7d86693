/*
 * upgrade: what has to be true before `exec` runs pg_upgrade.
 *
 * pg_upgrade keeps the numbers of databases and relation files (since PostgreSQL 15), so a relation file says the same
 * in the new cluster, byte for byte, if that has the same relation key. It runs without the layer itself, and copies or
 * links ciphertext; the servers and pg_resetwal that it starts have the layer.
 */
#ifndef CTL_UPGRADE_H
#define CTL_UPGRADE_H

#include "common/err.h"
#include "ctl/source.h"

/*
 * args: pg_upgrade and its arguments, ended by NULL; datadir: exec's, which must be the new cluster's. Opens the keys
 * of both clusters with the cluster key of s. ERR_REFUSED when they differ, and for ways of upgrading that would leave
 * rows in clear or were never tried. May set PGDATANEW.
 */
int upgrade_check(struct source *s, const char *datadir, const char *const *args, struct err *err);

#endif
