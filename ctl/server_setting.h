/* server_setting: what a stopped server's configuration says, by asking the server program (postgres -C). */
#ifndef CTL_SERVER_SETTING_H
#define CTL_SERVER_SETTING_H

#include <limits.h>
#include <stdbool.h>

#include "common/err.h"

/* Is there a postgresql.conf in the data directory? Debian's clusters have theirs elsewhere. */
bool server_has_config(const char *datadir);
/*
 * Where postgresql.conf is that is not in the data directory, as Debian has it: what the server was started with last
 * (postmaster.opts) says so. 1: there; 0: it is in the directory, or nothing tells.
 */
int server_config_find(const char *datadir, char config[static PATH_MAX], struct err *err);
/*
 * The value of one parameter for the server in datadir, without the storage layer. config_file: its postgresql.conf;
 * NULL: the one in the data directory, or where server_config_find says. ERR_FAILED with the program's own words when
 * it does not answer.
 */
int server_setting(const char *datadir, const char *config_file, const char *name, char value[static PATH_MAX],
                   struct err *err);

#endif
