/* The WAL stage: any split the same bytes, the upstream's message boundaries, and what it refuses. */
#include "replication/walstream.h"

#include <stdlib.h>

#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/walmake.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

#define GENERATION 0x89ABCDEFu
#define START (UINT64_C(5) * WALMAKE_SEGMENT)

static struct keyset *keys, *others; /* others: the same epochs but for the first, whose key is another one */
static int commits;
static bool aside; /* what comes out may be put into another place */
static size_t asides,
    misplaced; /* how many bytes were; how many of them not as far from its beginning as they came out */

struct run {
	struct stage *s;
	uint64_t start;
	const size_t *ends; /* of the upstream's messages, ascending; ended by 0 */
	size_t fed;
	struct collect sink;
};

static int
push(struct run *run, enum chunk_kind kind, uint8_t *data, size_t len, struct err *err)
{
	struct chunk c = {.kind = kind, .pos = run->start + run->fed, .data = data, .len = len};
	size_t before = buffer_len(&run->sink.bytes);
	int rc;

	if (!aside || len == 0)
		return stage_push(run->s, &c, err);
	if ((c.to = calloc(1, len)) == NULL)
		return -1;
	rc = stage_push(run->s, &c, err);
	for (size_t i = 0; i < len; i++) {
		asides += c.to[i] != 0;
		misplaced += c.to[i] != 0 && (before + i >= buffer_len(&run->sink.bytes) ||
		                              buffer_data(&run->sink.bytes)[before + i] != c.to[i]);
	}
	free(c.to);
	return rc;
}

/* A piece, cut where messages end. */
static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct run *run = arg;
	int rc = 0;

	(void)pos;
	while (len > 0) {
		size_t n = *run->ends != 0 && *run->ends - run->fed < len ? *run->ends - run->fed : len;

		if ((rc = push(run, CHUNK_WAL, piece, n, err)) < 0)
			return -1;
		run->fed += n;
		piece += n;
		len -= n;
		if (*run->ends != 0 && *run->ends == run->fed) {
			if ((rc = push(run, CHUNK_WAL_END, NULL, 0, err)) < 0)
				return -1;
			run->ends++;
		}
	}
	return rc;
}

/* bytes and marks of the whole; 0, or -1 with err. */
static int
stream(const struct walmake *w, struct walstream_conf conf, const size_t *ends, int how, struct buffer *bytes,
       struct buffer *marks, struct err *err)
{
	struct run run = {.start = w->start, .ends = ends};
	int rc = -1;

	memset(err, 0, sizeof(*err));
	collect_init(&run.sink, NULL);
	if ((run.s = walstream_new(&conf, &run.sink.base, err)) == NULL) {
		stage_free(&run.sink.base);
		return -1;
	}
	if (split_feed(w->data, w->len, how, feed, &run, err) == 0 && stage_finish(run.s, err) == 0)
		rc = 0;
	if (rc == 0)
		collect_take(&run.sink, bytes, marks);
	stage_free(run.s);
	return rc;
}

static struct walstream_conf
conf_from(uint64_t from)
{
	return (struct walstream_conf){.downstream = keys,
	                               .system_identifier = WALMAKE_SYSTEM_IDENTIFIER,
	                               .tli = 1,
	                               .generation = GENERATION,
	                               .segment_size = WALMAKE_SEGMENT,
	                               .from = from};
}

static bool
same(const struct buffer *a, const struct buffer *b)
{
	return buffer_len(a) == buffer_len(b) &&
	       (buffer_len(a) == 0 || memcmp(buffer_data(a), buffer_data(b), buffer_len(a)) == 0);
}

