/* The base backup's members: what is encrypted decrypts to what came, what is ours is put in, what must not pass does
 * not. */
#include "replication/backupstage.h"

#include <stdlib.h>

#include "replication/tar.h"
#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/walmake.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

#define GUARD "# guard\nshared_preload_libraries = 'x'\n"

static struct keyset *keys, *others;
static struct keyset *upstream, *downstream; /* what the next run is between; NULL: clear */
static const struct backupstage_file keyfiles[] = {{"keyset.json", (const uint8_t *)"{}", 2},
                                                   {"relation.wkey", (const uint8_t *)"wrapped", 7}};
static const struct backup_archive main_archive = {.name = "base.tar"},
                                   space_archive = {.name = "16384.tar", .path = "/ts"};

struct member {
	const char *name;
	const uint8_t *data;
	size_t len;
};

struct run {
	struct stage *s;
	struct collect sink;
	struct spool *spool;
	struct spool_memory *memory;
	struct tar_member member;
	size_t offset;
	uint8_t aside[2 * PAGE_LEN];
	unsigned asked;
};

static char shown[100], faults[300];

static int
on_keyset(void *arg, const uint8_t *text, size_t len, struct err *err)
{
	(void)arg;
	snprintf(shown, sizeof(shown), "%.*s", text != NULL ? (int)len : 4, text != NULL ? (const char *)text : "none");
	return strcmp(shown, "foreign") == 0 ? err_set(err, ERR_WRONG_KEY, "a foreign keyset") : 0;
}

/* Every other time there is a place, if there is one at all for so much. */
static uint8_t *
room(void *arg, size_t len)
{
	struct run *run = arg;

	return run->asked++ % 2 == 1 || len > sizeof(run->aside) ? NULL : run->aside;
}

static void
on_fault(void *arg, const char *path, uint32_t block, uint16_t stored, uint16_t calculated)
{
	size_t used = strlen(faults);

	(void)arg;
	snprintf(faults + used, sizeof(faults) - used, "%s %u%s\n", path, (unsigned)block,
	         stored == calculated ? " same?" : "");
}

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct run *run = arg;
	struct chunk c = {.kind = CHUNK_DATA, .pos = pos, .member = &run->member, .data = piece, .len = len};

	return stage_push(run->s, &c, err);
}

static int
push_mark(struct run *run, enum chunk_kind kind, const struct backup_archive *archive, struct err *err)
{
	struct chunk c = {.kind = kind, .archive = archive, .member = &run->member};

	return stage_push(run->s, &c, err);
}

static int
put(struct run *run, const struct member *m, int how, struct err *err)
{
	memset(&run->member, 0, sizeof(run->member));
	run->member.type = m->name[strlen(m->name) - 1] == '/' ? TAR_DIRECTORY : TAR_FILE;
	run->member.size = m->len;
	run->member.uid = 70;
	run->member.mtime = 1000;
	snprintf(run->member.user, sizeof(run->member.user), "postgres");
	snprintf(run->member.name, sizeof(run->member.name), "%s", m->name);
	return push_mark(run, CHUNK_MEMBER, NULL, err) < 0 || split_feed(m->data, m->len, how, feed, run, err) < 0 ||
	               push_mark(run, CHUNK_MEMBER_END, NULL, err) < 0
	           ? -1
	           : 0;
}

static int
begin(struct run *run, enum digest_kind checksums, struct err *err)
{
	struct backupstage_conf conf = {.upstream = upstream,
	                                .downstream = downstream,
	                                .keyfiles = keyfiles,
	                                .nkeyfiles = 2,
	                                .relation_id = "0123456789abcdef",
	                                .guard = downstream != NULL ? GUARD : "",
	                                .verify = true,
	                                .checksums = checksums,
	                                .mtime = 2000,
	                                .hooks = {run, room, on_keyset, on_fault}};
	struct spool_io io;

	memset(run, 0, sizeof(*run));
	memset(err, 0, sizeof(*err));
	collect_init(&run->sink, NULL);
	if ((run->memory = spool_memory_new(1 << 20, &io, err)) == NULL || (run->spool = spool_new(&io, err)) == NULL)
		return -1;
	conf.spool = run->spool;
	if ((run->s = backupstage_new(&conf, &run->sink.base, err)) != NULL)
		return 0;
	return -1;
}

