/* tar: real headers of a base backup come out as they went in; archives in every split; what is refused. */
#include "replication/tar.h"

#include <stdlib.h>

#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

static void
headers(void)
{
	static const struct tar_member want[] = {
	    {.type = TAR_FILE, .name = "backup_label", .size = 225, .mode = 0600},
	    {.type = TAR_DIRECTORY, .name = "pg_stat/", .mode = 0700},
	};
	uint8_t block[TAR_BLOCK], again[TAR_BLOCK];
	FILE *f = fopen("tests/vectors/tar15-headers.bin", "r");
	int i = 0;

	if (!ok(f != NULL, "tests/vectors/tar15-headers.bin"))
		return;
	for (; fread(block, 1, sizeof(block), f) == sizeof(block); i++) {
		struct err err = {0};
		struct tar_member m;

		if (!is_int(tar_header_parse(block, &m, &err), 0, "header %d of PostgreSQL 15 is understood", i)) {
			printf("# %s\n", err.text);
			continue;
		}
		ok(tar_header_format(&m, again, &err) == 0 && memcmp(block, again, TAR_BLOCK) == 0,
		   "... %s comes out as it went in", m.name);
		if (i < 2) {
			is_str(m.name, want[i].name, "... name");
			ok(m.type == want[i].type && m.mode == want[i].mode, "... type, mode");
			ok(m.size == want[i].size, "... size %llu", (unsigned long long)m.size);
			ok(strcmp(m.user, "postgres") == 0 && strcmp(m.group, "postgres") == 0 && m.mtime > 1700000000,
			   "... owner, time");
		}
	}
	is_int(i, 8, "eight headers");
	fclose(f);
}

static void
set_checksum(uint8_t *block)
{
	unsigned sum = 8 * ' ';

	for (int i = 0; i < TAR_BLOCK; i++)
		sum += i >= 148 && i < 156 ? 0 : block[i];
	snprintf((char *)block + 148, 8, "%06o", sum);
	block[155] = ' ';
}

static void
refused_headers(void)
{
	static const struct {
		size_t at;
		const char *value; /* "" is a NUL */
		enum err_class class;
		const char *part;
	} rows[] = {
	    {257, "x", ERR_DAMAGED, "ustar"},        {0, "", ERR_DAMAGED, "no name"},
	    {156, "L", ERR_REFUSED, "unknown type"}, {156, "x", ERR_REFUSED, "unknown type"},
	    {156, "1", ERR_REFUSED, "unknown type"}, {100, "9", ERR_DAMAGED, "malformed"},
	    {124, "-", ERR_DAMAGED, "malformed"},    {136, "z", ERR_DAMAGED, "malformed"},
	    {156, "5", ERR_DAMAGED, "has contents"}, {124, "\x80\xff\xff\xff\xff", ERR_DAMAGED, "malformed"},
	};
	struct tar_member m = {.type = TAR_FILE, .name = "a", .size = 5}, got;
	uint8_t good[TAR_BLOCK], block[TAR_BLOCK];
	struct err err = {0};

	tar_header_format(&m, good, &err);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memcpy(block, good, TAR_BLOCK);
		memcpy(block + rows[i].at, rows[i].value, strlen(rows[i].value) > 0 ? strlen(rows[i].value) : 1);
		set_checksum(block);
		is_int(tar_header_parse(block, &got, &err), -1, "refused: row %zu", i);
		is_err(&err, rows[i].class, rows[i].part, "... %s", rows[i].part);
	}
	memcpy(block, good, TAR_BLOCK);
	block[300] ^= 1;
	is_int(tar_header_parse(block, &got, &err), -1, "refused: another byte than the checksum says");
	m.size = UINT64_C(1) << 40;
	ok(tar_header_format(&m, block, &err) == 0 && block[124] == 0x80 && tar_header_parse(block, &got, &err) == 0 &&
	       got.size == m.size,
	   "a terabyte, in base 256");
	m.size = UINT64_MAX;
	tar_header_format(&m, block, &err);
	is_int(tar_header_parse(block, &got, &err), -1, "refused: a size beyond all files");
	memset(&m, 0, sizeof(m));
	m.type = TAR_FILE;
	is_int(tar_header_format(&m, block, &err), -1, "no header without a name");
	memset(m.name, 'n', 100);
	ok(tar_header_format(&m, block, &err) == 0 && tar_header_parse(block, &got, &err) == 0 &&
	       strcmp(got.name, m.name) == 0,
	   "a name of 100");
	m.name[100] = 'n';
	is_int(tar_header_format(&m, block, &err), -1, "no header for a longer one without a slash");
	m.name[60] = '/';
	ok(tar_header_format(&m, block, &err) == 0 && tar_header_parse(block, &got, &err) == 0 &&
	       strcmp(got.name, m.name) == 0,
	   "with one it is parted and joined");
}