static void
decrypts(const struct walmake *w, const struct buffer *sealed, const char *what)
{
	struct err err = {0};
	struct wal_cipher *cipher = wal_cipher_new(keys, &err);
	bool right = cipher != NULL && buffer_len(sealed) == w->len, flagged = true;
	size_t zeros = 0;

	for (size_t at = 0; right && at + WAL_PAGE_LEN <= w->len; at += WAL_PAGE_LEN) {
		const uint8_t *page = buffer_data(sealed) + at;
		uint8_t clear[WAL_PAGE_LEN];
		struct wal_header h;
		static const uint8_t zero[8];

		flagged &= wal_page_look(page, WAL_PAGE_LEN, &h) == WAL_PAGE_ENCRYPTED && h.generation == GENERATION;
		right = wal_page_decrypt(cipher, page, clear, &err) == 0 && memcmp(clear, w->data + at, WAL_PAGE_LEN) == 0;
		for (size_t g = h.len; g < WAL_PAGE_LEN; g += 8)
			zeros += memcmp(page + g, zero, 8) == 0;
	}
	ok(right, "%s: decrypts to what came", what);
	ok(flagged, "%s: each page carries flag and generation", what);
	is_int(zeros, 0, "%s: no raw zeros (W3)", what);
	wal_cipher_free(cipher);
}

static void
splits(void)
{
	/* as a walsender cuts: at flush positions, multiples of 8, and at page boundaries; the last ones inside a granule
	 */
	static const size_t ends[] = {24 + 16 + 8, 4096,   8192,   8192 + 24, 16384,  50000, 131072,
	                              140000,      140001, 140003, 140010,    196608, 0};
	struct buffer want, want_marks, got, marks;
	struct walmake w;
	struct err err;
	bool equal = true;

	walmake_init(&w, START, 2 << 20);
	walmake_fill(&w, 200000);
	w.len -= w.len % WAL_PAGE_LEN;
	if (!ok(stream(&w, conf_from(START), ends, 0, &want, &want_marks, &err) == 0, "streams") &&
	    printf("# %s\n", err.text))
		return;
	decrypts(&w, &want, "synthetic WAL");
	buffer_put_u8(&want_marks, 0);
	is_str((char *)buffer_data(&want_marks),
	       "W 0/500030 0\nW 0/501000 0\nW 0/502000 0\nW 0/502018 0\nW 0/504000 0\nW 0/50C350 0\nW 0/520000 0\nW "
	       "0/5222E0 0\nW 0/5222E1 0\n"
	       "W 0/5222E3 0\nW 0/5222EA 0\nW 0/530000 0\n",
	       "messages end where the upstream's ended (P1)");
	buffer_rewind(&want_marks, buffer_len(&want_marks) - 1);
	for (int i = 0; i < 2; i++, aside = !aside)
		for (const int *how = split_ways; *how != SPLIT_END; how++) {
			if (stream(&w, conf_from(START), ends, *how, &got, &marks, &err) != 0) {
				equal = ok(false, "split %d: %s", *how, err.text);
				continue;
			}
			equal &= same(&want, &got) && same(&want_marks, &marks);
			buffer_free(&got);
			buffer_free(&marks);
		}
	ok(equal, "the same bytes and boundaries in every split, in place and aside");
	ok(asides > 1000000 && misplaced == 0, "... where they belong there");

	equal = true;
	for (size_t from = 0; from < w.len; from += from < 100 || from % 8192 < 50 ? 1 : 4093) {
		if (stream(&w, conf_from(START + from), ends, from % 3 == 0 ? -3 : 0, &got, &marks, &err) != 0) {
			equal = ok(false, "from %zu: %s", from, err.text);
			continue;
		}
		equal &=
		    buffer_len(&got) == w.len - from && memcmp(buffer_data(&got), buffer_data(&want) + from, w.len - from) == 0;
		buffer_free(&got);
		buffer_free(&marks);
	}
	ok(equal, "from any position on: the same bytes without those before");
	buffer_free(&want);
	buffer_free(&want_marks);
	walmake_free(&w);
}