static void
end(struct run *run)
{
	stage_free(run->s != NULL ? run->s : &run->sink.base);
	spool_free(run->spool);
	spool_memory_free(run->memory);
}

/* One member in an archive of its own. */
static int
single(struct run *run, const struct backup_archive *archive, const struct member *m, int how,
       enum digest_kind checksums, struct err *err)
{
	return begin(run, checksums, err) != 0 || push_mark(run, CHUNK_ARCHIVE, archive, err) < 0 ||
	               put(run, m, how, err) < 0
	           ? -1
	           : 0;
}

static void
fill(uint8_t *data, size_t len, uint64_t seed)
{
	sample_noise(seed, data, len);
	if (len >= 3 * PAGE_LEN)
		memset(data + PAGE_LEN, 0, PAGE_LEN);
}

static void
relation(const char *name, bool in_space, size_t len, struct page_at at)
{
	uint8_t *data = malloc(len + 1), *clear = malloc(len + 1);
	const struct member m = {name, data, len};
	size_t whole = len / PAGE_LEN * PAGE_LEN;
	struct err err;
	struct page_cipher *cipher = page_cipher_new(keyset_relation(keys), &err);
	bool same = true, right = true;
	struct spool_entry e;
	struct run run;
	char path[100];

	fill(data, len, 11);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		uint8_t sum[DIGEST_MAX_LEN];
		struct digest *d = digest_new(DIGEST_SHA256, &err);

		same &= single(&run, in_space ? &space_archive : &main_archive, &m, *how, DIGEST_SHA256, &err) == 0 &&
		        buffer_len(&run.sink.bytes) == len;
		if (same && len > 0) {
			page_decrypt_many(cipher, &at, buffer_data(&run.sink.bytes), clear, (uint32_t)(whole / PAGE_LEN), &err);
			same &= memcmp(clear, data, whole) == 0;
			for (size_t i = whole; i < len; i++)
				same &= buffer_data(&run.sink.bytes)[i] == 0;
			right &= whole == 0 || memcmp(buffer_data(&run.sink.bytes), data, PAGE_LEN) != 0;
		}
		digest_update(d, buffer_data(&run.sink.bytes), buffer_len(&run.sink.bytes), &err);
		digest_final(d, sum, &err);
		digest_free(d);
		snprintf(path, sizeof(path), "%s%s", in_space ? "pg_tblspc/16384/" : "", name);
		right &= spool_next(run.spool, &e, &err) == 1 && e.kind == SPOOL_CHANGED && e.size == len &&
		         e.checksum_len == 32 && memcmp(e.checksum, sum, 32) == 0 && strcmp(e.path, path) == 0 &&
		         spool_next(run.spool, &e, &err) == 0;
		right &= backupstage_counted(run.s)->relation_bytes == len;
		end(&run);
	}
	ok(same, "%s%s of %zu bytes: decrypts to what came, in every split", in_space ? "tablespace " : "", name, len);
	ok(right, "... is noted for the manifest with its new checksum");
	page_cipher_free(cipher);
	free(data);
	free(clear);
}

static void
relations(void)
{
	relation("base/1/1259", false, 5 * PAGE_LEN, (struct page_at){.db = 1, .rel = 1259});
	relation("base/1/1259", false, 3 * PAGE_LEN + 100, (struct page_at){.db = 1, .rel = 1259});
	relation("base/1/1259", false, 100, (struct page_at){.db = 1, .rel = 1259});
	relation("base/1/1259", false, 0, (struct page_at){.db = 1, .rel = 1259});
	relation("base/16390/16400.2", false, 4 * PAGE_LEN,
	         (struct page_at){.db = 16390, .rel = 16400, .block = 2 * PAGE_BLOCKS_PER_SEGMENT});
	relation("./global/1262_fsm", false, 3 * PAGE_LEN, (struct page_at){.rel = 1262, .fork = PAGE_FORK_FSM});
	relation("base/5/7_init", false, PAGE_LEN, (struct page_at){.db = 5, .rel = 7, .fork = PAGE_FORK_INIT});
	relation("PG_15_202209061/5/16385_vm", true, 4 * PAGE_LEN,
	         (struct page_at){.db = 5, .rel = 16385, .fork = PAGE_FORK_VM});
}

