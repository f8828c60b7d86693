/* syncnames: what synchronous_standby_names waits for. source: replication/syncrep_gram.y. */
#ifndef CTL_SWITCHOVER_SYNCNAMES_H
#define CTL_SWITCHOVER_SYNCNAMES_H

#include <stdbool.h>
#include <stddef.h>

/* Would a commit of a server with this setting be answered when the standbys with these names stream from it? true,
 * too, when it is empty. */
bool syncnames_satisfied(const char *setting, const char *const *standbys, size_t n);

#endif
