/*
 * session_intern: the session for the files that make it up: session.c (state, the one way out), session_io.c (the
 * socket), greeting.c (from the first packet to ReadyForQuery), identify.c and auth.c (who it is, and the proof),
 * dispatch.c (commands), stream.c and backup.c (the two COPY streams), console.c.
 *
 *   STARTUP -> TLS -> STARTUP                          a TLS handshake, when there is one
 *   STARTUP -> AUTH -> CONNECTING -> READY             AUTH -> READY on the console
 *              AUTH -> HELD -> CONNECTING            while a pause lasts
 *   READY -> COMMAND -> READY                          COMMAND -> STREAM -> DRAIN -> READY, COMMAND -> BACKUP -> READY
 *                                                      COMMAND -> UPLOAD -> READY
 *   any -> CLOSING -> CLOSED                           CLOSING: the client is told why; CLOSED: freed in this round
 */
#ifndef PROXY_SESSION_INTERN_H
#define PROXY_SESSION_INTERN_H

#include <ev.h>
#include <postgresql/libpq-fe.h>

#include "common/log.h"
#include "proxy/channel.h"
#include "proxy/choice.h"
#include "proxy/peer.h"
#include "proxy/proxy.h"
#include "proxy/session.h"
#include "proxy/silence.h"
#include "proxy/standbys.h"
#include "proxy/upstream.h"
#include "proxy/worker.h"
#include "replication/backupstream.h"
#include "replication/buffer.h"
#include "replication/command.h"
#include "replication/message.h"
#include "replication/startup.h"

/* Above high the upstream is not read until the client has taken all but low. max only a fault reaches. */
#define SESSION_OUT_HIGH (256u << 10)
#define SESSION_OUT_LOW (64u << 10)
/* The same while much comes: fewer and larger goes cost everybody less. */
#define SESSION_BULK_HIGH (1u << 20)
#define SESSION_BULK_LOW (256u << 10)
/* And what is kept back while there is more to come: the last message of a base backup, which may grow yet. */
#define SESSION_BULK_KEPT BACKUPSTREAM_DATA_MAX
#define SESSION_OUT_MAX (4u << 20)
/* What a client may have sent ahead. */
#define SESSION_IN_HIGH (1u + 4u + MESSAGE_COMMAND_MAX) /* the longest message must fit */
/* The same until it has authenticated. With what one read may add, an unknown client makes us hold 16 KiB. */
#define SESSION_LOGIN_HIGH (4u + MESSAGE_STARTUP_MAX)

enum session_state {
	SESSION_STARTUP,
	SESSION_TLS,
	SESSION_AUTH,
	SESSION_HELD,
	SESSION_CONNECTING,
	SESSION_READY,
	SESSION_COMMAND,
	SESSION_BACKUP,
	SESSION_UPLOAD,
	SESSION_STREAM,
	SESSION_DRAIN,
	SESSION_CLOSING,
	SESSION_CLOSED
};

struct stream;
struct backup;
struct auth;
struct upload;
struct console_wait;

/* What becomes of the upstream's answers now; the meaning is that of struct upstream_handler. A mode without copy and
 * copy_end expects none, and passes over the data of one. */
struct session_mode {
	void (*result)(struct session *s, PGresult *res);
	int (*copy)(struct session *s, uint8_t *data, size_t len);
	void (*copy_end)(struct session *s, bool waits, const PGresult *first);
};

struct session {
	struct session *next, **prev, *next_touched;
	bool touched;
	struct worker *worker;
	struct proxy *proxy;
	struct ev_loop *loop;
	struct site *site;
	const struct site_node *node; /* NULL on the console */
	bool console, admin;
	bool slotsync; /* it synchronises slots: those queries, and nothing else */
	struct peer peer;
	bool counted; /* by limits, until it has authenticated */
	struct channel channel;
	bool direct; /* TLS began without a request for it */
	enum session_state state;
	ev_io readable, writable;
	ev_timer limit; /* of the present state */
	struct silence silence;
	ev_timer stall; /* runs while the client takes nothing of what is there for it */
	struct message_reader in;
	struct buffer out;
	bool out_waits;    /* for the socket, which has not taken all that it was given */
	unsigned declined; /* requests for encryption */
	struct auth *auth;
	struct startup startup;
	struct card card;
	struct node_stats *stats; /* never NULL */
	struct choice *choice;
	struct upstream *up, *buried;    /* buried: closed, freed when the session is settled */
	const struct site_node *up_node; /* up's node: its keyset is what up's files and WAL are under */
	const struct session_mode *mode;
	bool bulk;      /* much comes from up */
	bool up_paused; /* it is not read until the client has taken some */
	struct command command;
	char *options;        /* of the startup packet, as they go upstream; NULL: none */
	char *temporary_slot; /* the command that made it, as it went to the upstream; NULL: none */
	PGresult *kept;       /* the answer to session_ask so far */
	void (*answered)(struct session *s, const PGresult *res);
	struct stream *stream;
	struct backup *backup;
	struct upload *upload;
	struct errand *keys_wanted;   /* the command waits for the node's keys */
	struct console_wait *waiting; /* a query of the console whose answer waits */
};