/* Nothing is held back until a record is whole, though its checksum is known no sooner. */
static void
holds_little(bool scan)
{
	static const size_t ends[] = {0};
	struct run run = {.start = START, .ends = ends};
	struct walstream_conf conf = conf_from(START);
	uint8_t *large = calloc(1, 50000);
	struct walmake w;
	struct err err = {0};
	bool held = false;

	conf.scan = scan;
	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 20000);
	walmake_record(&w, 10, 0, large, 50000);
	free(large);
	collect_init(&run.sink, NULL);
	run.s = walstream_new(&conf, &run.sink.base, &err);
	for (size_t i = 0; i < w.len; i++) {
		uint8_t byte = w.data[i];

		if (feed(&run, &byte, 1, i, &err) != 0)
			break;
		held |= i + 1 - buffer_len(&run.sink.bytes) > 7;
	}
	is_int(run.fed, w.len, "byte by byte%s", scan ? ", records checked" : "");
	ok(!held, "... never more than 7 bytes back");
	run.sink.answer = 1;
	is_int(push(&run, CHUNK_WAL, w.data, 8, &err), 1, "a pause asked for by the far end is passed on");
	stage_free(run.s);
	walmake_free(&w);
}

/* What follows a segment switch is zeros, page headers included: it travels as it is. */
static void
after_switch(void)
{
	static const size_t ends[] = {20480, 90000, 90001, 90008, WALMAKE_SEGMENT, 0};
	struct buffer want, want_marks, got, marks;
	struct walmake w, head;
	struct err err;
	size_t used;
	bool same_bytes = true, zeros = true;

	walmake_init(&w, START, 3 << 20);
	walmake_fill(&w, 20000);
	walmake_record(&w, 0, 0x40, NULL, 0);
	used = (w.len + WAL_PAGE_LEN - 1) / WAL_PAGE_LEN * WAL_PAGE_LEN;
	walmake_zeros(&w, WALMAKE_SEGMENT);
	walmake_fill(&w, WALMAKE_SEGMENT + 30000);
	w.len -= w.len % WAL_PAGE_LEN;
	if (!is_int(stream(&w, conf_from(START), ends, 0, &want, &want_marks, &err), 0, "a segment switch"))
		return;
	for (size_t at = used; at < WALMAKE_SEGMENT; at++)
		zeros &= buffer_data(&want)[at] == 0;
	ok(zeros, "... zeros stay zeros");
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		aside = !aside;
		same_bytes &= stream(&w, conf_from(START), ends, *how, &got, &marks, &err) == 0;
		if (!same_bytes)
			break;
		same_bytes &= same(&want, &got) && same(&want_marks, &marks);
		buffer_free(&got);
		buffer_free(&marks);
	}
	aside = false;
	ok(same_bytes, "... the same bytes and boundaries in every split");
	head = w;
	head.len = used;
	want.end = want.start + used;
	decrypts(&head, &want, "before a switch");
	buffer_free(&want);
	buffer_free(&want_marks);
	walmake_free(&w);
}

static int
count_commits(void *arg, const struct walscan_event *e, struct err *err)
{
	(void)arg;
	(void)err;
	commits += e->kind == WALSCAN_COMMIT;
	return 0;
}

