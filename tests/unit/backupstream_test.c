/* The base backup's COPY stream: taken apart, put together, and a whole backup through all stages at once. */
#include "replication/backupstream.h"

#include <stdlib.h>

#include "replication/backupstage.h"
#include "replication/manifest.h"
#include "replication/message.h"
#include "replication/tar.h"
#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

static struct keyset *keys;

/* A message in an allocation of exactly its size. */
static int
push(struct backupstream *b, const void *message, size_t len, struct err *err)
{
	uint8_t *exact = malloc(len > 0 ? len : 1);
	int rc;

	if (exact == NULL)
		return err_nomem(err);
	memcpy(exact, message, len);
	rc = backupstream_push(b, exact, len, err);
	free(exact);
	return rc;
}
#define PUSH(b, literal) push(b, literal, sizeof(literal) - 1, &err)

static void
apart(void)
{
	struct collect sink;
	struct err err = {0};
	struct backupstream *b = backupstream_new(collect_init(&sink, NULL), &err);

	is_int(PUSH(b, "n16384.tar\0/ts\0"), 0, "an archive");
	is_int(PUSH(b, "dabc"), 0, "its data");
	is_int(PUSH(b, "p\0\0\0\0\0\0\1\0"), 0, "progress");
	is_int(PUSH(b, "ddef"), 0, "more");
	is_int(PUSH(b, "nbase.tar\0\0"), 0, "another archive");
	is_int(PUSH(b, "d"), 0, "no data");
	is_int(PUSH(b, "m"), 0, "the manifest");
	is_int(PUSH(b, "dmanifest"), 0, "its text");
	sink.answer = 1;
	is_int(PUSH(b, "dmore"), 1, "a pause asked for is passed on");
	is_int(backupstream_finish(b, &err), 0, "and the end");
	buffer_put_u8(&sink.marks, 0);
	buffer_put_u8(&sink.bytes, 0);
	is_str((char *)buffer_data(&sink.marks), "A 16384.tar 3\nP  256\na  0\nA base.tar 0\na  0\nB  0\n", "chunks");
	is_str((char *)buffer_data(&sink.bytes), "abcdefmanifestmore", "bytes");
	backupstream_free(b);
}

static void
refusals(void)
{
	static const struct {
		const char *first, *then;
		size_t first_len, then_len;
		const char *part;
	} rows[] = {
#define ROW(a, b, part) {a, b, sizeof(a) - 1, sizeof(b) - 1, part}
	    ROW("", "", "empty"),
	    ROW("", "x", "unknown message type"),
	    ROW("", "dabc", "before any archive"),
	    ROW("", "n", "malformed beginning of an archive"),
	    ROW("", "nbase.tar", "malformed beginning of an archive"),
	    ROW("", "nbase.tar\0", "malformed beginning of an archive"),
	    ROW("", "nbase.tar\0path", "malformed beginning of an archive"),
	    ROW("", "nbase.tar\0path\0x", "malformed beginning of an archive"),
	    ROW("", "n\0path\0", "malformed beginning of an archive"),
	    ROW("", "p", "progress"),
	    ROW("", "p12345678x", "progress"),
	    ROW("", "mx", "manifest"),
	    ROW("m", "m", "manifest begins twice"),
	    ROW("m", "nbase.tar\0\0", "behind the manifest"),
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct collect sink;
		struct err err = {0};
		struct backupstream *b = backupstream_new(collect_init(&sink, NULL), &err);

		if (rows[i].first_len > 0)
			is_int(push(b, rows[i].first, rows[i].first_len, &err), 0, "row %zu: first", i);
		is_int(push(b, rows[i].then, rows[i].then_len, &err), -1, "refused: row %zu", i);
		is_err(&err, ERR_DAMAGED, rows[i].part, "... %s", rows[i].part);
		backupstream_free(b);
	}
	char name[300] = "n";
	struct collect sink;
	struct err err = {0};
	struct backupstream *b = backupstream_new(collect_init(&sink, NULL), &err);

	memset(name + 1, 'a', 256);
	is_int(push(b, name, sizeof(name), &err), -1, "refused: an archive's name of 256 bytes");
	backupstream_free(b);
}

