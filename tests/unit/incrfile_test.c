/* Incremental files: their blocks from one relation key to another, and what no server writes. And which relation key a
 * manifest tells. */
#include "replication/incrfile.h"

#include <stdlib.h>

#include "replication/manifest_key.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

#define HEADER_PAGES 2
#define NBLOCKS 3000

static struct keyset *keys, *others;

static void
put32(uint8_t *to, uint32_t v)
{
	memcpy(to, &v, 4);
}

/* 3000 blocks: the header takes two pages. Contents are noise, encrypted under keys. */
static uint8_t *
make_file(size_t *len, uint8_t **text)
{
	uint8_t *file = calloc(HEADER_PAGES + NBLOCKS, PAGE_LEN), *clear = calloc(NBLOCKS, PAGE_LEN);
	struct err err;
	struct page_cipher *c = page_cipher_new(keyset_relation(keys), &err);

	put32(file, 0xd3ae1f0du);
	put32(file + 4, NBLOCKS);
	put32(file + 8, 77);
	for (uint32_t i = 0; i < NBLOCKS; i++) {
		struct page_at at = {.db = 5, .rel = 16384, .block = PAGE_BLOCKS_PER_SEGMENT + 3 * i};

		put32(file + 12 + 4 * i, 3 * i);
		sample_noise(i, clear + (size_t)i * PAGE_LEN, PAGE_LEN);
		put32(clear + (size_t)i * PAGE_LEN + 12, 100 | 200 << 16);
		put32(clear + (size_t)i * PAGE_LEN + 16, PAGE_LEN | (PAGE_LEN | 4) << 16);
		page_encrypt(c, &at, clear + (size_t)i * PAGE_LEN, file + (size_t)(HEADER_PAGES + i) * PAGE_LEN, &err);
	}
	page_cipher_free(c);
	*len = (size_t)(HEADER_PAGES + NBLOCKS) * PAGE_LEN;
	*text = clear;
	return file;
}

static int
convert(uint8_t *file, size_t len, uint64_t size, struct keyset *to, size_t step, struct err *err)
{
	struct relrekey_conf conf = {.upstream = keyset_relation(keys),
	                             .downstream = to != NULL ? keyset_relation(to) : NULL};
	struct relrekey *r = relrekey_new(&conf, err);
	struct incrfile f = {0};
	struct pgfile pf;
	int rc = r == NULL ? -1 : 0;

	if (!incrfile_parse("base/5/INCREMENTAL.16384.1", false, &pf))
		rc = -1;
	incrfile_begin(&f, &pf, size);
	for (size_t at = 0, n; rc == 0 && at < len / PAGE_LEN; at += n) {
		n = len / PAGE_LEN - at < step ? len / PAGE_LEN - at : step;
		rc = incrfile_pages(&f, r, file + at * PAGE_LEN, n, err);
	}
	if (rc == 0)
		rc = incrfile_end(&f, file + len / PAGE_LEN * PAGE_LEN, len % PAGE_LEN, err);
	incrfile_free(&f);
	relrekey_free(r);
	return rc;
}

static void
blocks(void)
{
	size_t len;
	uint8_t *text, *file = make_file(&len, &text), *copy = malloc(len);
	struct err err;
	struct page_cipher *c = page_cipher_new(keyset_relation(others), &err);
	bool right = true;

	memcpy(copy, file, len);
	is_int(convert(copy, len, len, NULL, 7, &err), 0, "a file of %d blocks, for a clear reader", NBLOCKS);
	is_mem(copy, file, HEADER_PAGES * PAGE_LEN, "... its header is as it was");
	ok(memcmp(copy + HEADER_PAGES * PAGE_LEN, text, (size_t)NBLOCKS * PAGE_LEN) == 0, "... its blocks are open");
	memcpy(copy, file, len);
	is_int(convert(copy, len, len, others, 1000, &err), 0, "... under another key");
	for (uint32_t i = 0; i < NBLOCKS; i++) {
		struct page_at at = {.db = 5, .rel = 16384, .block = PAGE_BLOCKS_PER_SEGMENT + 3 * i};
		uint8_t page[PAGE_LEN];

		right &= page_decrypt(c, &at, copy + (size_t)(HEADER_PAGES + i) * PAGE_LEN, page, &err) == 0 &&
		         memcmp(page, text + (size_t)i * PAGE_LEN, PAGE_LEN) == 0;
	}
	ok(right, "... each block as it stands in the file of the full backup");
	memcpy(copy, file, len);
	is_int(convert(copy, len, len - PAGE_LEN, others, 1000, &err), -1, "another size than the header says");
	is_err(&err, ERR_DAMAGED, "another size", "... by name");
	is_int(convert(copy, len - PAGE_LEN, len, others, 1000, &err), -1, "cut off");
	memcpy(copy, file, len);
	put32(copy + PAGE_LEN, PAGE_BLOCKS_PER_SEGMENT);
	is_int(convert(copy, len, len, others, 1000, &err), -1, "a block behind the segment's end");
	is_err(&err, ERR_DAMAGED, "outside its segment", "... by name");
	put32(copy, 1);
	is_int(convert(copy, len, len, others, 1000, &err), -1, "another magic number");
	put32(copy, 0xd3ae1f0du);
	put32(copy + 4, 0xffffffffu);
	is_int(convert(copy, len, len, others, 1000, &err), -1, "4 billion blocks");
	put32(copy + 4, 0);
	is_int(convert(copy, 12, 12, others, 1, &err), 0, "no blocks");
	is_int(convert(copy, 11, 11, others, 1, &err), -1, "no header");
	page_cipher_free(c);
	free(copy);
	free(text);
	free(file);
}

