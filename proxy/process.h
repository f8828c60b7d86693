/* process: what the process may do and hold: locked memory for keys, no core dumps, descriptors. */
#ifndef PROXY_PROCESS_H
#define PROXY_PROCESS_H

#include "common/settings.h"

/* Nobody finds keys in a core dump, in swap, or in memory that was freed. Before the first key. */
int process_seal(struct err *err);
/* As many descriptors as it may have; logs when max_sessions and max_logins may need more. */
void process_raise_descriptors(const struct settings *settings);

#endif