static void
together(void)
{
	struct buffer out;
	struct err err = {0};
	struct backupstream *b;
	uint8_t *big = calloc(1, 1 + 300000);

	buffer_init(&out, 1 << 20);
	b = backupstream_new(backupwriter_new(&out, 65536, &err), &err);
	PUSH(b, "n16384.tar\0/ts\0");
	PUSH(b, "dabc");
	PUSH(b, "p\0\0\0\0\0\0\1\0");
	PUSH(b, "m");
	is_int(PUSH(b, "dxyz"), 0, "below the mark");
	is_mem(buffer_data(&out),
	       "d\0\0\0\23n16384.tar\0/ts\0d\0\0\0\10dabcd\0\0\0\15p\0\0\0\0\0\0\1\0d\0\0\0\5md\0\0\0\10dxyz",
	       20 + 9 + 14 + 6 + 9, "put together: the same messages, as CopyData");
	is_int(buffer_len(&out), 20 + 9 + 14 + 6 + 9, "and no others");
	PUSH(b, "d123");
	is_mem(buffer_data(&out) + 20 + 9 + 14 + 6, "d\0\0\0\13dxyz123", 12, "the last message takes what comes next");
	buffer_seal(&out, buffer_len(&out));
	PUSH(b, "d45");
	is_int(buffer_len(&out), 20 + 9 + 14 + 6 + 12 + 8, "but not when it is sealed");
	buffer_put(&out, "N\0\0\0\4", 5);
	PUSH(b, "d6");
	is_mem(buffer_data(&out) + 20 + 9 + 14 + 6 + 12, "d\0\0\0\7d45N\0\0\0\4d\0\0\0\6d6", 20,
	       "nor when another one stands behind it");
	buffer_consume(&out, buffer_len(&out));
	PUSH(b, "d7");
	is_mem(buffer_data(&out), "d\0\0\0\6d7", 7, "nor when it is gone");
	buffer_consume(&out, buffer_len(&out));
	big[0] = 'd';
	is_int(push(b, big, 1 + 300000, &err), 1, "above the mark a pause is asked for");
	is_int(buffer_len(&out), 300000 + 3 * 6, "in three messages");
	is_int(get_u32(buffer_data(&out) + 1), 4 + 1 + BACKUPSTREAM_DATA_MAX, "of 128 KiB at most");
	backupstream_free(b);
	buffer_free(&out);
	buffer_init(&out, 1000);
	b = backupstream_new(backupwriter_new(&out, 65536, &err), &err);
	PUSH(b, "m");
	is_int(push(b, big, 1 + 2000, &err), -1, "more than the buffer may hold is an error");
	backupstream_free(b);
	buffer_free(&out);
	free(big);
}

/* The proxy's chain. */
struct chain {
	struct buffer out;
	struct spool_memory *memory;
	struct spool *spool;
	struct stage *writer;
	struct backupstream *stream;
};

static void
chain_free(struct chain *c)
{
	backupstream_free(c->stream);
	spool_free(c->spool);
	spool_memory_free(c->memory);
	buffer_free(&c->out);
}

static uint8_t *
room(void *arg, size_t len)
{
	struct chain *c = arg;

	return backupwriter_room(c->writer, len);
}

/* rooms: pages are encrypted into their places in out. */
static int
chain_new(struct chain *c, bool rooms, struct err *err)
{
	static const struct backupstage_file file = {"keyset.json", (const uint8_t *)"{}", 2};
	struct backupstage_conf conf = {.downstream = keys,
	                                .keyfiles = &file,
	                                .nkeyfiles = 1,
	                                .guard = "# guard\n",
	                                .checksums = DIGEST_SHA256,
	                                .hooks = {.arg = c, .room = rooms ? room : NULL}};
	struct stage *s = NULL, *next;
	struct spool_io io;

	memset(c, 0, sizeof(*c));
	buffer_init(&c->out, 4 << 20);
	if ((c->memory = spool_memory_new(1 << 20, &io, err)) == NULL || (c->spool = spool_new(&io, err)) == NULL ||
	    (s = backupwriter_new(&c->out, 2 << 20, err)) == NULL)
		goto fail;
	c->writer = s;
	conf.spool = c->spool;
	if ((next = manifest_new(DIGEST_SHA256, c->spool, s, err)) == NULL)
		goto fail;
	s = next;
	if ((next = tar_writer_new(s, err)) == NULL)
		goto fail;
	s = next;
	if ((next = backupstage_new(&conf, s, err)) == NULL)
		goto fail;
	s = next;
	if ((next = tar_reader_new(s, err)) == NULL)
		goto fail;
	s = next;
	if ((c->stream = backupstream_new(s, err)) == NULL)
		goto fail;
	return 0;
fail:
	stage_free(s);
	return -1;
}

