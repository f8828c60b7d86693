/*
 * proof: may the standby be promoted without losing anything the old primary ever acknowledged? A judgement over facts
 * that others have gathered; no I/O.
 *
 * Four parts, all of which must hold:
 *   record    the last record that went through the proxy to the standby is a shutdown checkpoint, and nothing behind
 * it complete  that stream ended with the walsender's CommandComplete, which a server sends when it shuts down and the
 *             standby has acknowledged everything; a lost connection proves nothing
 *   control   the old primary's pg_control says "shut down", and its last checkpoint is that record
 *   replayed  the standby has flushed and replayed up to that record's end
 * The second alone would do for a server that stays down; the third notices one that was started again since.
 */
#ifndef CTL_SWITCHOVER_PROOF_H
#define CTL_SWITCHOVER_PROOF_H

#include "common/datadir.h"
#include "common/settings.h"

enum proof_part { PROOF_RECORD, PROOF_COMPLETE, PROOF_CONTROL, PROOF_REPLAYED, PROOF_PARTS };

struct proof_facts {
	/* what the switchover set out with */
	uint64_t system_identifier;
	uint32_t tli;
	char old[SETTINGS_NAME_MAX + 1];
	/* the standby's last stream, as the proxy remembers it */
	bool stream_known;
	char stream_upstream[SETTINGS_NAME_MAX + 1];
	uint64_t stream_system_identifier;
	uint32_t stream_tli;
	uint64_t stream_record, stream_record_end; /* LSNs of the last whole record; 0: none */
	uint64_t stream_received, stream_sent;     /* ends of what came from the primary and went to the standby */
	bool stream_shutdown_checkpoint;           /* that record is one */
	bool stream_complete;
	char stream_end[128]; /* how it ended, in words */
	/* the old primary's pg_control */
	bool control_known;
	struct datadir_control control;
	/* the standby itself */
	bool target_known, target_recovery;
	uint64_t target_system_identifier;
	uint32_t target_tli; /* at least; a standby that does not stream knows no better */
	uint64_t target_flushed, target_replayed;
};

struct proof {
	bool held[PROOF_PARTS];
	char why[PROOF_PARTS][256]; /* one sentence for each, held or not */
	uint64_t lsn, end;          /* of the shutdown checkpoint, as the stream had it; 0: it had none */
};

void proof_judge(const struct proof_facts *facts, struct proof *proof);
bool proof_holds(const struct proof *proof);
/* "record", "complete" ... */
const char *proof_part_name(enum proof_part part);

#endif