/* An archive with members of these sizes, a directory and a link; and what of it a reader must say. */
static void
make(struct buffer *archive, struct buffer *contents, struct buffer *marks)
{
	static const uint64_t sizes[] = {0, 1, 511, 512, 513, 1024, 20000, 8192};
	struct err err = {0};
	uint8_t block[TAR_BLOCK];
	char line[400];

	buffer_init(archive, 1 << 20);
	buffer_init(contents, 1 << 20);
	buffer_init(marks, 1 << 20);
	buffer_put_text(marks, "A x.tar 0\n");
	for (size_t i = 0; i < 10; i++) {
		struct tar_member m = {.type = i == 8   ? TAR_DIRECTORY
		                               : i == 9 ? TAR_SYMLINK
		                                        : TAR_FILE,
		                       .size = i < 8 ? sizes[i] : 0,
		                       .mode = 0640,
		                       .uid = 5000000,
		                       .user = "postgres"};

		snprintf(m.name, sizeof(m.name), "dir/member%zu%s", i, i >= 8 ? "/" : "");
		snprintf(m.link, sizeof(m.link), "%s", i == 9 ? "/somewhere/else" : "");
		tar_header_format(&m, block, &err);
		buffer_put(archive, block, sizeof(block));
		for (uint64_t n = 0; n < m.size; n++) {
			buffer_put_u8(archive, (uint8_t)(n * 7 + i));
			buffer_put_u8(contents, (uint8_t)(n * 7 + i));
		}
		while (buffer_len(archive) % TAR_BLOCK != 0)
			buffer_put_u8(archive, 0);
		snprintf(line, sizeof(line), "%c %s %llu\nm  0\n",
		         i == 8   ? 'D'
		         : i == 9 ? 'L'
		                  : 'M',
		         m.name, (unsigned long long)m.size);
		buffer_put_text(marks, line);
	}
	for (int i = 0; i < 2 * TAR_BLOCK; i++)
		buffer_put_u8(archive, 0);
	buffer_put_text(marks, "a  0\n");
	if (buffer_check(archive, &err) != 0 || buffer_check(contents, &err) != 0 || buffer_check(marks, &err) != 0)
		abort();
}

struct run {
	struct stage *s;
	struct collect sink;
};

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct chunk c = {.kind = CHUNK_TAR, .pos = pos, .data = piece, .len = len};

	return stage_push(((struct run *)arg)->s, &c, err);
}

static int
mark(struct run *run, enum chunk_kind kind, struct err *err)
{
	static const struct backup_archive archive = {.name = "x.tar"};
	struct chunk c = {.kind = kind, .archive = &archive};

	return stage_push(run->s, &c, err);
}

/* Through a reader, and a writer behind it if both; 0 or -1. What came out is in run->sink until run_free. */
static int
run_archive(struct run *run, const uint8_t *data, size_t len, int how, bool both, struct err *err)
{
	struct stage *s = collect_init(&run->sink, NULL), *in_front;

	memset(err, 0, sizeof(*err));
	if (both) {
		if ((in_front = tar_writer_new(s, err)) == NULL)
			goto fail;
		s = in_front;
	}
	if ((run->s = tar_reader_new(s, err)) == NULL)
		goto fail;
	return mark(run, CHUNK_ARCHIVE, err) < 0 || split_feed(data, len, how, feed, run, err) < 0 ||
	               mark(run, CHUNK_ARCHIVE_END, err) < 0
	           ? -1
	           : stage_finish(run->s, err);
fail:
	run->s = s;
	return -1;
}

