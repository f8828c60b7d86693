#include "replication/message.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

/* What is read at once: a whole burst of small messages, and no message is refused for being longer. */
#define READ_ROOM 4096

static const size_t phase_max[] = {
    [MESSAGE_STARTUP] = MESSAGE_STARTUP_MAX, [MESSAGE_AUTH] = MESSAGE_AUTH_MAX,
    [MESSAGE_COMMAND] = MESSAGE_COMMAND_MAX, [MESSAGE_COPY] = MESSAGE_COPY_MAX,
    [MESSAGE_UPLOAD] = MESSAGE_COMMAND_MAX,
};

/* Every type byte that a client of protocol 3 can send; in the phases before a session stands only few make sense. */
static const char *const phase_types[] = {
    [MESSAGE_STARTUP] = "",    [MESSAGE_AUTH] = "pX",       [MESSAGE_COMMAND] = "QXPBEDCSHFdcf",
    [MESSAGE_COPY] = "dcfXHS", [MESSAGE_UPLOAD] = "dcfXHS",
};

void
message_reader_init(struct message_reader *r)
{
	memset(r, 0, sizeof(*r));
	buffer_init(&r->in, 1 + 4 + MESSAGE_COMMAND_MAX + READ_ROOM);
}

void
message_reader_free(struct message_reader *r)
{
	buffer_free(&r->in);
	message_reader_init(r);
}

/* The message handed out last is done with: put back the byte behind it and drop it. */
static void
settle(struct message_reader *r)
{
	if (r->taken == 0)
		return;
	buffer_data(&r->in)[r->taken] = r->saved;
	buffer_consume(&r->in, r->taken);
	r->taken = 0;
}

void
message_reader_phase(struct message_reader *r, enum message_phase phase)
{
	r->phase = phase;
}

uint8_t *
message_reader_space(struct message_reader *r, size_t *room, struct err *err)
{
	uint8_t *to;

	settle(r);
	/* One byte more than offered: the 0 after a message that ends where the received bytes end. */
	if ((to = buffer_reserve(&r->in, READ_ROOM)) == NULL) {
		buffer_check(&r->in, err);
		err_sqlstate(err, err->sqlstate[0] != '\0' ? err->sqlstate : "08P01");
		return NULL;
	}
	*room = READ_ROOM - 1;
	return to;
}

void
message_reader_filled(struct message_reader *r, size_t n)
{
	buffer_commit(&r->in, n);
}

int
message_reader_feed(struct message_reader *r, const uint8_t *data, size_t len, struct err *err)
{
	while (len > 0) {
		size_t room;
		uint8_t *to = message_reader_space(r, &room, err);

		if (to == NULL)
			return -1;
		if (room > len)
			room = len;
		memcpy(to, data, room);
		message_reader_filled(r, room);
		data += room;
		len -= room;
	}
	return 0;
}

size_t
message_reader_pending(const struct message_reader *r)
{
	return buffer_len(&r->in) - r->taken;
}

static int
bad_length(struct err *err, char type, uint32_t length)
{
	if (type == 0)
		err_set(err, ERR_FAILED, "invalid length of startup packet: %u", (unsigned)length);
	else
		err_set(err, ERR_FAILED, "invalid length of message type \"%c\": %u", type, (unsigned)length);
	return err_sqlstate(err, "08P01");
}

int
message_reader_next(struct message_reader *r, struct message *m, struct err *err)
{
	size_t head = r->phase == MESSAGE_STARTUP ? 0 : 1, whole;
	const uint8_t *p;
	uint32_t length;
	char type = 0;

	settle(r);
	p = buffer_data(&r->in);
	if (head == 1 && buffer_len(&r->in) >= 1) {
		type = (char)p[0];
		if (type == '\0' || strchr(phase_types[r->phase], type) == NULL) {
			err_set(err, ERR_FAILED, "invalid frontend message type %d", (int)p[0]);
			return err_sqlstate(err, "08P01");
		}
	}
	if (buffer_len(&r->in) < head + 4)
		return 0;
	length = get_u32(p + head);
	if (length < 4 || length - 4 > phase_max[r->phase])
		return bad_length(err, type, length);
	whole = head + length;
	if (buffer_len(&r->in) < whole)
		return 0;
	m->type = type;
	m->data = p + head + 4;
	m->len = length - 4;
	r->taken = whole;
	r->saved = buffer_data(&r->in)[whole];
	buffer_data(&r->in)[whole] = 0;
	return 1;
}

size_t
message_begin(struct buffer *out, char type)
{
	size_t begun = buffer_len(out);

	buffer_put_u8(out, (uint8_t)type);
	buffer_put_u32(out, 0);
	return begun;
}

int
message_end(struct buffer *out, size_t begun, struct err *err)
{
	size_t length;
	uint8_t *p;

	if (buffer_check(out, err) != 0) {
		buffer_rewind(out, begun);
		return -1;
	}
	length = buffer_len(out) - begun - 1;
	assert(length <= INT32_MAX);
	p = buffer_data(out) + begun + 1;
	p[0] = (uint8_t)(length >> 24);
	p[1] = (uint8_t)(length >> 16);
	p[2] = (uint8_t)(length >> 8);
	p[3] = (uint8_t)length;
	return 0;
}