static void
names(void)
{
	static const struct {
		const char *path;
		bool in_tablespace, is;
	} rows[] = {{"base/5/INCREMENTAL.16384", false, true},
	            {"global/INCREMENTAL.1262_vm", false, true},
	            {"PG_17_202406281/5/INCREMENTAL.1.2", true, true},
	            {"base/5/INCREMENTAL.PG_VERSION", false, false},
	            {"base/5/INCREMENTAL.", false, false},
	            {"base/5/16384", false, false},
	            {"elsewhere/INCREMENTAL.16384", false, false}};
	struct pgfile f;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		is_int(incrfile_parse(rows[i].path, rows[i].in_tablespace, &f), rows[i].is, "%s", rows[i].path);
	incrfile_parse("base/5/INCREMENTAL.16384_vm.1", false, &f);
	ok(f.at.db == 5 && f.at.rel == 16384 && f.at.fork == PAGE_FORK_VM && f.at.block == PAGE_BLOCKS_PER_SEGMENT,
	   "it is described as the relation file is");
}

static void
manifests(void)
{
	static const char head[] = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"Files\": [\n";
	static const char one[] = "{ \"Path\": \"pg_cryptokeys/relation_id.0123456789abcdef\", \"Size\": 0 },\n";
	static const char encoded[] = "{ \"Encoded-Path\": "
	                              "\"70675f63727970746f6b6579732f72656c6174696f6e5f69642e"
	                              "30313233343536373839616263646566\", \"Size\": 0 },\n";
	static const struct {
		const char *part[3], *id;
		bool several;
	} rows[] = {
	    {{head, one, "],\n"}, "0123456789abcdef", false},
	    {{head, encoded, one}, "0123456789abcdef", false},
	    {{head, one, "{ \"Path\": \"pg_cryptokeys/relation_id.1123456789abcdef\", \"Size\": 0 }\n"},
	     "1123456789abcdef",
	     true},
	    {{head, "{ \"Path\": \"pg_cryptokeys/relation_id.0123456789abcdex\", \"Size\": 0 }\n", ""}, "", false},
	    {{head, "{ \"Path\": \"pg_cryptokeys/relation_id.0123456789abcde\", \"Size\": 0 }\n", ""}, "", false},
	    {{head, "{ \"Path\": \"x/pg_cryptokeys/relation_id.0123456789abcdef\", \"Size\": 0 }\n", ""}, "", false},
	    {{head, "{ \"Encoded-Path\": \"7067\", \"Size\": 0 }\n", ""}, "", false},
	    {{"", "", ""}, "", false},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t step = 1; step < 100; step += 33) {
			struct manifest_key k = {0};
			char text[1000];
			size_t len;

			snprintf(text, sizeof(text), "%s%s%s", rows[i].part[0], rows[i].part[1], rows[i].part[2]);
			len = strlen(text);
			for (size_t at = 0; at < len; at += step)
				manifest_key_push(&k, (const uint8_t *)text + at, len - at < step ? len - at : step);
			is_str(k.id, rows[i].id, "manifest %zu in pieces of %zu: its relation key", i, step);
			is_int(k.several, rows[i].several, "... %s", rows[i].several ? "is not the only one" : "alone");
		}
}

static int
starve(void *arg)
{
	uint8_t header[PAGE_LEN * 2] = {0};
	struct err err = {0};

	(void)arg;
	put32(header, 0xd3ae1f0du);
	put32(header + 4, 1);
	return convert(header, sizeof(header), sizeof(header), others, 1, &err) == 0 ? 0 : err.text[0] != '\0' ? -1 : 1;
}

int
main(void)
{
	sample_secmem(1 << 18);
	keys = sample_keyset(KEY_AES256);
	others = sample_keyset_other(KEY_AES256);
	blocks();
	names();
	manifests();
	ok(failmalloc_each(starve, NULL) >= 3, "each allocation may fail");
	keyset_free(keys);
	keyset_free(others);
	return tap_done();
}
