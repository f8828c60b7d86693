/*
 * message: framing of protocol version 3: an incremental reader of what a client sends, and builders of what a server
 * answers. source: PostgreSQL documentation, "Message Formats"; src/backend/libpq/pqcomm.c.
 *
 * A typed message is: type (1) | length, itself included (4) | body. A startup packet has no type byte.
 */
#ifndef REPLICATION_MESSAGE_H
#define REPLICATION_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "replication/buffer.h"

#define MESSAGE_STARTUP_MAX 10000 /* PostgreSQL's MAX_STARTUP_PACKET_LENGTH */
#define MESSAGE_AUTH_MAX 1024     /* PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH: there are no others */
#define MESSAGE_COMMAND_MAX 65536 /* a replication command with its options; a name has at most 63 bytes */
#define MESSAGE_COPY_MAX 8192     /* status updates and feedback: under 50 bytes */

/* What the peer may send now; decides framing and cap. */
/* UPLOAD: a COPY that brings a manifest, in messages of up to 64 KiB. */
enum message_phase { MESSAGE_STARTUP, MESSAGE_AUTH, MESSAGE_COMMAND, MESSAGE_COPY, MESSAGE_UPLOAD };

struct message {
	char type; /* 0: a startup packet */
	const uint8_t
	    *data; /* the body, inside the reader, good until the reader is used again; data[len] is 0 (so strings end) */
	size_t len;
};

struct message_reader {
	enum message_phase phase;
	size_t taken;  /* bytes of the message handed out last, still in front of in */
	uint8_t saved; /* the byte that the terminating 0 stands in for */
	struct buffer in;
};

void message_reader_init(struct message_reader *r);
void message_reader_free(struct message_reader *r); /* wipes: passwords come through here */
/* Between messages only. */
void message_reader_phase(struct message_reader *r, enum message_phase phase);
/* Where received bytes go: at least one byte of room in *room, then message_reader_filled says how many came. NULL: err
 * is set. */
uint8_t *message_reader_space(struct message_reader *r, size_t *room, struct err *err);
void message_reader_filled(struct message_reader *r, size_t n);
/* The same in one step, for bytes that are somewhere else already. */
int message_reader_feed(struct message_reader *r, const uint8_t *data, size_t len, struct err *err);
/*
 * message_reader_next(r, m, err): the next whole message.
 *   returns 1 with *m filled, 0 when more bytes are needed
 *   errors  -1: a length below what the framing needs or above the phase's cap, or a type byte that no client sends in
 * this phase (ERR_FAILED, sqlstate 08P01). Drop the connection.
 */
int message_reader_next(struct message_reader *r, struct message *m, struct err *err);
/* Bytes received that no message has used yet. Must be 0 when a TLS handshake begins: others were sent in clear,
 * perhaps by a man in the middle. */
size_t message_reader_pending(const struct message_reader *r);

/* A value of a row; len -1 is NULL. */
struct message_value {
	const void *data;
	int32_t len;
};
/* A column: name, type and typlen as the server's own walsender declares them (25/-1 text, 20/8 int8, 23/4 int4, 26/4
 * oid, 17/-1 bytea). */
struct message_field {
	const char *name;
	uint32_t type;
	int16_t typlen;
};

/*
 * Builders append one whole message to out, or nothing: -1 with err set (out full or out of memory). Strings must not
 * hold NULs.
 */
int message_auth_ok(struct buffer *out, struct err *err);
int message_parameter_status(struct buffer *out, const char *name, const char *value, struct err *err);
/* key: 4 bytes for protocol 3.0, up to 256 for 3.2. */
int message_backend_key(struct buffer *out, uint32_t pid, const uint8_t *key, size_t key_len, struct err *err);
int message_ready(struct buffer *out, char transaction_status, struct err *err);
/* The newest minor version that we speak, and the names of the options that we do not know. */
int message_negotiate(struct buffer *out, uint32_t newest, const char *const *names, size_t n, struct err *err);
int message_row_description(struct buffer *out, const struct message_field *fields, size_t n, struct err *err);
int message_data_row(struct buffer *out, const struct message_value *values, size_t n, struct err *err);
int message_command_complete(struct buffer *out, const char *tag, struct err *err);
int message_empty_query(struct buffer *out, struct err *err);
/* severity "ERROR" or "FATAL"; sqlstate XX000 when e has none. */
int message_error(struct buffer *out, const char *severity, const struct err *e, struct err *err);
int message_notice(struct buffer *out, const char *severity, const struct err *e, struct err *err);
int message_copy_both(struct buffer *out, struct err *err);
int message_copy_out(struct buffer *out, struct err *err);
int message_copy_in(struct buffer *out, struct err *err);
int message_copy_data(struct buffer *out, const void *data, size_t len, struct err *err);
int message_copy_done(struct buffer *out, struct err *err);

/* For messages built in place: message_begin, then buffer_put..., then message_end, which fills in the length or takes
 * all back. */
#define MESSAGE_HEAD_LEN 5 /* what it puts */
size_t message_begin(struct buffer *out, char type);
int message_end(struct buffer *out, size_t begun, struct err *err);

#endif
