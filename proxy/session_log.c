/* session_log: lines about a session: which one, whose, from where, and how far its stream is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/stream_intern.h"
#include "walcrypt/pgfile.h"

#define LSNS 4

struct about {
	struct log_about log;
	struct log_field fields[6 + LSNS];
	char prefix[160], id[16], lsn[LSNS][LSN_TEXT_LEN];
};

static void
about(const struct session *s, struct about *a)
{
	static const char *const names[LSNS] = {"sent_lsn", "write_lsn", "flush_lsn", "replay_lsn"};
	const struct standby_at *at = s->stream != NULL ? &s->stream->at : NULL;
	const struct card *c = &s->card;
	size_t n = 0;

	memset(a, 0, sizeof(*a));
	snprintf(a->id, sizeof(a->id), "%u", c->id);
	a->fields[n++] = (struct log_field){"session_id", a->id, true};
	a->fields[n++] = (struct log_field){"node", c->node, false};
	a->fields[n++] = (struct log_field){"application_name", c->application, false};
	a->fields[n++] = (struct log_field){"remote_host", c->peer, false};
	a->fields[n++] = (struct log_field){"state", c->state, false};
	a->fields[n++] = (struct log_field){"command", c->command, false};
	for (int i = 0; at != NULL && i < LSNS; i++) {
		uint64_t lsn = i == 0 ? at->sent : i == 1 ? at->write : i == 2 ? at->flush : at->apply;

		if (lsn == 0)
			continue;
		lsn_format(a->lsn[i], lsn);
		a->fields[n++] = (struct log_field){names[i], a->lsn[i], false};
	}
	snprintf(a->prefix, sizeof(a->prefix), "session %s%s%s%s%s%s", a->id, c->node[0] != '\0' ? " (" : "", c->node,
	         c->node[0] != '\0' ? ")" : "", a->lsn[0][0] != '\0' ? " at " : "", a->lsn[0]);
	a->log = (struct log_about){a->prefix, a->fields, n};
}

void
session_log(const struct session *s, enum log_level level, const char *fmt, ...)
{
	struct about a;
	char text[1024];
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	about(s, &a);
	log_about_text(level, &a.log, text);
}

void
session_log_err(const struct session *s, enum log_level level, const struct err *err)
{
	struct about a;

	if (!log_wants(level))
		return;
	about(s, &a);
	log_about_err(level, &a.log, err);
}
