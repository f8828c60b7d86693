/* The queries of a slot synchronisation, and what is close to one. */
#include "replication/slotsync.h"

#include "tests/unit/tap.h"

#define SLOTS " FROM pg_catalog.pg_replication_slots "
#define CHECK "SELECT pg_is_in_recovery(), count(*) = 1" SLOTS "WHERE slot_type='physical' AND slot_name="
#define LIST                                                                                                           \
	"SELECT slot_name, plugin, confirmed_flush_lsn, restart_lsn, catalog_xmin, two_phase, failover, database, "        \
	"invalidation_reason" SLOTS "WHERE failover and NOT temporary"
#define NAME63 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff_12"

int
main(void)
{
	static const char *const good[] = {
	    "SELECT pg_catalog.set_config('search_path', '', false);", CHECK "'blue_1'", CHECK "'" NAME63 "'", LIST,
	    "SELECT slot_name, plugin, confirmed_flush_lsn, restart_lsn, catalog_xmin, two_phase, two_phase_at, "
	    "failover, database, invalidation_reason" SLOTS "WHERE failover and NOT temporary"};
	static const char *const bad[] = {"",
	                                  "SELECT 1",
	                                  "IDENTIFY_SYSTEM",
	                                  LIST ";",
	                                  LIST "; DROP TABLE t",
	                                  " " LIST,
	                                  LIST " OR true",
	                                  CHECK "''",
	                                  CHECK "'Blue'",
	                                  CHECK "'" NAME63 "3'",
	                                  CHECK "'a' OR true",
	                                  CHECK "'a'; SELECT 1",
	                                  CHECK "'a''b'",
	                                  CHECK "E'a'",
	                                  CHECK "'a",
	                                  CHECK,
	                                  "SELECT pg_catalog.set_config('search_path', 'x', false);"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		ok(slotsync_knows(good[i]), "query %zu", i);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!slotsync_knows(bad[i]), "no query %zu", i);
	return tap_done();
}