/* With the scanner on: a damaged record stops the stream, and nothing of its page's rest goes out. */
static void
scanned(void)
{
	static const size_t none[] = {0};
	struct walstream_conf conf = conf_from(START);
	struct buffer got, marks;
	struct walmake w;
	struct err err;
	uint64_t at, switched;
	size_t unread;
	bool all = true;

	conf.scan = true;
	conf.on_event = count_commits;
	walmake_init(&w, START, 3 << 20);
	walmake_fill(&w, 20000);
	walmake_record(&w, 1, 0, "12345678", 8);
	at = walmake_record(&w, 10, 0, "some bytes", 10);
	walmake_fill(&w, 30000);
	switched = walmake_switch(&w, 0) + 24;
	walmake_fill(&w, WALMAKE_SEGMENT + 10000);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		commits = 0;
		all &= stream(&w, conf, none, *how, &got, &marks, &err) == 0 && commits == 1;
		if (!all)
			break;
		buffer_free(&got);
		buffer_free(&marks);
	}
	ok(all, "records are followed, in every split");
	unread = (switched - START + WAL_PAGE_LEN - 1) / WAL_PAGE_LEN * WAL_PAGE_LEN;
	memset(w.data + unread, 'x', WALMAKE_SEGMENT - unread);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		all &= stream(&w, conf, none, *how, &got, &marks, &err) == 0;
		if (!all)
			break;
		for (size_t i = unread; i < WALMAKE_SEGMENT; i++)
			all &= buffer_data(&got)[i] == 0;
		buffer_free(&got);
		buffer_free(&marks);
	}
	ok(all, "what power lost after a switch left behind goes out as zeros, in every split");
	w.data[at - START + 30] ^= 1;
	for (int how = 0; how < 14; how += 13) {
		char want[100], lsn[LSN_TEXT_LEN];

		lsn_format(lsn, at);
		snprintf(want, sizeof(want), "damaged: WAL record at %s has an incorrect checksum", lsn);
		is_int(stream(&w, conf, none, how, &got, &marks, &err), -1, "refused: a damaged record");
		is_err(&err, ERR_DAMAGED, want, "... saying which");
	}
	w.data[at - START + 30] ^= 1;
	memset(w.data + (at - START), 0, 4);
	is_int(stream(&w, conf, none, 0, &got, &marks, &err), -1, "refused: an end of WAL with more behind");
	is_err(&err, ERR_DAMAGED, "but more comes", "... saying so");
	walmake_free(&w);
}

/* A stream of an encrypted upstream: sealed as a proxy would, but for some granules that are raw zeros as a server
 * stores them. */
static void
seal(struct walmake *w, struct keyset *ks)
{
	struct err err;
	struct wal_cipher *cipher = wal_cipher_new(ks, &err);

	for (size_t at = 0; at < w->len; at += WAL_PAGE_LEN)
		wal_page_encrypt(cipher, GENERATION + (at > 5 * WAL_PAGE_LEN), at / WAL_PAGE_LEN % 3 == 1, w->data + at,
		                 w->data + at, &err);
	wal_cipher_free(cipher);
}

/* One sealed stream for one reader, in every split: opens to what it was, keeps generations, positions of raw zeros and
 * message ends. */
static void
rekeyed(const struct walmake *sealed, const uint8_t *text, struct keyset *from, struct keyset *to, const char *what)
{
	static const size_t ends[] = {48, 8192, 20000, 65536, 90008, 0};
	static const uint8_t zero[8];
	struct walstream_conf conf = conf_from(START);
	struct buffer got, marks;
	struct err err;
	struct wal_cipher *cipher = to == NULL ? NULL : wal_cipher_new(to, &err);
	bool right = true, kept = true, marked = true;
	uint8_t opened[WAL_PAGE_LEN];

	conf.upstream = from;
	conf.downstream = to;
	conf.scan = true;
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		if (stream(sealed, conf, ends, *how, &got, &marks, &err) != 0) {
			ok(false, "%s, split %d: %s", what, *how, err.text);
			break;
		}
		for (size_t at = 0; at < sealed->len; at += WAL_PAGE_LEN) {
			const uint8_t *in = sealed->data + at, *out = buffer_data(&got) + at;
			struct wal_header h, k;

			wal_page_look(in, WAL_PAGE_LEN, &h);
			wal_page_look(out, WAL_PAGE_LEN, &k);
			kept &= k.encrypted == (to != NULL) && k.generation == (to != NULL ? h.generation : 0);
			if (to != NULL)
				right &= wal_page_decrypt(cipher, out, opened, &err) == 0;
			else
				memcpy(opened, out, WAL_PAGE_LEN);
			right &= memcmp(opened, text + at, WAL_PAGE_LEN) == 0;
			for (size_t g = h.len; to != NULL && g < WAL_PAGE_LEN; g += 8)
				kept &= (memcmp(in + g, zero, 8) == 0) == (memcmp(out + g, zero, 8) == 0);
		}
		if (from == to)
			right &= memcmp(buffer_data(&got), sealed->data, sealed->len) == 0;
		buffer_put_u8(&marks, 0);
		marked &= strcmp((char *)buffer_data(&marks),
		                 "W 0/500030 0\nW 0/502000 0\nW 0/504E20 0\nW 0/510000 0\nW 0/515F98 0\n") == 0;
		buffer_free(&got);
		buffer_free(&marks);
	}
	ok(right, "%s: says the same, in every split", what);
	ok(kept, "%s: generations kept, raw zeros stay raw zeros and nothing else becomes one (W3)", what);
	ok(marked, "%s: messages end where the upstream's ended", what);
	wal_cipher_free(cipher);
}

