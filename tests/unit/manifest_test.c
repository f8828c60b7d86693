/* The manifest: exact text with what changed, in every split; any other shape refused. */
#include "replication/manifest.h"

#include <stdlib.h>

#include "replication/manifest_line.h"
#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

#define HEAD "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": ["
#define HEAD2 "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7300000000000000007,\n\"Files\": ["
#define RANGES                                                                                                         \
	"\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 2, \"Start-LSN\": \"0/A000028\", \"End-LSN\": \"0/A000100\" },\n"        \
	"{ \"Timeline\": 1, \"Start-LSN\": \"0/9000028\", \"End-LSN\": \"0/A000028\" }\n],\n"
#define FILE_LINE(path, size, sum)                                                                                     \
	"{ \"Path\": \"" path "\", \"Size\": " size                                                                        \
	", \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": \"CRC32C\", "                           \
	"\"Checksum\": \"" sum "\" }"
#define ENCODED_LINE(path, size, sum)                                                                                  \
	"{ \"Encoded-Path\": \"" path "\", \"Size\": " size                                                                \
	", \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"" sum       \
	"\" }"

/* The text with its checksum line behind; to be freed. */
static char *
sealed(const char *text)
{
	struct digest *d;
	struct buffer b;
	uint8_t sum[DIGEST_MAX_LEN];
	struct err err;
	char *whole;

	buffer_init(&b, 1 << 20);
	d = digest_new(DIGEST_SHA256, &err);
	if (d == NULL || digest_update(d, text, strlen(text), &err) != 0 || digest_final(d, sum, &err) != 32)
		abort();
	digest_free(d);
	buffer_put_text(&b, text);
	buffer_put_text(&b, "\"Manifest-Checksum\": \"");
	manifest_line_put_hex(&b, sum, 32);
	buffer_put_text(&b, "\"}\n");
	buffer_put_u8(&b, 0);
	if (buffer_check(&b, &err) != 0 || (whole = strdup((char *)buffer_data(&b))) == NULL)
		abort();
	buffer_free(&b);
	return whole;
}

struct entry {
	enum spool_kind kind;
	const char *path;
	uint64_t size;
	const char *checksum; /* four bytes */
};

struct run {
	struct stage *s;
	struct collect sink;
};

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct chunk c = {.kind = CHUNK_MANIFEST, .pos = pos, .data = piece, .len = len};

	return stage_push(((struct run *)arg)->s, &c, err);
}

/* What comes out, to be freed; NULL with err. */
static char *
rewrite(const char *text, size_t len, const struct entry *entries, enum digest_kind checksums, int how, struct err *err)
{
	struct chunk begin = {.kind = CHUNK_MANIFEST_BEGIN};
	struct spool_memory *memory = NULL;
	struct spool *spool = NULL;
	struct spool_io io;
	struct run run = {0};
	char *out = NULL;

	memset(err, 0, sizeof(*err));
	collect_init(&run.sink, NULL);
	if ((memory = spool_memory_new(1 << 20, &io, err)) == NULL || (spool = spool_new(&io, err)) == NULL)
		goto done;
	for (; entries != NULL && entries->path != NULL; entries++) {
		struct spool_entry e = {.kind = entries->kind, .size = entries->size, .mtime = 1700000000};

		snprintf(e.path, sizeof(e.path), "%s", entries->path);
		if (checksums == DIGEST_CRC32C && entries->checksum != NULL)
			memcpy(e.checksum, entries->checksum, e.checksum_len = 4);
		if (spool_add(spool, &e, err) != 0)
			goto done;
	}
	if ((run.s = manifest_new(checksums, spool, &run.sink.base, err)) == NULL || stage_push(run.s, &begin, err) != 0 ||
	    split_feed((const uint8_t *)text, len, how, feed, &run, err) != 0 || stage_finish(run.s, err) != 0)
		goto done;
	buffer_put_u8(&run.sink.bytes, 0);
	if (buffer_check(&run.sink.bytes, err) == 0 && (out = strdup((char *)buffer_data(&run.sink.bytes))) == NULL)
		err_nomem(err);
done:
	stage_free(run.s != NULL ? run.s : &run.sink.base);
	spool_free(spool);
	spool_memory_free(memory);
	return out;
}

