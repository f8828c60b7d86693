/* Messages of the COPY streams: what is understood is built again as it was; the base backup's stream takes or refuses.
 */
#include "replication/backupstream.h"
#include "replication/copymsg.h"
#include "tests/fuzz/sink.h"

static void
one(int (*parse)(uint8_t *, size_t, struct copymsg *, struct err *), const uint8_t *data, size_t len)
{
	uint8_t *exact = malloc(len > 0 ? len : 1);
	struct copymsg m;
	struct buffer b;
	struct err err;

	if (exact == NULL)
		abort();
	if (len > 0)
		memcpy(exact, data, len);
	buffer_init(&b, len + 100);
	if (parse(exact, len, &m, &err) == 0 && m.kind != COPYMSG_PRIMARY_STATUS) {
		copymsg_put(&b, &m);
		/* a boolean may come as any byte and goes as 0 or 1 */
		if (buffer_check(&b, &err) != 0 || buffer_len(&b) != len || memcmp(buffer_data(&b), data, len - 1) != 0)
			abort();
	}
	buffer_free(&b);
	free(exact);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sink sink;
	struct err err;
	struct backupstream *b = backupstream_new(sink_init(&sink), &err);
	size_t at = 0, n;

	one(copymsg_parse_server, data, len);
	one(copymsg_parse_client, data, len);
	for (; b != NULL && at < len; at += n) {
		uint8_t *exact;

		n = data[at];
		if (n > len - at)
			n = len - at;
		if ((exact = malloc(n > 0 ? n : 1)) == NULL)
			abort();
		memcpy(exact, data + at, n);
		if (backupstream_push(b, exact, n > 0 ? n - 1 : 0, &err) < 0)
			at = len;
		free(exact);
		n += n == 0;
	}
	if (b != NULL)
		backupstream_finish(b, &err);
	backupstream_free(b);
	return 0;
}