static void
sealed_upstream(void)
{
	static const size_t none[] = {0}, in_granule[] = {8192 + 51, 8192 + 64, 0};
	struct walstream_conf conf = conf_from(START);
	struct buffer got, marks;
	struct walmake w;
	struct err err;
	uint8_t *text;

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 20 * 8192);
	w.len -= w.len % WAL_PAGE_LEN;
	text = malloc(w.len);
	memcpy(text, w.data, w.len);
	seal(&w, keys);
	rekeyed(&w, text, keys, keys, "the same keys");
	rekeyed(&w, text, keys, others, "another WAL key");
	rekeyed(&w, text, keys, NULL, "a clear reader");

	/* a request that starts inside a page, its header, a granule */
	conf.upstream = keys;
	conf.downstream = others;
	if (is_int(stream(&w, conf, none, 0, &got, &marks, &err), 0, "from the beginning")) {
		bool equal = true;

		for (size_t from = 0; from < w.len; from += from < 100 || from % 8192 < 50 ? 1 : 4093) {
			struct buffer tail, tail_marks;
			struct walstream_conf later = conf;

			later.from = START + from;
			if (stream(&w, later, none, from % 3 == 0 ? -3 : 0, &tail, &tail_marks, &err) != 0) {
				equal = ok(false, "from %zu: %s", from, err.text);
				continue;
			}
			equal &= buffer_len(&tail) == w.len - from &&
			         memcmp(buffer_data(&tail), buffer_data(&got) + from, w.len - from) == 0;
			buffer_free(&tail);
			buffer_free(&tail_marks);
		}
		ok(equal, "... and from any position on: the same bytes without those before");
		buffer_free(&got);
		buffer_free(&marks);
	}

	/* whether a granule is raw zero only its last byte tells */
	if (is_int(stream(&w, conf, in_granule, 0, &got, &marks, &err), 0, "messages that part inside a granule")) {
		buffer_put_u8(&marks, 0);
		is_str((char *)buffer_data(&marks), "W 0/502030 0\nW 0/502040 0\n", "... part before it");
		buffer_free(&got);
		buffer_free(&marks);
	}

	conf.upstream = NULL;
	is_int(stream(&w, conf, none, 0, &got, &marks, &err), -1, "refused: encrypted WAL of a clear upstream");
	is_err(&err, ERR_REFUSED, "0/500000 of timeline 1 from the upstream is encrypted", "... by name");
	conf.upstream = others;
	conf.downstream = keys;
	conf.scan = true;
	for (int how = 0; how < 14; how += 13) {
		is_int(stream(&w, conf, none, how, &got, &marks, &err), -1, "refused: WAL under another key than the keyset's");
		is_err(&err, ERR_WRONG_KEY, "does not open with its keyset's WAL key of epoch 1", "... by name");
		ok(strstr(err.detail, "WAL record at 0/5000") != NULL, "... and place: %s", err.detail);
	}
	conf.upstream = keys;
	w.data[8192 * 3 + 3] = 0x87; /* epoch 7 */
	is_int(stream(&w, conf, none, 0, &got, &marks, &err), -1, "refused: an epoch that the upstream's keyset lacks");
	is_err(&err, ERR_WRONG_KEY, "no WAL key of epoch 7", "... by name");
	w.data[8192 * 3 + 3] = 0x81;
	w.data[8192 * 4 + 1000] ^= 1;
	is_int(stream(&w, conf, none, -1, &got, &marks, &err), -1, "refused: a changed bit");
	is_err(&err, ERR_DAMAGED, "the upstream's stream is damaged: WAL record at 0/50", "... by its record's place");
	memcpy(w.data, text, w.len);
	is_int(stream(&w, conf, none, 0, &got, &marks, &err), -1, "refused: clear WAL of an encrypted upstream");
	is_err(&err, ERR_REFUSED, "0/500000 of timeline 1 from the upstream is not encrypted", "... by name");
	free(text);
	walmake_free(&w);
}

