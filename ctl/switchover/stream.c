/* stream: how far a node's last stream came and how it ended, as the proxy's console tells. */
#include <stdio.h>
#include <string.h>

#include "ctl/switchover/switchover.h"

static void
take(char *out, size_t room, const char *value)
{
	snprintf(out, room, "%s", value != NULL ? value : "");
}

/* The node's last stream: of those that call themselves by its name if there are such, of those the one begun last. */
static int
row_find(const PGresult *r, const char *node)
{
	int found = -1;

	for (int i = 0; i < PQntuples(r); i++) {
		bool own = row_is(r, i, "application_name", node), better;

		if (!row_is(r, i, "node", node))
			continue;
		if (found < 0)
			better = true;
		else if (own != row_is(r, found, "application_name", node))
			better = own;
		else
			better = row_number(r, i, "session") > row_number(r, found, "session");
		if (better)
			found = i;
	}
	return found;
}

int
switchover_stream(struct switchover *s, const char *node, struct stream_facts *f, struct err *err)
{
	PGresult *r = switchover_console(s, "SHOW STANDBYS", err);
	int row;

	memset(f, 0, sizeof(*f));
	if (r == NULL)
		return -1;
	if ((row = row_find(r, node)) >= 0) {
		take(f->upstream, sizeof(f->upstream), row_value(r, row, "upstream"));
		take(f->end, sizeof(f->end), row_value(r, row, "end"));
		take(f->why, sizeof(f->why), row_value(r, row, "end_reason"));
		f->system_identifier = row_number(r, row, "system_identifier");
		f->tli = (uint32_t)row_number(r, row, "timeline");
		f->runs = row_is(r, row, "state", "streams");
		if (f->runs)
			take(f->end, sizeof(f->end), "it goes on");
		f->shutdown_checkpoint = row_is(r, row, "last_record_type", "shutdown_checkpoint");
		f->record = row_lsn(r, row, "last_record");
		f->record_end = row_lsn(r, row, "last_record_end");
		f->received = row_lsn(r, row, "received_lsn");
		f->sent = row_lsn(r, row, "sent_lsn");
		f->replayed = row_lsn(r, row, "replay_lsn");
	}
	PQclear(r);
	return row >= 0;
}