/* A segment as PostgreSQL leaves it: WAL, then what the recycled file held before; then zeros. */
static void
make_segment(struct walmake *w)
{
	struct walmake old;

	walmake_init(w, 9 * UINT64_C(1048576), 2 << 20);
	walmake_fill(w, 100000);
	while (w->len % WAL_PAGE_LEN != 0)
		w->data[w->len++] = 0;
	walmake_init(&old, 3 * UINT64_C(1048576), 2 << 20);
	walmake_fill(&old, 400000);
	memcpy(w->data + w->len, old.data + w->len, 300000 / 8192 * 8192 - w->len);
	w->len = 300000 / 8192 * 8192;
	walmake_zeros(w, WALMAKE_SEGMENT);
	walmake_free(&old);
}

static void
wal(void)
{
	struct walmake w;
	uint8_t *clear = malloc(WALMAKE_SEGMENT);
	struct err err;
	struct wal_cipher *cipher = wal_cipher_new(keys, &err);
	const char *const names[] = {"pg_wal/000000010000000000000009", "elsewhere/000000020000000000000009"};
	uint32_t generation = 0;
	size_t valid;

	make_segment(&w);
	valid = (100000 + 8192) / 8192 * 8192;
	for (int i = 0; i < 2; i++) {
		const struct member m = {names[i], w.data, w.len};
		bool same = true, fresh = true, noted = true;

		for (const int *how = split_ways; *how != SPLIT_END; how++) {
			struct spool_entry e;
			struct wal_header h = {0};
			struct run run;

			same &=
			    single(&run, &main_archive, &m, *how, DIGEST_CRC32C, &err) == 0 && buffer_len(&run.sink.bytes) == w.len;
			for (size_t at = 0; same && at < w.len; at += WAL_PAGE_LEN) {
				const uint8_t *page = buffer_data(&run.sink.bytes) + at;

				same &= wal_page_decrypt(cipher, page, clear + at, &err) == 0;
				if (at < valid)
					same &= wal_page_look(page, WAL_PAGE_LEN, &h) == WAL_PAGE_ENCRYPTED &&
					        (h.generation & WAL_GENERATION_PROXY) != 0;
				else
					same &= page_is_zero(page);
			}
			same &= memcmp(clear, w.data, valid) == 0;
			fresh &= h.generation != generation;
			generation = h.generation;
			noted &= spool_next(run.spool, &e, &err) == (i == 1);
			end(&run);
		}
		ok(same, "%s: decrypts to what came, leftovers are zeros, in every split", names[i]);
		ok(fresh, "... under another generation in each backup");
		ok(noted, "... %s", i == 0 ? "is not in the manifest" : "is noted for the manifest");
	}
	wal_cipher_free(cipher);
	walmake_free(&w);
	free(clear);
}

/* W2: in the last valid page every zero granule is raw; in the others the trailing ones only. */
static void
zero_granules(void)
{
	struct walmake w;
	struct err err;
	struct run run;
	size_t last = 0, before = 0, trailing = 0;

	walmake_init(&w, 9 * UINT64_C(1048576), 2 << 20);
	uint8_t *zeros = calloc(1, 6000);
	walmake_record(&w, 10, 0, zeros, 6000);
	walmake_record(&w, 10, 0, zeros, 6000);
	free(zeros);
	while (w.len < WALMAKE_SEGMENT)
		w.data[w.len++] = 0;
	if (ok(single(&run, &main_archive, &(struct member){"pg_wal/000000010000000000000009", w.data, w.len}, 0,
	              DIGEST_NONE, &err) == 0,
	       "WAL full of zeros")) {
		static const uint8_t raw[8];

		for (size_t at = 40; at < 16384; at += 8)
			if (memcmp(buffer_data(&run.sink.bytes) + at, raw, 8) == 0)
				++*(at < 6000 ? &before : at < 8192 ? &trailing : &last);
		is_int(before, 0, "no raw zeros inside a page that is followed by another");
		ok(trailing > 200, "but at its end (%zu)", trailing);
		ok(last > 400, "all of them in the last page (%zu)", last);
	}
	end(&run);
	walmake_free(&w);
}