/* Clear WAL of an encrypted upstream: every zero granule leaves as raw zeros, in every split, and nothing else does. */
static void
clear_walsender(void)
{
	static const size_t ends[] = {48, 8192, 20000, 65536, 90008, 0}, in_granule[] = {8192 + 51, 8192 + 64, 0},
	                    none[] = {0};
	static const uint8_t zero[8];
	struct walstream_conf conf = conf_from(START);
	bool right = true, kept = true, marked = true;
	struct buffer got, marks;
	uint8_t opened[WAL_PAGE_LEN];
	struct wal_cipher *cipher;
	size_t zeros = 0;
	struct walmake w;
	struct err err;

	cipher = wal_cipher_new(keys, &err);
	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 20 * 8192);
	w.len -= w.len % WAL_PAGE_LEN;
	conf.keep_zeros = conf.scan = true;
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		aside = !aside;
		if (stream(&w, conf, ends, *how, &got, &marks, &err) != 0) {
			ok(false, "keep_zeros, split %d: %s", *how, err.text);
			break;
		}
		for (size_t at = 0; at < w.len; at += WAL_PAGE_LEN) {
			const uint8_t *in = w.data + at, *out = buffer_data(&got) + at;
			struct wal_header h;

			wal_page_look(out, WAL_PAGE_LEN, &h);
			right &= h.encrypted && h.generation == GENERATION && wal_page_decrypt(cipher, out, opened, &err) == 0 &&
			         memcmp(opened, in, WAL_PAGE_LEN) == 0;
			for (size_t g = h.len; g < WAL_PAGE_LEN; g += 8) {
				kept &= (memcmp(in + g, zero, 8) == 0) == (memcmp(out + g, zero, 8) == 0);
				zeros += memcmp(in + g, zero, 8) == 0;
			}
		}
		buffer_put_u8(&marks, 0);
		marked &= strcmp((char *)buffer_data(&marks),
		                 "W 0/500030 0\nW 0/502000 0\nW 0/504E20 0\nW 0/510000 0\nW 0/515F98 0\n") == 0;
		buffer_free(&got);
		buffer_free(&marks);
	}
	aside = true;
	misplaced += stream(&w, conf, in_granule, 0, &got, &marks, &err) != 0 || buffer_len(&got) != w.len;
	buffer_free(&got);
	buffer_free(&marks);
	aside = false;
	is_int(misplaced, 0, "aside as well");
	ok(right, "clear WAL of an encrypted upstream: says the same, in every split");
	ok(kept && zeros > 0, "... zero granules are raw zeros (%zu), and nothing else becomes one (W3)", zeros);
	ok(marked, "... messages end where the upstream's ended");
	if (is_int(stream(&w, conf, in_granule, 0, &got, &marks, &err), 0, "messages that part inside a granule")) {
		buffer_put_u8(&marks, 0);
		is_str((char *)buffer_data(&marks), "W 0/502030 0\nW 0/502040 0\n", "... part before it");
		buffer_free(&got);
		buffer_free(&marks);
	}
	seal(&w, keys);
	is_int(stream(&w, conf, none, 0, &got, &marks, &err), -1, "refused: ciphertext");
	is_err(&err, ERR_REFUSED, "0/500000 of timeline 1 from the upstream is encrypted", "... by name");
	wal_cipher_free(cipher);
	walmake_free(&w);
}

/* The page that holds a timeline switch keeps the old timeline in its header, and comes again under the new one (P3).
 */
