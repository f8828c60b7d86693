/* spoolfile: a temporary file without a name, for what a base backup remembers until its manifest comes. */
#ifndef PROXY_SPOOLFILE_H
#define PROXY_SPOOLFILE_H

#include "common/err.h"
#include "replication/spool.h"

struct spoolfile;

struct spoolfile *spoolfile_new(const char *folder, struct err *err);
void spoolfile_free(struct spoolfile *f); /* NULL allowed */
const struct spool_io *spoolfile_io(const struct spoolfile *f);

#endif