static void
becomes(const char *in, const struct entry *entries, enum digest_kind checksums, const char *want, const char *what)
{
	char *text = sealed(in), *wanted = sealed(want), *got;
	struct err err;
	bool same = true;

	got = rewrite(text, strlen(text), entries, checksums, 0, &err);
	if (!is_str(got, wanted, "%s", what))
		printf("# %s %s\n", err.text, err.detail);
	free(got);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		got = rewrite(text, strlen(text), entries, checksums, *how, &err);
		same &= got != NULL && strcmp(got, wanted) == 0;
		free(got);
	}
	ok(same, "%s, in every split", what);
	free(text);
	free(wanted);
}

static const struct entry changes[] = {{SPOOL_CHANGED, "base/1/1259", 8192, "\x01\x23\x45\x67"},
                                       {SPOOL_DROPPED, "pg_cryptokeys/live/wal.wkey", 48, NULL},
                                       {SPOOL_INSERTED, "pg_cryptokeys/live/keyset.json", 5, "\xff\xfe\xfd\xfc"},
                                       {SPOOL_INSERTED, "pg_cryptokeys/live/\"x\"", 5, "\xff\xfe\xfd\xfc"},
                                       {SPOOL_CHANGED, "global/1262", 16384, "\x89\xab\xcd\xef"},
                                       {0}};
#define INSERTED                                                                                                       \
	"{ \"Path\": \"pg_cryptokeys/live/keyset.json\", \"Size\": 5, \"Last-Modified\": \"2023-11-14 22:13:20 GMT\", "    \
	"\"Checksum-Algorithm\": "                                                                                         \
	"\"CRC32C\", \"Checksum\": \"fffefdfc\" },\n"                                                                      \
	"{ \"Encoded-Path\": \"70675f63727970746f6b6579732f6c6976652f227822\", \"Size\": 5, \"Last-Modified\": "           \
	"\"2023-11-14 22:13:20 GMT\", "                                                                                    \
	"\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"fffefdfc\" }"
#define IN                                                                                                             \
	"\n" FILE_LINE("backup_label", "225", "00112233") ",\n" FILE_LINE(                                                 \
	    "base/1/1259", "100",                                                                                          \
	    "00000000") ",\n" FILE_LINE("pg_cryptokeys/live/wal.wkey", "48",                                               \
	                                "0a0b0c0d") ",\n" FILE_LINE("PG_VERSION", "3",                                     \
	                                                            "0a0b0c0d") ",\n" ENCODED_LINE("676c6f62616c2f3132363" \
	                                                                                           "2",                    \
	                                                                                           "16384", "00000000")
#define OUT                                                                                                            \
	"\n" FILE_LINE("backup_label", "225", "00112233") ",\n" FILE_LINE(                                                 \
	    "base/1/1259", "8192", "01234567") ",\n" INSERTED                                                              \
	                                       ",\n" FILE_LINE("PG_VERSION", "3", "0a0b0c0d") ",\n" ENCODED_LINE(          \
	                                           "676c6f62616c2f31323632", "16384", "89abcdef")

