/* upstream: what a configured server says about itself over a replication connection. */
#ifndef CTL_UPSTREAM_H
#define CTL_UPSTREAM_H

#include <stdint.h>

#include "common/settings.h"

/* The system identifier of the cluster whose nodes have a conninfo: IDENTIFY_SYSTEM of all that answer, which must
 * agree. None answers: ERR_UNREACHABLE with the last reason. */
int upstream_system_identifier(const struct settings *settings, uint64_t *identifier, struct err *err);

#endif
