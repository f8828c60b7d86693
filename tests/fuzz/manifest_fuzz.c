/* Manifests: whole and in pieces the same result; with nothing changed what is taken comes out as it went in. */
#include "replication/manifest.h"
#include "replication/manifest_line.h"
#include "tests/fuzz/sink.h"

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct chunk c = {.kind = CHUNK_MANIFEST, .pos = pos, .data = piece, .len = len};
	struct err err;

	return stage_push(arg, &c, &err);
}

static int
run(const uint8_t *data, size_t len, size_t step, enum digest_kind checksums, struct sink *sink)
{
	struct chunk begin = {.kind = CHUNK_MANIFEST_BEGIN};
	struct spool_io io;
	struct err err;
	struct spool_memory *memory = spool_memory_new(1 << 16, &io, &err);
	struct spool *spool = spool_new(&io, &err);
	struct stage *s = manifest_new(checksums, spool, sink_init(sink), &err);
	int rc;

	if (s == NULL)
		abort();
	rc = stage_push(s, &begin, &err) < 0 || feed_pieces(data, len, step, feed, s) < 0 || stage_finish(s, &err) < 0 ? -1
	                                                                                                               : 0;
	stage_free(s);
	spool_free(spool);
	spool_memory_free(memory);
	return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const enum digest_kind kinds[] = {DIGEST_NONE, DIGEST_CRC32C, DIGEST_SHA256, DIGEST_SHA512};
	struct manifest_line line;
	struct sink whole, pieces;
	enum digest_kind kind;
	struct err err;
	int rc;

	if (len < 2)
		return 0;
	kind = kinds[data[1] % 4];
	manifest_line_parse((const char *)data + 2, len - 2, kind, &line, &err);
	rc = run(data + 2, len - 2, 0, kind, &whole);
	if (run(data + 2, len - 2, 1 + data[0], kind, &pieces) != rc || (rc == 0 && whole.sum != pieces.sum) ||
	    (rc == 0 && whole.bytes != len - 2))
		abort();
	return 0;
}