static void
whole(void)
{
	static const struct member members[] = {{"backup_label", (const uint8_t *)"START", 5},
	                                        {"pg_cryptokeys/", NULL, 0},
	                                        {"pg_cryptokeys/live/", NULL, 0},
	                                        {"pg_cryptokeys/live/wal.wkey", (const uint8_t *)"theirs", 6},
	                                        {"base/pgsql_tmp/pgsql_tmp12.0", (const uint8_t *)"clear", 5},
	                                        {"postgresql.auto.conf", (const uint8_t *)"a = 1", 5},
	                                        {"PG_VERSION", (const uint8_t *)"15\n", 3},
	                                        {"pg_wal/", NULL, 0},
	                                        {"./pg_wal/archive_status/", NULL, 0},
	                                        {"pg_wal/00000002.history", (const uint8_t *)"1\t0/1\n", 6},
	                                        {"pg_wal/xlogtemp.12", (const uint8_t *)"clear", 5},
	                                        {"global/pg_control", (const uint8_t *)"control", 7}};
	static const char want_marks[] =
	    "A base.tar 0\nM backup_label 5\nm  0\nM postgresql.auto.conf 45\nm  0\nM PG_VERSION 3\nm  0\nD pg_wal/ 0\nm  "
	    "0\n"
	    "D ./pg_wal/archive_status/ 0\nm  0\nM pg_wal/00000002.history 6\nm  0\n"
	    "D pg_cryptokeys/ 0\nm  0\nD pg_cryptokeys/live/ 0\nm  0\nM pg_cryptokeys/live/keyset.json 2\nm  0\n"
	    "M pg_cryptokeys/live/relation.wkey 7\nm  0\nM pg_cryptokeys/relation_id.0123456789abcdef 0\nm  0\nM "
	    "global/pg_control 7\nm  0\na  0\n";
	static const char want[] = "STARTa = 1\n" GUARD "15\n1\t0/1\n{}wrappedcontrol";
	static const struct {
		enum spool_kind kind;
		const char *path;
	} noted[] = {{SPOOL_DROPPED, "pg_cryptokeys/live/wal.wkey"},
	             {SPOOL_DROPPED, "base/pgsql_tmp/pgsql_tmp12.0"},
	             {SPOOL_CHANGED, "postgresql.auto.conf"},
	             {SPOOL_INSERTED, "pg_cryptokeys/live/keyset.json"},
	             {SPOOL_INSERTED, "pg_cryptokeys/live/relation.wkey"},
	             {SPOOL_INSERTED, "pg_cryptokeys/relation_id.0123456789abcdef"}};
	struct spool_entry e;
	struct run run;
	struct err err;
	int rc;

	rc = begin(&run, DIGEST_CRC32C, &err);
	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err);
	for (size_t i = 0; rc == 0 && i < sizeof(members) / sizeof(members[0]); i++)
		rc = put(&run, &members[i], 1, &err);
	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE_END, &main_archive, &err);
	if (rc == 0)
		rc = stage_finish(run.s, &err);
	if (!is_int(rc, 0, "a whole archive"))
		printf("# %s\n", err.text);
	buffer_put_u8(&run.sink.marks, 0);
	buffer_put_u8(&run.sink.bytes, 0);
	is_str((char *)buffer_data(&run.sink.marks), want_marks, "what passes, goes and comes");
	is_str((char *)buffer_data(&run.sink.bytes), want, "contents");
	for (size_t i = 0; i < sizeof(noted) / sizeof(noted[0]); i++)
		ok(spool_next(run.spool, &e, &err) == 1 && e.kind == noted[i].kind && strcmp(e.path, noted[i].path) == 0,
		   "noted: %s", noted[i].path);
	is_int(spool_next(run.spool, &e, &err), 0, "and no more");
	end(&run);

	/* without postgresql.auto.conf and pg_control */
	rc = begin(&run, DIGEST_NONE, &err);
	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err) | put(&run, &members[0], 0, &err);
	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE_END, &main_archive, &err) | stage_finish(run.s, &err);
	is_int(rc, 0, "an archive without postgresql.auto.conf");
	buffer_put_u8(&run.sink.bytes, 0);
	is_str((char *)buffer_data(&run.sink.bytes), "START{}wrapped" GUARD, "one is made at its end");
	is_int(push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err), -1, "a second main archive is refused");
	end(&run);
	is_int(begin(&run, DIGEST_NONE, &err) | stage_finish(run.s, &err), -1,
	       "a backup without a main archive is refused");
	end(&run);
}

