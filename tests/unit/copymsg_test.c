/* Messages inside the COPY streams of replication: bytes written by hand from the protocol's documentation, both ways.
 */
#include "replication/copymsg.h"

#include <stdlib.h>

#include "tests/unit/tap.h"

#define BYTES(s) (const uint8_t *)(s), sizeof(s) - 1

typedef int (*parser)(uint8_t *, size_t, struct copymsg *, struct err *);
static uint8_t *kept; /* parsed messages point into it */

static int
parse(parser p, const uint8_t *data, size_t len, struct copymsg *m, struct err *err)
{
	free(kept);
	if ((kept = malloc(len > 0 ? len : 1)) == NULL)
		return err_nomem(err);
	memcpy(kept, data, len);
	memset(err, 0, sizeof(*err));
	return p(kept, len, m, err);
}

static void
same_again(const struct copymsg *m, const uint8_t *data, size_t len)
{
	struct err err = {0};
	struct buffer b;

	buffer_init(&b, 1000);
	copymsg_put(&b, m);
	ok(buffer_check(&b, &err) == 0 && buffer_len(&b) == len && memcmp(buffer_data(&b), data, len) == 0,
	   "... built again: the same bytes");
	buffer_consume(&b, buffer_len(&b));
	ok(copymsg_write(&b, m, &err) == 0 && buffer_len(&b) == len + 5 && buffer_data(&b)[0] == 'd' &&
	       get_u32(buffer_data(&b) + 1) == len + 4,
	   "... and as CopyData");
	buffer_free(&b);
}

static void
server(void)
{
	static const char wal[] = "w\0\0\0\1\2\3\4\0\0\0\0\1\2\3\5\0\0\0\2\0\0\0\0\7bytes";
	static const char alive[] = "k\0\0\0\1\2\3\5\0\0\0\2\0\0\0\0\7\1";
	struct copymsg m;
	struct err err;

	if (ok(parse(copymsg_parse_server, BYTES(wal), &m, &err) == 0 && m.kind == COPYMSG_WAL, "WAL")) {
		ok(m.start == 0x102030400 && m.end == 0x102030500 && m.sent_at == 0x20000000007, "... positions and time");
		ok(m.len == 5 && memcmp(m.data, "bytes", 5) == 0, "... bytes");
		same_again(&m, BYTES(wal));
	}
	if (ok(parse(copymsg_parse_server, BYTES(alive), &m, &err) == 0 && m.kind == COPYMSG_KEEPALIVE && m.reply,
	       "keepalive"))
		same_again(&m, BYTES(alive));
	ok(parse(copymsg_parse_server, BYTES("s whatever"), &m, &err) == 0 && m.kind == COPYMSG_PRIMARY_STATUS &&
	       m.len == 10,
	   "primary status: passed on unread");
}

static void
client(void)
{
	static const char status[] = "r\0\0\0\1\0\0\0\3\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\7\1";
	static const char feedback[] = "h\0\0\0\0\0\0\0\7\0\0\1\0\0\0\0\1\0\0\2\0\0\0\0\2";
	struct copymsg m;
	struct err err;

	if (ok(parse(copymsg_parse_client, BYTES(status), &m, &err) == 0 && m.kind == COPYMSG_STATUS, "status update")) {
		ok(m.write == 0x100000003 && m.flush == 0x100000002 && m.apply == 0x100000001 && m.sent_at == 7 && m.reply,
		   "... fields");
		same_again(&m, BYTES(status));
	}
	if (ok(parse(copymsg_parse_client, BYTES(feedback), &m, &err) == 0 && m.kind == COPYMSG_FEEDBACK,
	       "hot standby feedback")) {
		ok(m.xmin == 256 && m.xmin_epoch == 1 && m.catalog_xmin == 512 && m.catalog_xmin_epoch == 2, "... fields");
		same_again(&m, BYTES(feedback));
	}
}

static void
refusals(void)
{
	uint8_t all[64] = {0};
	struct copymsg m;
	struct err err;
	int taken = 0;

	/* each length that is not the right one, each unknown type */
	for (size_t len = 0; len <= sizeof(all); len++) {
		all[0] = 'k';
		taken += parse(copymsg_parse_server, all, len, &m, &err) == 0 ? (len == 18 ? 1 : 100) : 0;
		all[0] = 'w';
		taken += parse(copymsg_parse_server, all, len, &m, &err) == 0 && len < 25 ? 100 : 0;
		all[0] = 'r';
		taken += parse(copymsg_parse_client, all, len, &m, &err) == 0 ? (len == 34 ? 1 : 100) : 0;
		all[0] = 'h';
		taken += parse(copymsg_parse_client, all, len, &m, &err) == 0 ? (len == 25 ? 1 : 100) : 0;
	}
	is_int(taken, 3, "right lengths only");
	for (int type = 0; type < 256; type++) {
		all[0] = (uint8_t)type;
		taken += strchr("wks", type) == NULL && parse(copymsg_parse_server, all, 34, &m, &err) == 0;
		taken += strchr("rh", type) == NULL && parse(copymsg_parse_client, all, 34, &m, &err) == 0;
	}
	is_int(taken, 3, "known types only");
	is_str(err.sqlstate, "08P01", "as a protocol violation");
	memset(all, 0xff, sizeof(all));
	all[0] = 'w';
	is_int(parse(copymsg_parse_server, all, 30, &m, &err), -1, "WAL that wraps around the end of all positions");
}

int
main(void)
{
	server();
	client();
	refusals();
	free(kept);
	return tap_done();
}
