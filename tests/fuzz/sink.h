/* sink: the end of a chain for fuzzing: a checksum of all that arrives, cut or not, and of what kind it was. */
#ifndef TESTS_FUZZ_SINK_H
#define TESTS_FUZZ_SINK_H

#include <stdlib.h>
#include <string.h>

#include "replication/stage.h"
#include "walcrypt/digest.h"

#define FUZZ_UNUSED __attribute__((unused))

struct sink {
	struct stage base;
	uint32_t sum;
	uint64_t bytes;
};

static FUZZ_UNUSED int
sink_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct sink *s = (struct sink *)stage;
	uint8_t kind = (uint8_t)c->kind;

	(void)err;
	if (c->len == 0)
		s->sum = crc32c(s->sum, &kind, 1);
	else
		s->sum = crc32c(s->sum, c->data, c->len);
	s->bytes += c->len;
	return 0;
}

static FUZZ_UNUSED int
sink_finish(struct stage *stage, struct err *err)
{
	(void)stage;
	(void)err;
	return 0;
}

static FUZZ_UNUSED void
sink_free(struct stage *stage)
{
	(void)stage;
}

static FUZZ_UNUSED struct stage *
sink_init(struct sink *s)
{
	static const struct stage_ops ops = {sink_push, sink_finish, sink_free};

	memset(s, 0, sizeof(*s));
	s->base.ops = &ops;
	return &s->base;
}

/* data in pieces of step bytes (0: whole), each in an allocation of exactly its size; stops at the first that is not
 * taken. */
static FUZZ_UNUSED int
feed_pieces(const uint8_t *data, size_t len, size_t step,
            int (*feed)(void *arg, uint8_t *piece, size_t len, uint64_t pos), void *arg)
{
	int rc = 0;

	for (size_t at = 0, n; at < len && rc >= 0; at += n) {
		uint8_t *piece;

		n = step == 0 || step > len - at ? len - at : step;
		if ((piece = malloc(n)) == NULL)
			abort();
		memcpy(piece, data + at, n);
		rc = feed(arg, piece, n, at);
		free(piece);
	}
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#endif
