#include "replication/copymsg.h"

#include <assert.h>
#include <string.h>

#include "replication/message.h"

#define KEEPALIVE_LEN 18
#define STATUS_LEN 34
#define FEEDBACK_LEN 25

static int
bad_message(struct err *err, const char *what, uint8_t type, size_t len)
{
	err_set(err, ERR_FAILED, "%s: type 0x%02x, %zu bytes", what, (unsigned)type, len);
	return err_sqlstate(err, "08P01");
}

static int
begin_parse(size_t len, struct copymsg *m, struct err *err)
{
	memset(m, 0, sizeof(*m));
	if (len > 0)
		return 0;
	err_set(err, ERR_FAILED, "empty message in the replication stream");
	return err_sqlstate(err, "08P01");
}

int
copymsg_parse_server(uint8_t *data, size_t len, struct copymsg *m, struct err *err)
{
	if (begin_parse(len, m, err) != 0)
		return -1;
	switch (data[0]) {
	case 'w':
		if (len < COPYMSG_WAL_HEADER_LEN)
			return bad_message(err, "truncated WAL message", data[0], len);
		m->kind = COPYMSG_WAL;
		m->start = get_u64(data + 1);
		m->end = get_u64(data + 9);
		m->sent_at = (int64_t)get_u64(data + 17);
		m->data = data + COPYMSG_WAL_HEADER_LEN;
		m->len = len - COPYMSG_WAL_HEADER_LEN;
		if (m->len > UINT64_MAX - m->start)
			return bad_message(err, "WAL message whose positions wrap around", data[0], len);
		return 0;
	case 'k':
		if (len != KEEPALIVE_LEN)
			return bad_message(err, "keepalive of wrong length", data[0], len);
		m->kind = COPYMSG_KEEPALIVE;
		m->end = get_u64(data + 1);
		m->sent_at = (int64_t)get_u64(data + 9);
		m->reply = data[17] != 0;
		return 0;
	case 's':
		m->kind = COPYMSG_PRIMARY_STATUS;
		m->data = data;
		m->len = len;
		return 0;
	default:
		return bad_message(err, "unexpected message in the replication stream of the server", data[0], len);
	}
}

int
copymsg_parse_client(uint8_t *data, size_t len, struct copymsg *m, struct err *err)
{
	if (begin_parse(len, m, err) != 0)
		return -1;
	switch (data[0]) {
	case 'r':
		if (len != STATUS_LEN)
			return bad_message(err, "status update of wrong length", data[0], len);
		m->kind = COPYMSG_STATUS;
		m->write = get_u64(data + 1);
		m->flush = get_u64(data + 9);
		m->apply = get_u64(data + 17);
		m->sent_at = (int64_t)get_u64(data + 25);
		m->reply = data[33] != 0;
		return 0;
	case 'h':
		if (len != FEEDBACK_LEN)
			return bad_message(err, "hot standby feedback of wrong length", data[0], len);
		m->kind = COPYMSG_FEEDBACK;
		m->sent_at = (int64_t)get_u64(data + 1);
		m->xmin = get_u32(data + 9);
		m->xmin_epoch = get_u32(data + 13);
		m->catalog_xmin = get_u32(data + 17);
		m->catalog_xmin_epoch = get_u32(data + 21);
		return 0;
	default:
		return bad_message(err, "unexpected message in the replication stream of the client", data[0], len);
	}
}

void
copymsg_put(struct buffer *out, const struct copymsg *m)
{
	switch (m->kind) {
	case COPYMSG_WAL:
		buffer_put_u8(out, 'w');
		buffer_put_u64(out, m->start);
		buffer_put_u64(out, m->end);
		buffer_put_u64(out, (uint64_t)m->sent_at);
		buffer_put(out, m->data, m->len);
		return;
	case COPYMSG_KEEPALIVE:
		buffer_put_u8(out, 'k');
		buffer_put_u64(out, m->end);
		buffer_put_u64(out, (uint64_t)m->sent_at);
		buffer_put_u8(out, m->reply);
		return;
	case COPYMSG_STATUS:
		buffer_put_u8(out, 'r');
		buffer_put_u64(out, m->write);
		buffer_put_u64(out, m->flush);
		buffer_put_u64(out, m->apply);
		buffer_put_u64(out, (uint64_t)m->sent_at);
		buffer_put_u8(out, m->reply);
		return;
	case COPYMSG_FEEDBACK:
		buffer_put_u8(out, 'h');
		buffer_put_u64(out, (uint64_t)m->sent_at);
		buffer_put_u32(out, m->xmin);
		buffer_put_u32(out, m->xmin_epoch);
		buffer_put_u32(out, m->catalog_xmin);
		buffer_put_u32(out, m->catalog_xmin_epoch);
		return;
	case COPYMSG_PRIMARY_STATUS:
		break;
	}
	assert(!"a primary status message is passed on, not built");
}

int
copymsg_write(struct buffer *out, const struct copymsg *m, struct err *err)
{
	size_t begun = message_begin(out, 'd');

	copymsg_put(out, m);
	return message_end(out, begun, err);
}
