/* Records: whole and in pieces the same verdict at the same place. */
#include "replication/walscan.h"
#include "tests/fuzz/sink.h"

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct err err;

	(void)pos;
	return walscan_push(arg, piece, len, &err);
}

static int
run(uint64_t start, const uint8_t *data, size_t len, size_t step, uint64_t result[3])
{
	struct walscan_conf conf = {.segment_size = 1 << 20};
	struct err err;
	struct walscan *w = walscan_new(&conf, start, &err);
	int rc;

	if (w == NULL)
		abort();
	rc = feed_pieces(data, len, step, feed, w);
	result[0] = walscan_records(w);
	result[1] = walscan_last(w);
	result[2] = walscan_end(w);
	walscan_free(w);
	return rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint64_t whole[3], pieces[3], start;

	if (len < 16)
		return 0;
	memcpy(&start, data + 8, sizeof(start));
	start &= UINT64_C(0xFFFFFFFFFFFF) & ~UINT64_C(8191);
	if (run(start, data + 16, len - 16, 0, whole) != run(start, data + 16, len - 16, 1 + data[0], pieces) ||
	    memcmp(whole, pieces, sizeof(whole)) != 0)
		abort();
	return 0;
}