/* The only mover; logs, and sets the state's time limit. */
void session_move(struct session *s, enum session_state to);
/* The present state's time limit begins anew. */
void session_is_heard(struct session *s);
/* The one way out. why: told to the client as FATAL and logged; the upstream is gone at once. */
void session_drop(struct session *s, const struct err *why);
/* The client has gone, or said goodbye: nothing to tell. */
void session_close(struct session *s, const char *why);
/* The client has been told why already. */
void session_leave(struct session *s, const char *why);
/* After something was put into out: it goes out in this round. Drops the session when out has a fault. */
void session_put(struct session *s);
/* 1 when the upstream must pause, else 0: what a copy function returns. */
int session_pause(struct session *s);
/* Much comes from the upstream, a base backup or a stream that is behind; or no more. */
void session_bulk(struct session *s, bool on);
/* Is a base backup under way whose client this stream may belong to? pg_basebackup streams the WAL that the backup
 * needs by a connection of its own. */
bool session_beside_backup(const struct session *s);
/* Handle what the client has sent and the state lets through. */
void session_process(struct session *s);

/* session_log.c: with what tells which session it is */
void session_log(const struct session *s, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void session_log_err(const struct session *s, enum log_level level, const struct err *err);

/* session_io.c */
void session_io_init(struct session *s, int fd);
void session_io_free(struct session *s);
/* Watch the socket for what the session can take and has to give. */
void session_io_rearm(struct session *s);
/* Write what waits, go on with what TLS holds. */
void session_io_settle(struct session *s);
/* In the middle of a round, while much comes: write what is more than SESSION_BULK_KEPT, if the socket takes it. So it
 * leaves while it is in the processor's cache, and the client begins with it while the next comes. That pays where it
 * is 32 KiB at a time, as in a base backup: a stream's 128 KiB cost more so. */
void session_io_ahead(struct session *s);

/* greeting.c */
void greeting_message(struct session *s, const struct message *m);
/* The first byte is that of a TLS handshake. */
void greeting_direct_tls(struct session *s);
/* TLS stands. */
void greeting_encrypted(struct session *s);
/* The client is who it says. */
void greeting_authenticated(struct session *s);

/* A pause has held it for pause_timeout. */
void greeting_held_too_long(struct session *s);

/* identify.c */
bool session_is_local(const struct session *s); /* through a Unix socket */
/* What the connection is for, whoever it is. */
int identify_purpose(struct session *s, struct err *err);
/* Which node, profile or user of the console; -1: may not come in, which is told only after the authentication. */
int identify_user(struct session *s, struct err *err);
/* After the authentication: what the configuration has against this connection. */
int identify_permit(const struct session *s, struct err *err);
/* Is the command among those that its section allows? */
int identify_command(const struct session *s, struct err *err);

/* auth.c */
/* refusal: what identify_user said against it; NULL: nothing. */
void auth_begin(struct session *s, const struct err *refusal);
void auth_message(struct session *s, const struct message *m);
bool auth_waits(const struct session *s); /* for the client's next message */
void auth_free(struct auth *a);           /* NULL allowed */

/* dispatch.c */
extern const struct upstream_handler session_upstream; /* what a session's upstream calls */
void dispatch_message(struct session *s, const struct message *m);
/* Send a command whose answer is ours: answered is called when it is complete, with the last result (or an error's). */
void session_ask(struct session *s, const char *sql, void (*answered)(struct session *s, const PGresult *res));
/* Send a command in the given mode. */
void session_query(struct session *s, const char *sql, const struct session_mode *mode);
/* Send a command and pass the answer on as it comes. */
void session_relay(struct session *s, const char *sql);
/* Pass one result on; libpq's own errors end the session instead. Takes res. */
void session_pass(struct session *s, PGresult *res);
/* ReadyForQuery; the command is over. */
void session_ready(struct session *s);
/* An ErrorResponse for the present command alone. */
void session_refuse(struct session *s, const struct err *why);

/* stream.c: START_REPLICATION PHYSICAL */
void stream_begin(struct session *s);
void stream_message(struct session *s, const struct message *m);
/* Ask the upstream for a sign of life. */
void stream_ask_keepalive(struct session *s);
/* The upstream is gone; true when the stream goes on to its end without it. */
bool stream_survives(struct session *s);
/* What ends the stream, for who asks later: the first word counts. Nothing when there is no stream. */
void stream_ended(struct session *s, enum standby_end end, const char *why);
void stream_free(struct stream *st);

/* upload.c: UPLOAD_MANIFEST */
void upload_begin(struct session *s);
void upload_message(struct session *s, const struct message *m);
bool upload_waits(const struct session *s); /* in SESSION_UPLOAD: for the client's next message */
void upload_free(struct upload *u);

/* backup.c: BASE_BACKUP */
void backup_begin(struct session *s);
void backup_free(struct backup *b);

/* console.c: the administrator's queries */
void console_query(struct session *s, const char *text);
void console_done(struct session *s, const char *tag); /* CommandComplete */

/* console_pause.c: rest is what stands behind the query's first word. */
void console_pause(struct session *s, const char *rest);
void console_resume(struct session *s, const char *rest);
void console_wait_close(struct session *s, const char *rest);

/* console_wait.c: the query is answered with the tag once look says 1, or refused when it says -1 with err set. */
void console_wait(struct session *s, const char *tag, int (*look)(struct session *s, void *arg, struct err *err),
                  void *arg, void (*free_arg)(void *arg));
void console_wait_free(struct session *s);

#endif
