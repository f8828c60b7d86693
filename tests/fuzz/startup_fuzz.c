/* First packets, and the framing of all that a client can send. */
#include "replication/message.h"
#include "replication/startup.h"
#include "tests/fuzz/sink.h"

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct message_reader *r = arg;
	struct startup startup;
	struct message m;
	struct err err;
	int rc;

	(void)pos;
	if (message_reader_feed(r, piece, len, &err) != 0)
		return -1;
	while ((rc = message_reader_next(r, &m, &err)) == 1) {
		if (m.data[m.len] != 0)
			abort();
		if (m.type == 0 && startup_parse(m.data, m.len, &startup, &err) == 0) {
			if (startup.kind == STARTUP_SESSION && (startup.user == NULL || *startup.user == '\0'))
				abort();
			if (startup.kind == STARTUP_SESSION)
				message_reader_phase(r, MESSAGE_COMMAND);
			startup_free(&startup);
		}
	}
	return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct message_reader r;
	struct startup startup;
	struct err err;

	if (len == 0)
		return 0;
	if (startup_parse(data, len, &startup, &err) == 0)
		startup_free(&startup);
	message_reader_init(&r);
	feed_pieces(data + 1, len - 1, data[0], feed, &r);
	message_reader_free(&r);
	return 0;
}
