/* WAL from an upstream: whole and in pieces the same result, as many bytes out as in. The first 16 bytes choose splits
 * and start. */
#include "replication/walstream.h"
#include "tests/fuzz/sink.h"
#include "walcrypt/secmem.h"

#define SEGMENT (1u << 20)
#define SYSTEM_IDENTIFIER UINT64_C(0x1122334455667788)

static struct keyset *keys, *others; /* epoch 1 is another key, epoch 2 the same one */

struct run {
	struct stage *s;
	uint64_t start;
	size_t message; /* an upstream message ends every so many bytes */
	uint8_t *to;    /* what comes out is put here; NULL: in place */
};

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct run *run = arg;
	struct err err;

	while (len > 0) {
		size_t left = run->message - pos % run->message, n = left < len ? left : len;
		struct chunk c = {.kind = CHUNK_WAL, .pos = run->start + pos, .data = piece, .len = n, .to = run->to};
		struct chunk end = {.kind = CHUNK_WAL_END};

		if (stage_push(run->s, &c, &err) < 0 || (n == left && stage_push(run->s, &end, &err) < 0))
			return -1;
		pos += n;
		piece += n;
		len -= n;
	}
	return 0;
}

static int
run_stream(const uint8_t *choices, const uint8_t *data, size_t len, size_t step, struct sink *sink)
{
	/* clear or encrypted on either side, with records followed or not */
	struct walstream_conf conf = {.upstream = choices[6] % 4 == 1 ? keys : NULL,
	                              .downstream = choices[6] / 4 % 3 == 0   ? keys
	                                            : choices[6] / 4 % 3 == 1 ? others
	                                                                      : NULL,
	                              .scan = choices[6] / 16 % 2 == 1,
	                              .keep_zeros = choices[6] % 4 != 1 && choices[6] / 32 % 2 == 1,
	                              .system_identifier = SYSTEM_IDENTIFIER,
	                              .tli = choices[1] % 4u + 1,
	                              .generation = 0x80000001u,
	                              .segment_size = SEGMENT,
	                              .from = UINT64_C(5) * SEGMENT + choices[2] * 64u + choices[3]};
	struct err err;
	struct run run = {.start = UINT64_C(5) * SEGMENT, .message = choices[4] * 8u + choices[5] % 4 + 1};
	int rc;

	if ((run.s = walstream_new(&conf, sink_init(sink), &err)) == NULL ||
	    (step > 0 && (run.to = malloc(len > 0 ? len : 1)) == NULL))
		abort();
	rc = feed_pieces(data, len, step, feed, &run) < 0 || stage_finish(run.s, &err) < 0 ? -1 : 0;
	if (rc == 0 && sink->bytes != (len > conf.from - run.start ? len - (conf.from - run.start) : 0))
		abort();
	stage_free(run.s);
	free(run.to);
	return rc;
}

static void
make_keys(void)
{
	struct keyset_epoch epochs[2] = {{.number = 1, .key = {.len = 16}},
	                                 {.number = 2, .after_timeline = 2, .key = {.len = 16}}};
	struct data_key relation = {.len = 16};
	struct err err;

	memset(epochs[1].key.bytes, 1, 16);
	if (secmem_init(1 << 16, &err) != 0 ||
	    (keys = keyset_new(KEY_AES128, SYSTEM_IDENTIFIER, &relation, epochs, 2, &err)) == NULL)
		abort();
	memset(epochs[0].key.bytes, 2, 16);
	if ((others = keyset_new(KEY_AES128, SYSTEM_IDENTIFIER, &relation, epochs, 2, &err)) == NULL)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sink whole, pieces;
	int rc;

	if (keys == NULL)
		make_keys();
	if (len < 16)
		return 0;
	rc = run_stream(data, data + 16, len - 16, 0, &whole);
	if (run_stream(data, data + 16, len - 16, 1 + data[0], &pieces) != rc || (rc == 0 && whole.sum != pieces.sum))
		abort();
	return 0;
}
