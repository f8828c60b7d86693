/* Members of a base backup from one keyset to another: whole and in pieces the same result, and archives that a reader
 * takes again. The first byte chooses splits and sides. */
#include "replication/backupstage.h"

#include "replication/tar.h"
#include "tests/fuzz/sink.h"
#include "walcrypt/secmem.h"

static struct keyset *keys, *others;

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos)
{
	struct chunk c = {.kind = CHUNK_TAR, .pos = pos, .data = piece, .len = len};
	struct err err;

	return stage_push(arg, &c, &err);
}

static void
on_fault(void *arg, const char *path, uint32_t block, uint16_t stored, uint16_t calculated)
{
	(void)block;
	if (stored != calculated && path[0] != '\0')
		++*(unsigned *)arg;
}

static int
run(uint8_t choice, const uint8_t *data, size_t len, size_t step, struct sink *sink, unsigned *faults)
{
	static const struct backup_archive archive = {.name = "base.tar"}, space = {.name = "16384.tar", .path = "/x"};
	const struct backup_archive *which = choice % 8 == 7 ? &space : &archive;
	struct chunk begin = {.kind = CHUNK_ARCHIVE, .archive = which}, end = {.kind = CHUNK_ARCHIVE_END, .archive = which};
	static const struct backupstage_file keyfile = {"keyset.json", (const uint8_t *)"{}", 2};
	struct backupstage_conf conf = {.upstream = choice % 2 == 1 ? keys : NULL,
	                                .downstream = choice / 2 % 3 == 0   ? keys
	                                              : choice / 2 % 3 == 1 ? others
	                                                                    : NULL,
	                                .keyfiles = &keyfile,
	                                .nkeyfiles = 1,
	                                .relation_id = "0123456789abcdef",
	                                .guard = "# walcrypt: x\n",
	                                .verify = true,
	                                .hooks = {.arg = faults, .on_fault = on_fault}};
	struct err err;
	struct stage *s;
	int rc;

	*faults = 0;
	if ((s = tar_writer_new(sink_init(sink), &err)) == NULL || (s = backupstage_new(&conf, s, &err)) == NULL ||
	    (s = tar_reader_new(s, &err)) == NULL)
		abort();
	rc = stage_push(s, &begin, &err) < 0 || feed_pieces(data, len, step, feed, s) < 0 || stage_push(s, &end, &err) < 0
	         ? -1
	         : 0;
	stage_free(s);
	return rc;
}

static void
make_keys(void)
{
	struct keyset_epoch epoch = {.number = 1, .key = {.len = 16}};
	struct data_key relation = {.len = 16};
	struct err err;

	if (secmem_init(1 << 17, &err) != 0 || (keys = keyset_new(KEY_AES128, 1, &relation, &epoch, 1, &err)) == NULL)
		abort();
	memset(relation.bytes, 1, 16);
	memset(epoch.key.bytes, 2, 16);
	if ((others = keyset_new(KEY_AES128, 1, &relation, &epoch, 1, &err)) == NULL)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct sink whole, pieces;
	unsigned faults[2];
	int rc;

	if (keys == NULL)
		make_keys();
	if (len == 0)
		return 0;
	rc = run(data[0], data + 1, len - 1, 0, &whole, &faults[0]);
	/* (clear WAL files get a random generation, so only lengths are compared) */
	if (run(data[0], data + 1, len - 1, 1 + data[0], &pieces, &faults[1]) != rc ||
	    (rc == 0 && (whole.bytes != pieces.bytes || faults[0] != faults[1])))
		abort();
	return 0;
}
