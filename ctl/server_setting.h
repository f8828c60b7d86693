/* server_setting: what a stopped server's configuration says, by asking the server program (postgres -C). */
#ifndef CTL_SERVER_SETTING_H
#define CTL_SERVER_SETTING_H

#include <limits.h>

#include "common/err.h"

/*
 * The value of one parameter for the server in datadir, without the storage layer. config_file: where its
 * postgresql.conf is, when that is not in the data directory; else NULL. ERR_FAILED with the program's own words when
 * it does not answer.
 */
int server_setting(const char *datadir, const char *config_file, const char *name, char value[static PATH_MAX],
                   struct err *err);

#endif
