/* show_streams: sessions, and standbys with their streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/shows_intern.h"

static const char *
or_null(const char *text)
{
	return text[0] != '\0' ? text : NULL;
}

static const struct standby_view *
stream_of(const struct standby_view *list, size_t n, unsigned session)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].who.session == session)
			return &list[i];
	return NULL;
}

static const char *const session_columns[] = {
    "id",           "node",           "application_name", "client",      "state",       "command",
    "upstream",     "upstream_pid",   "timeline",         "sent_lsn",    "write_lsn",   "flush_lsn",
    "replay_lsn",   "bytes_received", "bytes_sent",       "since",       "last_commit", "shutdown_checkpoint",
    "timeline_end", "backup_since",   "backup_done",      "backup_size", NULL};

static int
fill_sessions(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	static const struct standby_view none;
	struct standby_view *list;
	size_t n;

	(void)site;
	if ((list = standbys_list(p->standbys, &n, err)) == NULL)
		return -1;
	registry_lock(&p->registry);
	for (const struct card *c = p->registry.first; c != NULL; c = c->next) {
		const struct standby_view *v = stream_of(list, n, c->id);
		bool up = c->upstream[0] != '\0';

		if (v == NULL)
			v = &none;
		table_number(t, c->id);
		table_text(t, c->node);
		table_text(t, c->application);
		table_text(t, c->peer);
		table_text(t, c->state);
		table_text(t, or_null(c->command));
		table_text(t, or_null(c->upstream));
		table_number_or_null(t, up, (uint64_t)c->upstream_pid);
		table_number_or_null(t, v->who.tli != 0, v->who.tli);
		table_lsn(t, v->at.sent);
		table_lsn(t, v->at.write);
		table_lsn(t, v->at.flush);
		table_lsn(t, v->at.apply);
		table_number(t, c->from_upstream);
		table_number(t, c->to_downstream);
		table_time(t, c->since);
		table_timestamp(t, v->at.commit_time);
		table_lsn(t, v->at.shutdown_checkpoint);
		table_lsn(t, v->at.timeline_end);
		table_time(t, c->backup_since);
		table_number_or_null(t, c->backup_since != 0, c->backup_done);
		table_number_or_null(t, c->backup_since != 0 && c->backup_size != 0, c->backup_size);
	}
	registry_unlock(&p->registry);
	free(list);
	return 0;
}

const struct show show_sessions = {"SESSIONS", "connections and how far each one is", session_columns, fill_sessions};

static const char *
record_name(enum walscan_event_kind kind)
{
	static const char *const names[] = {[WALSCAN_RECORD] = "other",
	                                    [WALSCAN_SHUTDOWN_CHECKPOINT] = "shutdown_checkpoint",
	                                    [WALSCAN_ONLINE_CHECKPOINT] = "checkpoint",
	                                    [WALSCAN_END_OF_RECOVERY] = "end_of_recovery",
	                                    [WALSCAN_COMMIT] = "commit",
	                                    [WALSCAN_SWITCH] = "switch"};

	return names[kind];
}

static const char *const standby_columns[] = {"node",
                                              "application_name",
                                              "client",
                                              "state",
                                              "session",
                                              "upstream",
                                              "system_identifier",
                                              "timeline",
                                              "since",
                                              "upstream_lsn",
                                              "received_lsn",
                                              "sent_lsn",
                                              "write_lsn",
                                              "flush_lsn",
                                              "replay_lsn",
                                              "lag_bytes",
                                              "write_lag_s",
                                              "flush_lag_s",
                                              "replay_lag_s",
                                              "last_record",
                                              "last_record_end",
                                              "last_record_type",
                                              "shutdown_checkpoint",
                                              "last_commit",
                                              "timeline_end",
                                              "next_timeline",
                                              "ended",
                                              "end",
                                              "end_reason",
                                              NULL};

static int
fill_standbys(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	struct standby_view *list;
	size_t n;

	(void)site;
	if ((list = standbys_list(p->standbys, &n, err)) == NULL)
		return -1;
	for (size_t i = 0; i < n; i++) {
		const struct standby_view *v = &list[i];
		int64_t lag = v->lag_bytes[standby_counts(&v->at)];
		bool streams = v->end == STANDBY_STREAMS;

		table_text(t, v->who.node);
		table_text(t, v->who.application);
		table_text(t, v->who.client);
		table_text(t, streams ? "streams" : "ended");
		table_number(t, v->who.session);
		table_text(t, v->who.upstream);
		table_number(t, v->who.system_identifier);
		table_number(t, v->who.tli);
		table_time(t, v->since);
		table_lsn(t, v->at.upstream);
		table_lsn(t, v->at.received);
		table_lsn(t, v->at.sent);
		table_lsn(t, v->at.write);
		table_lsn(t, v->at.flush);
		table_lsn(t, v->at.apply);
		table_number_or_null(t, lag >= 0, (uint64_t)lag);
		for (int k = 0; k < STANDBY_POSITIONS; k++)
			table_seconds(t, v->lag_s[k]);
		table_lsn(t, v->at.record);
		table_lsn(t, v->at.record_end);
		table_text(t, v->at.record != 0 ? record_name(v->at.kind) : NULL);
		table_lsn(t, v->at.shutdown_checkpoint);
		table_timestamp(t, v->at.commit_time);
		table_lsn(t, v->at.timeline_end);
		table_number_or_null(t, v->at.next_tli != 0, v->at.next_tli);
		table_time(t, v->ended);
		table_text(t, streams ? NULL : standby_end_name(v->end));
		table_text(t, streams ? NULL : or_null(v->why));
	}
	free(list);
	return 0;
}

const struct show show_standbys = {"STANDBYS", "streams of WAL: how far each one is, how the last one ended",
                                   standby_columns, fill_standbys};