static void
rewrites(void)
{
	static const struct entry none[] = {{0}}, first[] = {{SPOOL_DROPPED, "a", 1, NULL}, {0}};
	static const struct entry last[] = {{SPOOL_DROPPED, "b", 1, NULL}, {SPOOL_INSERTED, "c", 2, "\1\2\3\4"}, {0}};
	static const struct entry plain[] = {{SPOOL_CHANGED, "a\\b\"c\n", 7, NULL}, {0}};

	becomes(HEAD IN RANGES, none, DIGEST_CRC32C, HEAD IN RANGES, "nothing changed: the same text");
	becomes(HEAD IN RANGES, changes, DIGEST_CRC32C, HEAD OUT RANGES, "changed, dropped, inserted");
	becomes(HEAD2 IN RANGES, changes, DIGEST_CRC32C, HEAD2 OUT RANGES, "version 2 of PostgreSQL 17");
	becomes(HEAD RANGES, none, DIGEST_CRC32C, HEAD RANGES, "no files at all");
	becomes(HEAD "\n" FILE_LINE("a", "1", "00") ",\n" FILE_LINE("b", "1", "00") RANGES, first, DIGEST_CRC32C,
	        HEAD "\n" FILE_LINE("b", "1", "00") RANGES, "the first one dropped");
	becomes(HEAD "\n" FILE_LINE("a", "1", "00") ",\n" FILE_LINE("b", "1", "00") RANGES, last, DIGEST_CRC32C,
	        HEAD "\n" FILE_LINE(
	            "a", "1", "00") ",\n{ \"Path\": \"c\", \"Size\": 2, \"Last-Modified\": \"2023-11-14 22:13:20 GMT\", "
	                            "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"01020304\" }" RANGES,
	        "the last one dropped, one put at the end");
	becomes(
	    HEAD
	    "\n{ \"Path\": \"a\\\\b\\\"c\\u000a\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\" }" RANGES,
	    plain, DIGEST_NONE,
	    HEAD
	    "\n{ \"Path\": \"a\\\\b\\\"c\\u000a\", \"Size\": 7, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\" }" RANGES,
	    "without checksums; an escaped name");
}

static void
refused(const char *in, bool seal, const struct entry *entries, const char *part, const char *what)
{
	char *text = seal ? sealed(in) : strdup(in);
	struct err err;

	for (int how = 0; how < 2; how++) {
		char *got = rewrite(text, strlen(text), entries, DIGEST_CRC32C, how, &err);

		ok(got == NULL, "refused: %s", what);
		is_err(&err, ERR_DAMAGED, part, "... %s (%s)", part, err.text);
		free(got);
	}
	free(text);
}

static void
refusals(void)
{
	static const struct entry missing[] = {{SPOOL_CHANGED, "base/1/1", 8192, "\1\2\3\4"}, {0}};
	static const char *const lines[] = {
	    "{ \"Path\": \"a\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\" }",
	    "{ \"Path\": \"a\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": "
	    "\"SHA256\", \"Checksum\": \"00\" }",
	    "{ \"Path\": \"a\", \"Size\": -1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": "
	    "\"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Path\": \"\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": "
	    "\"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Path\": \"\\x\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": "
	    "\"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Path\": \"\\ud800\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", \"Checksum-Algorithm\": "
	    "\"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Encoded-Path\": \"6\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", "
	    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Encoded-Path\": \"00\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", "
	    "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00\" }",
	    "{ \"Path\": \"a\", \"Size\": 1, \"Extra\": 1, \"Last-Modified\": \"2026-11-22 02:07:17 GMT\", "
	    "\"Checksum-Algorithm\": \"CRC32C\", "
	    "\"Checksum\": \"00\" }",
	    FILE_LINE("a", "1", "00") ",,",
	    "x",
	    "",
	};
	char text[4000];

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		snprintf(text, sizeof(text), "%s\n%s%s", HEAD, lines[i], RANGES);
		snprintf(text + 3000, 900, "line %zu", i);
		refused(text, true, NULL, "unknown shape", text + 3000);
	}
	refused("{ \"PostgreSQL-Backup-Manifest-Version\": 3,\n", true, NULL, "unknown version", "version 3");
	refused("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"System-Identifier\": 1,\n", true, NULL, "unknown shape",
	        "version 1 with an identifier");
	refused(HEAD IN "\n],\n\"WAL-Ranges\": [\nx\n],\n", true, NULL, "unknown shape", "an odd range");
	refused(HEAD IN "\n],\n\"More\": [\n],\n", true, NULL, "unknown shape", "an unknown part");
	refused(HEAD IN RANGES, true, missing, "lacks a file of the backup: \"base/1/1\"",
	        "a changed file that is not in it");
	refused(HEAD IN RANGES "\"Manifest-Checksum\": \"00\"}\n", false, NULL, "checksum that it says",
	        "a wrong checksum");
	refused(HEAD IN RANGES, false, NULL, "cut off", "no checksum");
	refused(HEAD IN, false, NULL, "cut off", "half of it");
	refused("", false, NULL, "cut off", "nothing");

	char *whole = sealed(HEAD IN RANGES), *more = malloc(strlen(whole) + 10), *big = malloc(70000);

	sprintf(more, "%sx\n", whole);
	refused(more, false, NULL, "unknown shape", "something behind its end");
	sprintf(more, "%sx", whole);
	refused(more, false, NULL, "cut off", "half a line behind its end");
	memset(big, 'x', 69999);
	big[69999] = '\0';
	refused(big, false, NULL, "too long", "a line without end");
	free(whole);
	free(more);
	free(big);
}

