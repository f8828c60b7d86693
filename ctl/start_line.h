/* start_line: the command that starts the server on a new encrypted directory, as it is printed at the end. */
#ifndef CTL_START_LINE_H
#define CTL_START_LINE_H

#include "ctl/source.h"

/* "Start it with: walcrypt-ctl exec ... pg_ctl -l DATADIR.log start" to stdout, or how, where no postgresql.conf is in
 * the directory. port 0: the configuration's own. */
void start_line_print(const struct source *source, const char *datadir, int port);
/*
 * The port for a server on this directory: wanted, 0 being what its configuration says; another one above it when
 * somebody on this machine listens there, which is said on stdout. 0: not known.
 */
int start_port_choose(const char *datadir, int wanted);

#endif
