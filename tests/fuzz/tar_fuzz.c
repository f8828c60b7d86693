/* Archives: whole and in pieces the same result; what a reader takes, a writer puts together again. */
#include "replication/tar.h"
#include "tests/fuzz/sink.h"

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct chunk c = {.kind = CHUNK_TAR, .pos = pos, .data = piece, .len = len};
	struct err err;

	return stage_push(arg, &c, &err);
}

static int
run(const uint8_t *data, size_t len, size_t step, struct sink *sink)
{
	static const struct backup_archive archive = {.name = "base.tar"};
	struct chunk begin = {.kind = CHUNK_ARCHIVE, .archive = &archive},
	             end = {.kind = CHUNK_ARCHIVE_END, .archive = &archive};
	struct err err;
	struct stage *s = tar_reader_new(tar_writer_new(sink_init(sink), &err), &err);
	int rc;

	if (s == NULL)
		abort();
	rc = stage_push(s, &begin, &err) < 0 || feed_pieces(data, len, step, feed, s) < 0 ||
	             stage_push(s, &end, &err) < 0 || stage_finish(s, &err) < 0
	         ? -1
	         : 0;
	stage_free(s);
	return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sink whole, pieces;
	int rc;

	if (len == 0)
		return 0;
	rc = run(data + 1, len - 1, 0, &whole);
	if (run(data + 1, len - 1, 1 + data[0], &pieces) != rc ||
	    (rc == 0 && (whole.sum != pieces.sum || whole.bytes != pieces.bytes)))
		abort();
	return 0;
}
