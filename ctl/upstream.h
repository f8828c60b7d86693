/* upstream: what a configured server says about itself over a replication connection. */
#ifndef CTL_UPSTREAM_H
#define CTL_UPSTREAM_H

#include <stdint.h>

#include "common/settings.h"

/* The system identifier of the cluster whose nodes have a conninfo: IDENTIFY_SYSTEM of all that answer, which must
 * agree. None answers: ERR_UNREACHABLE with the last reason. */
int upstream_system_identifier(const struct settings *settings, uint64_t *identifier, struct err *err);
/* The highest timeline that a configured node of this cluster is on. Errors as above; a node of another cluster does
 * not count. */
int upstream_timeline(const struct settings *settings, uint64_t identifier, uint32_t *tli, struct err *err);

#endif