static void
refusals(void)
{
	struct walmake w;
	struct run run;
	struct err err;

	walmake_init(&w, 9 * UINT64_C(1048576), 2 << 20);
	walmake_fill(&w, 20000);
	walmake_zeros(&w, WALMAKE_SEGMENT);
	wal_header_seal(w.data + 8192, 1, 5);
	is_int(single(&run, &main_archive, &(struct member){"pg_wal/000000010000000000000009", w.data, w.len}, 0,
	              DIGEST_NONE, &err),
	       -1, "refused: WAL that is encrypted");
	is_err(&err, ERR_REFUSED, "page at 0/902000 in the base backup is encrypted", "... by name");
	end(&run);
	is_int(single(&run, &main_archive, &(struct member){"pg_wal/000000010000000000000009", w.data, 8192}, 0,
	              DIGEST_NONE, &err),
	       -1, "refused: WAL of an odd size");
	end(&run);
	is_int(single(&run, &main_archive, &(struct member){"elsewhere/000000010000000000000009", w.data, 8192}, 0,
	              DIGEST_NONE, &err),
	       0, "elsewhere such a file is none of ours");
	is_mem(buffer_data(&run.sink.bytes), w.data, 8192, "and passes");
	end(&run);
	is_int(single(&run, &main_archive, &(struct member){"base/1/INCREMENTAL.1259", w.data, 8192}, 0, DIGEST_NONE, &err),
	       -1, "refused: an incremental file that is none");
	is_err(&err, ERR_DAMAGED, "incremental file in the base backup has another magic number", "... by name");
	end(&run);
	begin(&run, DIGEST_NONE, &err);
	push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err);
	snprintf(run.member.name, sizeof(run.member.name), "base/1/1259");
	run.member.type = TAR_FILE;
	run.member.size = (UINT64_C(1) << 30) + 8192;
	is_int(push_mark(&run, CHUNK_MEMBER, NULL, &err), -1, "refused: a relation segment of more than 1 GiB");
	is_err(&err, ERR_REFUSED, "larger than 1 GiB", "... by name");
	end(&run);
	begin(&run, DIGEST_NONE, &err);
	is_int(push_mark(&run, CHUNK_ARCHIVE, &(struct backup_archive){.name = "x.tar", .path = "/ts"}, &err), -1,
	       "refused: a tablespace's archive under another name");
	end(&run);
	walmake_free(&w);
}

/* A page as a server writes it. */
static void
make_page(uint8_t *page, uint32_t block, uint64_t lsn, uint64_t seed)
{
	uint16_t words[4] = {100, 4000, PAGE_LEN, PAGE_LEN | 4}, sum;
	uint32_t halves[2] = {(uint32_t)(lsn >> 32), (uint32_t)lsn};

	sample_noise(seed, page, PAGE_LEN);
	memcpy(page, halves, 8);
	memset(page + 8, 0, 4);
	memcpy(page + 12, words, 8);
	sum = page_checksum(page, block);
	memcpy(page + 8, &sum, 2);
}

#define START_LSN UINT64_C(0x2000000)

/* Six pages of base/1/1259.1: fine, new, zero, written during the backup, damaged, fine. */
static void
make_relation(uint8_t *text, uint8_t *sealed, const struct page_at *at)
{
	struct err err;
	struct page_cipher *c = page_cipher_new(keyset_relation(keys), &err);

	for (uint32_t i = 0; i < 6; i++)
		make_page(text + i * PAGE_LEN, at->block + i, i == 3 ? START_LSN : START_LSN - 8, i);
	memset(text + PAGE_LEN + 14, 0, 2);
	memset(text + 2 * PAGE_LEN, 0, PAGE_LEN);
	text[3 * PAGE_LEN + 5000] ^= 1;
	text[4 * PAGE_LEN + 5000] ^= 1;
	page_encrypt_many(c, at, text, sealed, 6, &err);
	page_cipher_free(c);
}