int
message_auth_ok(struct buffer *out, struct err *err)
{
	size_t begun = message_begin(out, 'R');

	buffer_put_u32(out, 0);
	return message_end(out, begun, err);
}

int
message_parameter_status(struct buffer *out, const char *name, const char *value, struct err *err)
{
	size_t begun = message_begin(out, 'S');

	buffer_put_str(out, name);
	buffer_put_str(out, value);
	return message_end(out, begun, err);
}

int
message_backend_key(struct buffer *out, uint32_t pid, const uint8_t *key, size_t key_len, struct err *err)
{
	size_t begun = message_begin(out, 'K');

	buffer_put_u32(out, pid);
	buffer_put(out, key, key_len);
	return message_end(out, begun, err);
}

int
message_ready(struct buffer *out, char transaction_status, struct err *err)
{
	size_t begun = message_begin(out, 'Z');

	buffer_put_u8(out, (uint8_t)transaction_status);
	return message_end(out, begun, err);
}

int
message_negotiate(struct buffer *out, uint32_t newest, const char *const *names, size_t n, struct err *err)
{
	size_t begun = message_begin(out, 'v');

	buffer_put_u32(out, newest);
	buffer_put_u32(out, (uint32_t)n);
	for (size_t i = 0; i < n; i++)
		buffer_put_str(out, names[i]);
	return message_end(out, begun, err);
}

int
message_row_description(struct buffer *out, const struct message_field *fields, size_t n, struct err *err)
{
	size_t begun = message_begin(out, 'T');

	assert(n <= INT16_MAX);
	buffer_put_u16(out, (uint16_t)n);
	for (size_t i = 0; i < n; i++) {
		buffer_put_str(out, fields[i].name);
		buffer_put_u32(out, 0); /* table */
		buffer_put_u16(out, 0); /* column */
		buffer_put_u32(out, fields[i].type);
		buffer_put_u16(out, (uint16_t)fields[i].typlen);
		buffer_put_u32(out, (uint32_t)-1); /* typmod */
		buffer_put_u16(out, 0);            /* text */
	}
	return message_end(out, begun, err);
}

int
message_data_row(struct buffer *out, const struct message_value *values, size_t n, struct err *err)
{
	size_t begun = message_begin(out, 'D');

	assert(n <= INT16_MAX);
	buffer_put_u16(out, (uint16_t)n);
	for (size_t i = 0; i < n; i++) {
		buffer_put_u32(out, (uint32_t)values[i].len);
		if (values[i].len > 0)
			buffer_put(out, values[i].data, (size_t)values[i].len);
	}
	return message_end(out, begun, err);
}

int
message_command_complete(struct buffer *out, const char *tag, struct err *err)
{
	size_t begun = message_begin(out, 'C');

	buffer_put_str(out, tag);
	return message_end(out, begun, err);
}

static int
put_bare(struct buffer *out, char type, struct err *err)
{
	return message_end(out, message_begin(out, type), err);
}

int
message_empty_query(struct buffer *out, struct err *err)
{
	return put_bare(out, 'I', err);
}

static void
put_report_field(struct buffer *out, char code, const char *text)
{
	if (*text == '\0')
		return;
	buffer_put_u8(out, (uint8_t)code);
	buffer_put_str(out, text);
}

static int
put_report(struct buffer *out, char type, const char *severity, const struct err *e, struct err *err)
{
	size_t begun = message_begin(out, type);

	put_report_field(out, 'S', severity);
	put_report_field(out, 'V', severity);
	put_report_field(out, 'C', e->sqlstate[0] != '\0' ? e->sqlstate : type == 'N' ? "01000" : "XX000");
	/* M is never absent */
	put_report_field(out, 'M', e->text[0] != '\0' ? e->text : "unknown error");
	put_report_field(out, 'D', e->detail);
	put_report_field(out, 'H', e->hint);
	buffer_put_u8(out, 0);
	return message_end(out, begun, err);
}

int
message_error(struct buffer *out, const char *severity, const struct err *e, struct err *err)
{
	return put_report(out, 'E', severity, e, err);
}

int
message_notice(struct buffer *out, const char *severity, const struct err *e, struct err *err)
{
	return put_report(out, 'N', severity, e, err);
}

/* Overall format text, no columns: how a walsender announces all its COPY streams. */
static int
put_copy_response(struct buffer *out, char type, struct err *err)
{
	size_t begun = message_begin(out, type);

	buffer_put_u8(out, 0);
	buffer_put_u16(out, 0);
	return message_end(out, begun, err);
}

int
message_copy_both(struct buffer *out, struct err *err)
{
	return put_copy_response(out, 'W', err);
}

int
message_copy_out(struct buffer *out, struct err *err)
{
	return put_copy_response(out, 'H', err);
}

int
message_copy_in(struct buffer *out, struct err *err)
{
	return put_copy_response(out, 'G', err);
}

int
message_copy_data(struct buffer *out, const void *data, size_t len, struct err *err)
{
	size_t begun = message_begin(out, 'd');

	buffer_put(out, data, len);
	return message_end(out, begun, err);
}

int
message_copy_done(struct buffer *out, struct err *err)
{
	return put_bare(out, 'c', err);
}
