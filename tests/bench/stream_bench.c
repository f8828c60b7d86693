/*
 * What a stream costs the proxy besides the system calls: GB/s of WAL, one core, in messages of 128 KiB as a walsender
 * that is behind sends them.
 *
 *   stream_bench [SECONDS [NAME]]     one line each, or of one alone: NAME GB/s
 *
 * Rounds are interleaved and the median of each is shown, as by cipher_bench.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "keymgr/ledger.h"
#include "replication/walscan.h"
#include "replication/walstream.h"
#include "tests/bench/timing.h"
#include "tests/unit/walmake.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

#define MESSAGE (128u << 10)
#define WAL_LEN (8u << 20)
#define MAX_ROUNDS 10000

static struct walmake small, middle; /* records of about 80 and 330 bytes */
static uint8_t *work;
static struct data_key key = {.len = 32};
static struct keyset *keys;
static struct ledger *ledger;
static struct ledger_line line = {WALMAKE_SYSTEM_IDENTIFIER, 1, {0}, {0}};
static struct err err;

static int
crc(size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < WAL_LEN; i += len)
		sum ^= crc32c(0, middle.data + i, len);
	return sum == 1; /* so that it is not thrown away */
}

static int
crc_80(void)
{
	return crc(64);
}
static int
crc_330(void)
{
	return crc(256);
}
static int
crc_page(void)
{
	return crc(8192);
}

static int
scan(const struct walmake *wal)
{
	struct walscan_conf conf = {.segment_size = WALMAKE_SEGMENT};
	struct walscan *w = walscan_new(&conf, wal->start, &err);
	int rc = w == NULL;

	for (size_t i = 0; rc == 0 && i < WAL_LEN; i += MESSAGE)
		rc = walscan_push(w, wal->data + i, MESSAGE, &err);
	walscan_free(w);
	return rc;
}

static int
scan_small(void)
{
	return scan(&small);
}
static int
scan_middle(void)
{
	return scan(&middle);
}

static int
record(size_t message)
{
	struct ledger_place place;
	struct ledger_trace *t;
	const char *why;
	int rc;

	/* each round a new incarnation: what lies behind the line's position is recorded only in part */
	if (ledger_find(ledger, &line, &place, &why, &err) != 0 ||
	    ledger_renew(ledger, &line, place.incarnation, &place, &err) != 0 ||
	    (t = ledger_trace_new(ledger, &line, &place, &key, WALMAKE_SEGMENT, &err)) == NULL)
		return -1;
	rc = 0;
	for (size_t i = 0; rc == 0 && i < WAL_LEN; i += message)
		rc = ledger_trace_record(t, middle.start + i, middle.data + i, message, &err);
	ledger_trace_free(t);
	return rc;
}

static int
record_large(void)
{
	return record(MESSAGE);
}

static int
record_small(void)
{
	return record(512);
}

static int
sink_push(struct stage *stage, struct chunk *c, struct err *e)
{
	(void)stage;
	(void)c;
	(void)e;
	return 0;
}

static int
sink_finish(struct stage *stage, struct err *e)
{
	(void)stage;
	(void)e;
	return 0;
}

static void
sink_free(struct stage *stage)
{
	(void)stage;
}

static const struct stage_ops sink_ops = {sink_push, sink_finish, sink_free};

static int
stream(bool with_scan)
{
	struct stage sink = {.ops = &sink_ops};
	struct walstream_conf conf = {.downstream = keys,
	                              .system_identifier = WALMAKE_SYSTEM_IDENTIFIER,
	                              .tli = 1,
	                              .generation = 0x80000001,
	                              .segment_size = WALMAKE_SEGMENT,
	                              .from = middle.start,
	                              .scan = with_scan};
	struct stage *s = walstream_new(&conf, &sink, &err);
	int rc = s == NULL ? -1 : 0;

	for (size_t i = 0; rc == 0 && i < WAL_LEN; i += MESSAGE) {
		struct chunk c = {.kind = CHUNK_WAL, .pos = middle.start + i, .data = work, .len = MESSAGE};
		struct chunk end = {.kind = CHUNK_WAL_END};

		memcpy(work, middle.data + i, MESSAGE); /* it is encrypted in place */
		rc = stage_push(s, &c, &err) < 0 || stage_push(s, &end, &err) < 0;
	}
	stage_free(s);
	return rc;
}

static int
stream_all(void)
{
	return stream(true);
}
static int
stream_cipher(void)
{
	return stream(false);
}

static struct {
	const char *name;
	int (*run)(void);
	size_t n;
	double rate[MAX_ROUNDS];
} what[] = {
    {.name = "crc32c-64", .run = crc_80},
    {.name = "crc32c-256", .run = crc_330},
    {.name = "crc32c-8192", .run = crc_page},
    {.name = "scan-records-80", .run = scan_small},
    {.name = "scan-records-330", .run = scan_middle},
    {.name = "ledger", .run = record_large},
    {.name = "ledger-messages-512", .run = record_small}, /* as many small commits give */
    {.name = "stream-cipher", .run = stream_cipher},
    {.name = "stream-cipher-scan", .run = stream_all},
};

#define N (sizeof(what) / sizeof(what[0]))

static void
fill(struct walmake *w, size_t len)
{
	uint8_t data[512];
	uint64_t seed = 1;

	walmake_init(w, 16u << 20, WAL_LEN + (64u << 10));
	while (w->len < WAL_LEN) {
		for (size_t i = 0; i < len; i++)
			data[i] = (uint8_t)((seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u) >> 56);
		walmake_record(w, 10, 0, data, len);
	}
}

static int
setup(void)
{
	char path[] = "/tmp/stream_bench.XXXXXX";
	struct keyset_epoch epoch = {.number = 1};
	int fd = mkstemp(path);

	fill(&small, 50);
	fill(&middle, 300);
	memcpy(key.bytes, middle.data + 100, 32);
	epoch.key = key;
	if (fd < 0 || (work = malloc(MESSAGE)) == NULL)
		return err_nomem(&err);
	close(fd);
	if (secmem_hook_openssl(&err) != 0 || secmem_init(1u << 20, &err) != 0 ||
	    (keys = keyset_new(KEY_AES256, WALMAKE_SYSTEM_IDENTIFIER, &key, &epoch, 1, &err)) == NULL)
		return -1;
	ledger = ledger_open(path, &err);
	unlink(path);
	return ledger == NULL ? -1 : 0;
}

int
main(int argc, char **argv)
{
	double end, seconds = argc > 1 ? strtod(argv[1], NULL) : 4;

	if (setup() != 0) {
		fprintf(stderr, "stream_bench: %s\n", err.text);
		return 1;
	}
	for (end = timing_now() + seconds; timing_now() < end;)
		for (size_t i = 0; i < N; i++) {
			double from = timing_now();

			if (argc > 2 && strcmp(argv[2], what[i].name) != 0)
				continue;
			if (what[i].run() != 0) {
				fprintf(stderr, "stream_bench: %s failed: %s\n", what[i].name, err.text);
				return 1;
			}
			if (what[i].n < MAX_ROUNDS)
				what[i].rate[what[i].n++] = WAL_LEN / (timing_now() - from) / 1e9;
		}
	for (size_t i = 0; i < N; i++) {
		if (what[i].n == 0)
			continue;
		qsort(what[i].rate, what[i].n, sizeof(double), timing_order);
		printf("%s %.2f GB/s\n", what[i].name, what[i].rate[what[i].n / 2]);
	}
	return 0;
}