static void
rekeyed_relation(struct keyset *to, const char *what)
{
	const struct page_at at = {.db = 1, .rel = 1259, .block = PAGE_BLOCKS_PER_SEGMENT};
	uint8_t *text = malloc(6 * PAGE_LEN), *sealed = malloc(6 * PAGE_LEN), *got = malloc(6 * PAGE_LEN);
	const struct member m = {"base/1/1259.1", sealed, 6 * PAGE_LEN};
	struct err err;
	struct page_cipher *c = to != NULL ? page_cipher_new(keyset_relation(to), &err) : NULL;
	bool right = true, told = true;

	upstream = keys;
	downstream = to;
	make_relation(text, sealed, &at);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		struct run run;

		faults[0] = '\0';
		right &= begin(&run, DIGEST_CRC32C, &err) == 0;
		backupstage_start(run.s, START_LSN);
		right &= push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err) == 0 && put(&run, &m, *how, &err) == 0 &&
		         buffer_len(&run.sink.bytes) == m.len;
		if (!right)
			break;
		memcpy(got, buffer_data(&run.sink.bytes), m.len);
		right &= to != keys || memcmp(got, sealed, m.len) == 0;
		if (c != NULL)
			right &= memcmp(got, text, PAGE_LEN) != 0 && page_decrypt_many(c, &at, got, got, 6, &err) == 0;
		right &= memcmp(got, text, m.len) == 0;
		told &= strcmp(faults, "base/1/1259.1 4\n") == 0;
		end(&run);
	}
	ok(right, "relation pages for %s, in every split", what);
	ok(told, "... the damaged one is named, not new ones and those written since the start");
	page_cipher_free(c);
	free(text);
	free(sealed);
	free(got);
}

static void
rekeyed_wal(struct keyset *to, const char *what)
{
	const struct member m0 = {"pg_wal/000000010000000000000009", NULL, 0};
	struct member m = m0;
	struct err err;
	struct wal_cipher *from = wal_cipher_new(keys, &err), *c = to != NULL ? wal_cipher_new(to, &err) : NULL;
	uint8_t *clear = malloc(WALMAKE_SEGMENT), *sealed = malloc(WALMAKE_SEGMENT);
	struct walmake w;
	struct run run;
	bool right = true, kept = true;

	upstream = keys;
	downstream = to;
	walmake_init(&w, 9 * UINT64_C(1048576), 2 << 20);
	walmake_fill(&w, 100000);
	w.len -= w.len % WAL_PAGE_LEN;
	walmake_zeros(&w, WALMAKE_SEGMENT);
	for (size_t at = 0; at < WALMAKE_SEGMENT; at += WAL_PAGE_LEN)
		wal_page_encrypt(from, 4711, false, w.data + at, sealed + at, &err);
	/* behind it what a recycled file held */
	memcpy(sealed + 200 * 1024, sealed, 65536);
	m.data = sealed;
	m.len = WALMAKE_SEGMENT;
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		if (single(&run, &main_archive, &m, *how, DIGEST_NONE, &err) != 0 || buffer_len(&run.sink.bytes) != m.len) {
			right = ok(false, "encrypted WAL files for %s, split %d: %s", what, *how, err.text);
			end(&run);
			break;
		}
		for (size_t at = 0; at < m.len; at += WAL_PAGE_LEN) {
			const uint8_t *page = buffer_data(&run.sink.bytes) + at;
			struct wal_header h;

			wal_page_look(page, WAL_PAGE_LEN, &h);
			kept &= h.magic == 0 || h.generation == (to == NULL ? 0u : 4711u);
			if (c != NULL)
				right &= wal_page_decrypt(c, page, clear + at, &err) == 0;
			else
				memcpy(clear + at, page, WAL_PAGE_LEN);
		}
		right &= memcmp(clear, w.data, WALMAKE_SEGMENT) == 0;
		end(&run);
	}
	ok(right, "encrypted WAL files for %s say the same, leftovers are zeros, in every split", what);
	ok(kept, "... generations are kept");
	walmake_free(&w);
	wal_cipher_free(from);
	wal_cipher_free(c);
	free(clear);
	free(sealed);
}

/* The first n of members in a main archive; a zero byte behind what came of them. */
static int
small_members(struct run *run, const struct member *members, size_t n, int how, struct err *err)
{
	int rc = begin(run, DIGEST_CRC32C, err) | push_mark(run, CHUNK_ARCHIVE, &main_archive, err);

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = put(run, &members[i], how, err);
	if (rc == 0)
		rc = push_mark(run, CHUNK_ARCHIVE_END, &main_archive, err) | stage_finish(run->s, err);
	buffer_put_u8(&run->sink.bytes, 0);
	return rc;
}

