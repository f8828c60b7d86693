#include "replication/slotsync.h"

#include <stddef.h>
#include <string.h>

#define NAME_LEN_MAX 63

/* The check of primary_slot_name: up to the name, which stands in quotes at the end. */
static const char check[] = "SELECT pg_is_in_recovery(), count(*) = 1 FROM pg_catalog.pg_replication_slots "
                            "WHERE slot_type='physical' AND slot_name='";

static const char *const queries[] = {
    "SELECT pg_catalog.set_config('search_path', '', false);",
    /* 17 */
    "SELECT slot_name, plugin, confirmed_flush_lsn, restart_lsn, catalog_xmin, two_phase, failover, database, "
    "invalidation_reason FROM pg_catalog.pg_replication_slots WHERE failover and NOT temporary",
    /* 18 */
    "SELECT slot_name, plugin, confirmed_flush_lsn, restart_lsn, catalog_xmin, two_phase, two_phase_at, failover, "
    "database, invalidation_reason FROM pg_catalog.pg_replication_slots WHERE failover and NOT temporary",
};

bool
slotsync_knows(const char *text)
{
	size_t len;

	for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++)
		if (strcmp(text, queries[i]) == 0)
			return true;
	if (strncmp(text, check, sizeof(check) - 1) != 0)
		return false;
	text += sizeof(check) - 1;
	len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
	return len >= 1 && len <= NAME_LEN_MAX && strcmp(text + len, "'") == 0;
}