static void
timelines(void)
{
	static const size_t ends[] = {0};
	struct walstream_conf conf = conf_from(START);
	struct buffer got, marks;
	struct wal_header h;
	struct walmake w;
	struct err err;

	walmake_init(&w, START, 1 << 20);
	w.tli = 2;
	walmake_fill(&w, 3 * 8192);
	w.tli = 5;
	walmake_fill(&w, 5 * 8192);
	w.len -= w.len % WAL_PAGE_LEN;
	conf.tli = 5;
	if (!ok(stream(&w, conf, ends, -1, &got, &marks, &err) == 0, "two timelines in one stream"))
		return;
	decrypts(&w, &got, "two timelines");
	wal_page_look(buffer_data(&got), WAL_PAGE_LEN, &h);
	is_int(h.epoch7, keyset_wal_write(keys, 2)->number, "the old timeline's pages under its epoch");
	is_int(h.tli, 2, "with their timeline");
	wal_page_look(buffer_data(&got) + 4 * 8192, WAL_PAGE_LEN, &h);
	is_int(h.epoch7, keyset_wal_write(keys, 5)->number, "the new one's under the new epoch");
	ok(keyset_wal_write(keys, 5) != keyset_wal_write(keys, 2), "which is another");
	buffer_free(&got);
	buffer_free(&marks);
	walmake_free(&w);
}

static void
refusals(void)
{
	static const size_t none[] = {0}, in_header[] = {8192 + 20, 0}, at_header[] = {8192 + 4, 0};
	static const struct {
		size_t at; /* the byte that is changed */
		uint8_t value;
		enum err_class class;
		const char *part;
	} rows[] = {
	    {0, 0x0D, ERR_DAMAGED, "0/500000 of timeline 1 from the upstream has no page header"},
	    {1, 0, ERR_DAMAGED, "no page header"},
	    {8192, 0x13, ERR_DAMAGED, "0/502000 of timeline 1 from the upstream has no page header"},
	    {3, 0x80, ERR_REFUSED, "is encrypted"},
	    {8192 + 3, 0x81, ERR_REFUSED, "is encrypted"},
	    {8192 + 2, 0x11, ERR_DAMAGED, "invalid info bits"},
	    {8192 + 2, 0x02, ERR_DAMAGED, "invalid info bits"},
	    {2, 0x00, ERR_DAMAGED, "invalid info bits"},
	    {8192 + 4, 0, ERR_DAMAGED, "another timeline"},
	    {8192 + 4, 2, ERR_DAMAGED, "another timeline"},
	    {8192 + 9, 0, ERR_DAMAGED, "another position"},
	    {8192 + 21, 1, ERR_DAMAGED, "padding"},
	    {24, 0, ERR_DAMAGED, "another cluster"},
	    {34, 0, ERR_DAMAGED, "another segment or page size"},
	    {37, 0x40, ERR_DAMAGED, "another segment or page size"},
	};
	struct buffer got, marks;
	struct walmake w;
	struct err err;

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 30000);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t was = w.data[rows[i].at];

		w.data[rows[i].at] = rows[i].value;
		for (int how = 0; how < 2; how++) {
			is_int(stream(&w, conf_from(START), none, how, &got, &marks, &err), -1, "refused: byte %zu", rows[i].at);
			is_err(&err, rows[i].class, rows[i].part, "... %s", rows[i].part);
		}
		w.data[rows[i].at] = was;
	}
	memset(w.data + 8192, 0, 8192);
	w.data[8192 + 8191] = 1;
	for (int how = 0; how < 2; how++) {
		is_int(stream(&w, conf_from(START), none, how, &got, &marks, &err), -1,
		       "refused: zeros in place of a page header");
		is_err(&err, ERR_DAMAGED, "0/502000 of timeline 1 from the upstream has no page header", "... saying where");
	}
	memset(w.data, 0, 8192);
	is_int(stream(&w, conf_from(START), none, 0, &got, &marks, &err), -1, "refused: a segment that begins with zeros");
	walmake_free(&w);

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 30000);
	w.len -= w.len % 8;
	is_int(stream(&w, conf_from(START), in_header, 0, &got, &marks, &err), -1,
	       "refused: a message that ends inside a page header's granule");
	is_err(&err, ERR_DAMAGED, "part inside its header", "... saying so");
	is_int(stream(&w, conf_from(START), at_header, 0, &got, &marks, &err), -1, "... or inside its first");
	w.len -= 3;
	is_int(stream(&w, conf_from(START), none, 0, &got, &marks, &err), -1, "refused: an end inside a granule");
	w.start += 8;
	is_int(stream(&w, conf_from(START), none, 0, &got, &marks, &err), -1, "refused: a gap");
	is_err(&err, ERR_DAMAGED, "continues at 0/500008 instead of 0/500000", "... saying where");
	walmake_free(&w);
	for (uint32_t size = 0; size < 3; size++) {
		struct walstream_conf conf = conf_from(START);

		conf.segment_size = size == 0 ? 0 : size == 1 ? 3 << 20 : 8192;
		ok(walstream_new(&conf, NULL, &err) == NULL, "refused: segments of %u bytes", (unsigned)conf.segment_size);
	}
	is_int(walstream_magic(15), 0xD110, "magic of 15");
	is_int(walstream_major(0xD118), 18, "and back");
	is_int(walstream_magic(14), 0, "14 is not known");
}