static void
order(void)
{
	struct chunk begin = {.kind = CHUNK_MANIFEST_BEGIN},
	             bytes = {.kind = CHUNK_MANIFEST, .data = (uint8_t[]){'x'}, .len = 1};
	struct chunk tar = {.kind = CHUNK_PROGRESS, .pos = 7};
	struct spool_io io;
	struct err err;
	struct spool_memory *memory = spool_memory_new(1000, &io, &err);
	struct spool *spool = spool_new(&io, &err);
	struct collect sink;
	struct stage *s = manifest_new(DIGEST_NONE, spool, collect_init(&sink, NULL), &err);

	is_int(stage_push(s, &tar, &err), 0, "other chunks pass");
	is_int(stage_push(s, &bytes, &err), -1, "no bytes before the beginning");
	is_int(stage_finish(s, &err), -1, "it must come");
	is_int(stage_push(s, &begin, &err), 0, "it begins");
	is_int(stage_push(s, &begin, &err), -1, "once");
	stage_free(s);
	spool_free(spool);
	spool_memory_free(memory);
}

static void
spooling(void)
{
	struct spool_entry e = {.kind = SPOOL_CHANGED, .size = 1, .checksum_len = 64}, got;
	struct spool_io io;
	struct err err;
	struct spool_memory *memory = spool_memory_new(16 << 20, &io, &err);
	struct spool *spool = spool_new(&io, &err);
	bool same = true;

	for (int i = 0; i < 20000; i++) {
		snprintf(e.path, sizeof(e.path), "%0*d", 1 + i % 1200, i);
		e.size = (uint64_t)i << 32;
		memset(e.checksum, i, sizeof(e.checksum));
		same &= spool_add(spool, &e, &err) == 0;
	}
	for (int i = 0; i < 20000; i++) {
		snprintf(e.path, sizeof(e.path), "%0*d", 1 + i % 1200, i);
		memset(e.checksum, i, sizeof(e.checksum));
		same &= spool_next(spool, &got, &err) == 1 && strcmp(got.path, e.path) == 0 && got.size == (uint64_t)i << 32 &&
		        memcmp(got.checksum, e.checksum, 64) == 0;
		if (!same)
			break;
	}
	ok(same && spool_next(spool, &got, &err) == 0, "a spool gives back what it got, in order");
	spool_free(spool);
	spool_memory_free(memory);
	memory = spool_memory_new(100, &io, &err);
	spool = spool_new(&io, &err);
	io.write(io.arg, "\1\0\0\377abcdefghijklmnopq", 20, &err);
	is_int(spool_next(spool, &got, &err), -1, "a spool that is cut off is found out");
	spool_free(spool);
	spool_memory_free(memory);
}

static int
starve(void *arg)
{
	struct err err;
	char *got = rewrite(arg, strlen(arg), changes, DIGEST_CRC32C, 100, &err);

	free(got);
	return got != NULL ? 0 : err.text[0] != '\0' ? -1 : 1;
}

int
main(void)
{
	char *text = sealed(HEAD IN RANGES);

	rewrites();
	refusals();
	order();
	spooling();
	ok(failmalloc_each(starve, text) > 10, "each allocation may fail");
	free(text);
	return tap_done();
}