static void
encrypted_upstream(void)
{
	static const char conf[] = "a = 1\n" GUARD "# walcrypt: this\n"
	                           "  Shared_Preload_Libraries='x, /lib/libwalcrypt-storage.so'\nb = 2";
	static const struct member members[] = {{"postgresql.auto.conf", (const uint8_t *)conf, sizeof(conf) - 1},
	                                        {"pg_cryptokeys/live/keyset.json", (const uint8_t *)"theirs", 6},
	                                        {"global/pg_control", (const uint8_t *)"control", 7}};
	uint8_t garbage[10 * PAGE_LEN];
	struct run run;
	struct err err;
	bool clear = true, sealed = true;

	rekeyed_relation(keys, "the same key");
	rekeyed_relation(others, "another key");
	rekeyed_relation(NULL, "a clear reader");
	rekeyed_wal(keys, "the same keys");
	rekeyed_wal(others, "other keys");
	rekeyed_wal(NULL, "a clear reader");

	downstream = NULL;
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		clear &= small_members(&run, members, 3, *how, &err) == 0 &&
		         strcmp((char *)buffer_data(&run.sink.bytes), "a = 1\n" GUARD "b = 2control") == 0 &&
		         strcmp(shown, "theirs") == 0;
		end(&run);
	}
	ok(clear, "a clear reader gets neither keys nor the guard, and the rest of postgresql.auto.conf; the upstream's "
	          "keyset.json was shown; in every split");

	downstream = others;
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		sealed &= small_members(&run, members, 1, *how, &err) == 0 &&
		          strcmp((char *)buffer_data(&run.sink.bytes), "a = 1\n" GUARD "b = 2\n" GUARD "{}wrapped") == 0 &&
		          strcmp(shown, "none") == 0;
		end(&run);
	}
	ok(sealed,
	   "an encrypted reader gets its keys, and its guard in place of the other; that no keyset.json came was said; "
	   "in every split");
	is_int(single(&run, &main_archive,
	              &(struct member){"pg_cryptokeys/live/keyset.json", (const uint8_t *)"foreign", 7}, 0, DIGEST_NONE,
	              &err),
	       -1, "a keyset.json that the owner refuses ends the backup");
	is_err(&err, ERR_WRONG_KEY, "foreign", "... as it said");
	end(&run);

	sample_noise(5, garbage, sizeof(garbage));
	is_int(single(&run, &main_archive, &(struct member){"base/1/1259", garbage, sizeof(garbage)}, 0, DIGEST_NONE, &err),
	       -1, "pages under another key end the backup");
	is_err(&err, ERR_WRONG_KEY, "do not open with its keyset's relation key", "... by name");
	end(&run);
	upstream = NULL;
	downstream = keys;
}

static int
starve(void *arg)
{
	const struct walmake *w = arg;
	const struct member members[] = {{"base/1/1259", w->data, 3 * 8192},
	                                 {"postgresql.auto.conf", w->data, 10},
	                                 {"pg_wal/000000010000000000000009", w->data, w->len}};
	struct run run;
	struct err err;
	int rc = begin(&run, DIGEST_SHA512, &err);

	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE, &main_archive, &err);
	for (size_t i = 0; rc == 0 && i < sizeof(members) / sizeof(members[0]); i++)
		rc = put(&run, &members[i], 32768, &err);
	if (rc == 0)
		rc = push_mark(&run, CHUNK_ARCHIVE_END, &main_archive, &err);
	if (rc == 0)
		rc = stage_finish(run.s, &err);
	end(&run);
	return rc != 0 && err.text[0] == '\0' ? 1 : rc;
}

int
main(void)
{
	struct walmake w;

	sample_secmem(1 << 18);
	keys = downstream = sample_keyset(KEY_AES128);
	others = sample_keyset_other(KEY_AES128);
	relations();
	wal();
	zero_granules();
	whole();
	refusals();
	encrypted_upstream();
	walmake_init(&w, 9 * UINT64_C(1048576), 2 << 20);
	walmake_fill(&w, 30000);
	walmake_zeros(&w, WALMAKE_SEGMENT);
	ok(failmalloc_each(starve, &w) > 20, "each allocation may fail");
	upstream = others;
	ok(failmalloc_each(starve, &w) > 20, "each allocation may fail with an encrypted upstream");
	walmake_free(&w);
	keyset_free(keys);
	keyset_free(others);
	return tap_done();
}