/* Real WAL of PostgreSQL 15: the first 64 KiB of a segment. */
static void
real(void)
{
	static const size_t ends[] = {8, 0};
	struct walstream_conf conf = conf_from(UINT64_C(0x800000));
	struct buffer got, marks;
	struct walmake w;
	struct err err;
	FILE *f = fopen("tests/vectors/wal15-segment.bin", "r");

	walmake_init(&w, UINT64_C(0x800000), 65536);
	if (!ok(f != NULL && (w.len = fread(w.data, 1, w.size, f)) == w.size, "tests/vectors/wal15-segment.bin"))
		return;
	fclose(f);
	memcpy(&conf.system_identifier, w.data + 24, 8);
	if (ok(stream(&w, conf, ends, -5, &got, &marks, &err) == 0, "real WAL streams"))
		decrypts(&w, &got, "real WAL");
	buffer_free(&got);
	buffer_free(&marks);
	walmake_free(&w);
}

static int
starve(void *arg)
{
	static const size_t ends[] = {1000, 8192, 0};
	struct walstream_conf conf = conf_from(START);
	const struct walmake *w = arg;
	struct buffer got, marks;
	struct err err;

	conf.scan = true;
	if (stream(w, conf, ends, -2, &got, &marks, &err) != 0)
		return err.text[0] != '\0' ? -1 : 1;
	buffer_free(&got);
	buffer_free(&marks);
	return 0;
}

static int
starve_sealed(void *arg)
{
	static const size_t ends[] = {1000, 8192, 0};
	struct walstream_conf conf = conf_from(START);
	struct buffer got, marks;
	struct err err;

	conf.scan = true;
	conf.upstream = keys;
	conf.downstream = others;
	if (stream(arg, conf, ends, -2, &got, &marks, &err) != 0)
		return err.text[0] != '\0' ? -1 : 1;
	buffer_free(&got);
	buffer_free(&marks);
	return 0;
}

int
main(void)
{
	struct walmake w;

	sample_secmem(1 << 18);
	keys = sample_keyset(KEY_AES256);
	others = sample_keyset_other(KEY_AES256);
	splits();
	holds_little(false);
	holds_little(true);
	after_switch();
	scanned();
	timelines();
	sealed_upstream();
	clear_walsender();
	refusals();
	real();
	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 10000);
	w.len -= w.len % 8;
	ok(failmalloc_each(starve, &w) > 5, "each allocation may fail");
	w.len -= w.len % WAL_PAGE_LEN;
	seal(&w, keys);
	ok(failmalloc_each(starve_sealed, &w) > 5, "each allocation may fail with an encrypted upstream");
	walmake_free(&w);
	keyset_free(keys);
	keyset_free(others);
	return tap_done();
}