/* One relation of two pages and PG_VERSION, in messages of n bytes; what came out is in c->out. */
static int
backup(struct chain *c, size_t n, bool rooms, struct err *err)
{
	static const char manifest[] =
	    "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n"
	    "{ \"Path\": \"base/1/1259\", \"Size\": 16384, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", "
	    "\"Checksum-Algorithm\": \"SHA256\", "
	    "\"Checksum\": \"00\" },\n"
	    "{ \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", "
	    "\"Checksum-Algorithm\": \"SHA256\", "
	    "\"Checksum\": \"11\" }\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": "
	    "\"0/2000100\" }\n],\n"
	    "\"Manifest-Checksum\": \"90d4f2debef0860377336c813722908643c55da0be5c88ebe258aa62bb957291\"}\n";
	struct tar_member m = {.type = TAR_FILE, .name = "base/1/1259", .size = 16384, .mode = 0600};
	uint8_t archive[512 + 16384 + 512 + 512 + 1024] = {0}, message[20000];
	int rc;

	memset(err, 0, sizeof(*err));
	if ((rc = chain_new(c, rooms, err)) != 0)
		return -1;
	tar_header_format(&m, archive, err);
	sample_noise(3, archive + 512, 16384);
	snprintf(m.name, sizeof(m.name), "PG_VERSION");
	m.size = 3;
	tar_header_format(&m, archive + 512 + 16384, err);
	memcpy(archive + 512 + 16384 + 512, "15\n", 3);
	rc = push(c->stream, "nbase.tar\0", 11, err);
	for (size_t at = 0; rc == 0 && at < sizeof(archive); at += n) {
		size_t len = n < sizeof(archive) - at ? n : sizeof(archive) - at;

		message[0] = 'd';
		memcpy(message + 1, archive + at, len);
		rc = push(c->stream, message, len + 1, err);
		/* some of it is on its way meanwhile */
		if (rooms)
			buffer_seal(&c->out, buffer_len(&c->out) / 2);
	}
	if (rc == 0)
		rc = push(c->stream, "m", 1, err);
	for (size_t at = 0; rc == 0 && at < sizeof(manifest) - 1; at += n) {
		size_t len = n < sizeof(manifest) - 1 - at ? n : sizeof(manifest) - 1 - at;

		message[0] = 'd';
		memcpy(message + 1, manifest + at, len);
		rc = push(c->stream, message, len + 1, err);
	}
	return rc != 0 ? -1 : backupstream_finish(c->stream, err);
}

/* Data of all 'd' messages, without their framing. */
static size_t
payload(struct buffer *out, uint8_t *data, size_t size)
{
	size_t len = 0;

	while (buffer_len(out) > 0) {
		size_t n = get_u32(buffer_data(out) + 1) + 1;

		if (buffer_data(out)[5] == 'd' && len + n - 6 <= size) {
			memcpy(data + len, buffer_data(out) + 6, n - 6);
			len += n - 6;
		}
		buffer_consume(out, n);
	}
	return len;
}

static void
whole(void)
{
	static const size_t steps[] = {1, 7, 511, 512, 8192, 16384, 19999};
	uint8_t *want = malloc(100000), *got = malloc(100000);
	size_t want_len = 0, got_len;
	bool same = true;
	struct chain c;
	struct err err;

	for (size_t i = 0; i < 2 * sizeof(steps) / sizeof(steps[0]); i++) {
		if (backup(&c, steps[i / 2], i % 2 == 1, &err) != 0)
			same = ok(false, "in steps of %zu: %s", steps[i / 2], err.text);
		got_len = payload(&c.out, got, 100000);
		if (i == 0) {
			memcpy(want, got, got_len);
			want_len = got_len;
		}
		same &= got_len == want_len && memcmp(want, got, got_len) == 0;
		chain_free(&c);
	}
	ok(same, "a whole backup, the same bytes however its messages are cut, in place or copied");
	ok(memmem(want, want_len, "pg_cryptokeys/live/keyset.json\", \"Size\": 2,", 43) != NULL,
	   "the keys are in the manifest");
	free(want);
	free(got);
}

static int
starve(void *arg)
{
	struct chain c = {0};
	struct err err;
	int rc = backup(&c, 4000, true, &err);

	(void)arg;
	chain_free(&c);
	return rc != 0 && err.text[0] == '\0' ? 1 : rc;
}

int
main(void)
{
	sample_secmem(1 << 18);
	keys = sample_keyset(KEY_AES192);
	apart();
	refusals();
	together();
	whole();
	ok(failmalloc_each(starve, NULL) > 30, "each allocation may fail");
	keyset_free(keys);
	return tap_done();
}