static void
splits(void)
{
	struct buffer archive, contents, marks;
	bool read_same = true, written_same = true;
	struct run run;
	struct err err;

	make(&archive, &contents, &marks);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		read_same &= run_archive(&run, buffer_data(&archive), buffer_len(&archive), *how, false, &err) == 0 &&
		             buffer_len(&run.sink.bytes) == buffer_len(&contents) &&
		             memcmp(buffer_data(&run.sink.bytes), buffer_data(&contents), buffer_len(&contents)) == 0 &&
		             buffer_len(&run.sink.marks) == buffer_len(&marks) &&
		             memcmp(buffer_data(&run.sink.marks), buffer_data(&marks), buffer_len(&marks)) == 0;
		stage_free(run.s);
		written_same &= run_archive(&run, buffer_data(&archive), buffer_len(&archive), *how, true, &err) == 0 &&
		                buffer_len(&run.sink.bytes) == buffer_len(&archive) &&
		                memcmp(buffer_data(&run.sink.bytes), buffer_data(&archive), buffer_len(&archive)) == 0;
		stage_free(run.s);
	}
	ok(read_same, "members and contents in every split");
	ok(written_same, "put together again: the same archive in every split");

	/* cut off anywhere */
	bool all = true;
	for (size_t len = 0; len < buffer_len(&archive); len += len % 512 < 3 || len % 512 > 509 ? 1 : 100) {
		all &= run_archive(&run, buffer_data(&archive), len, 0, false, &err) == -1 && err.class == ERR_DAMAGED;
		stage_free(run.s);
	}
	ok(all, "an archive cut off anywhere is refused");
	buffer_put_u8(&archive, 0);
	is_int(run_archive(&run, buffer_data(&archive), buffer_len(&archive), 1, false, &err), 0,
	       "more zeros at the end are as good");
	stage_free(run.s);
	buffer_put_u8(&archive, 1);
	is_int(run_archive(&run, buffer_data(&archive), buffer_len(&archive), 1, false, &err), -1, "other bytes are not");
	is_err(&err, ERR_DAMAGED, "behind its end", "... said so");
	stage_free(run.s);
	buffer_data(&archive)[512 + 512 + 512 - 1] = 1;
	is_int(run_archive(&run, buffer_data(&archive), buffer_len(&archive), 0, false, &err), -1,
	       "padding that is not zero is refused");
	is_err(&err, ERR_DAMAGED, "padding", "... said so");
	stage_free(run.s);
	buffer_free(&archive);
	buffer_free(&contents);
	buffer_free(&marks);
}

static void
order(void)
{
	static const struct tar_member file = {.type = TAR_FILE, .name = "f", .size = 3};
	static const struct backup_archive archive = {.name = "x.tar"};
	struct chunk begin = {.kind = CHUNK_ARCHIVE, .archive = &archive},
	             end = {.kind = CHUNK_ARCHIVE_END, .archive = &archive};
	struct chunk member = {.kind = CHUNK_MEMBER, .member = &file},
	             member_end = {.kind = CHUNK_MEMBER_END, .member = &file};
	struct chunk data = {.kind = CHUNK_DATA, .data = (uint8_t[]){1, 2, 3, 4}, .len = 4};
	struct chunk tar = {.kind = CHUNK_TAR, .data = (uint8_t[]){0}, .len = 1};
	struct chunk progress = {.kind = CHUNK_PROGRESS, .pos = 5};
	struct collect sink;
	struct stage *s;
	struct err err;

	s = tar_writer_new(collect_init(&sink, NULL), &err);
	is_int(stage_push(s, &member, &err), -1, "writer: no member outside an archive");
	is_int(stage_push(s, &begin, &err), 0, "writer: an archive");
	is_int(stage_push(s, &progress, &err), 0, "writer: other chunks pass");
	is_int(stage_push(s, &begin, &err), -1, "writer: not two at once");
	is_int(stage_push(s, &member, &err), 0, "writer: a member");
	is_int(stage_push(s, &data, &err), -1, "writer: not more contents than its size");
	data.len = 2;
	is_int(stage_push(s, &data, &err), 0, "writer: contents");
	is_int(stage_push(s, &member_end, &err), -1, "writer: not fewer");
	is_int(stage_push(s, &data, &err), -1, "writer: no gap");
	is_int(stage_push(s, &end, &err), -1, "writer: no end inside a member");
	is_int(stage_finish(s, &err), -1, "writer: nor of all");
	stage_free(s);
	s = tar_reader_new(collect_init(&sink, NULL), &err);
	is_int(stage_push(s, &tar, &err), -1, "reader: no bytes outside an archive");
	is_int(stage_push(s, &end, &err), -1, "reader: no end");
	is_int(stage_push(s, &begin, &err), 0, "reader: an archive");
	is_int(stage_push(s, &begin, &err), -1, "reader: not two at once");
	tar.pos = 1;
	is_int(stage_push(s, &tar, &err), -1, "reader: no gap");
	is_int(stage_finish(s, &err), -1, "reader: no end of all inside an archive");
	stage_free(s);
}

static int
starve(void *arg)
{
	const struct buffer *archive = arg;
	struct run run = {0};
	struct err err;
	int rc = run_archive(&run, buffer_data(archive), buffer_len(archive), -1, true, &err);

	stage_free(run.s);
	return rc != 0 && err.text[0] == '\0' ? 1 : rc;
}

int
main(void)
{
	struct buffer archive, contents, marks;

	headers();
	refused_headers();
	splits();
	order();
	make(&archive, &contents, &marks);
	ok(failmalloc_each(starve, &archive) > 5, "each allocation may fail");
	buffer_free(&archive);
	buffer_free(&contents);
	buffer_free(&marks);
	return tap_done();
}
