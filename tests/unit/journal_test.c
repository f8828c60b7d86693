/* The one-page journal: whatever point a crash cuts a change off at, replay leaves the old page or the new one. */
#include "common/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

static char dir[] = "/tmp/journal_testXXXXXX", file_path[64], journal_path[96];
static struct journal_page entry = {.system_identifier = 7, .offset = JOURNAL_PAGE_LEN, .key_id = {1, 2, 3}};
static uint8_t old[3 * JOURNAL_PAGE_LEN];

static void
put(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "wb");

	if (f == NULL || fwrite(data, 1, len, f) != len || fclose(f) != 0)
		perror(path);
}

static size_t
get(const char *path, void *data, size_t max)
{
	FILE *f = fopen(path, "rb");
	size_t n = f != NULL ? fread(data, 1, max, f) : 0;

	if (f != NULL)
		fclose(f);
	return n;
}

static bool
exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static bool
known(const struct journal_page *page, void *arg)
{
	return page->system_identifier == 7 && page->key_id[0] == *(const uint8_t *)arg;
}

static int
replay(uint8_t key, bool *done, struct err *err)
{
	return journal_replay(dir, known, &key, done, err);
}

/* Does the file hold old with (or without) the new page? */
static bool
file_is(bool changed)
{
	uint8_t now[sizeof(old) + 1], want[sizeof(old)];

	memcpy(want, old, sizeof(old));
	if (changed)
		memcpy(want + entry.offset, entry.page, JOURNAL_PAGE_LEN);
	return get(file_path, now, sizeof(now)) == sizeof(old) && memcmp(now, want, sizeof(old)) == 0;
}

int
main(void)
{
	uint8_t image[16384], torn[sizeof(old)];
	struct err err = {0};
	bool done, all = true, flips = true;
	size_t len;

	if (mkdtemp(dir) == NULL)
		return 1;
	snprintf(entry.file, sizeof(entry.file), "%s", "000000010000000000000002");
	snprintf(file_path, sizeof(file_path), "%s/%s", dir, entry.file);
	snprintf(journal_path, sizeof(journal_path), "%s/%s", dir, JOURNAL_NAME);
	sample_noise(1, old, sizeof(old));
	sample_noise(2, entry.page, sizeof(entry.page));

	put(file_path, old, sizeof(old));
	is_int(replay(1, &done, &err), 0, "no journal: nothing to replay");
	ok(!done && file_is(false), "nothing is written");

	is_int(journal_begin(dir, &entry, true, &err), 0, "begin");
	ok(file_is(false), "the page is not touched yet");
	len = get(journal_path, image, sizeof(image));
	is_int(len, 8264, "the journal has the documented length");
	is_int(replay(1, &done, &err), 0, "a crash after begin is replayed");
	ok(done && file_is(true), "the page is the new one");
	ok(!exists(journal_path), "and the journal is gone");

	/* a torn write in place: sectors of both images */
	memcpy(torn, old, sizeof(old));
	for (size_t i = 0; i < JOURNAL_PAGE_LEN; i += 1024)
		memcpy(torn + entry.offset + i, entry.page + i, 512);
	put(file_path, torn, sizeof(torn));
	put(journal_path, image, len);
	ok(replay(1, &done, &err) == 0 && done && file_is(true), "a torn page becomes the new one");
	put(journal_path, image, len);
	ok(replay(1, &done, &err) == 0 && done && file_is(true), "replaying again changes nothing");

	/* a journal that was being written: the page itself was not touched */
	put(file_path, old, sizeof(old));
	for (size_t cut = 0; cut < len; cut += 97) {
		put(journal_path, image, cut);
		all = all && replay(1, &done, &err) == 0 && !done && file_is(false) && !exists(journal_path);
	}
	ok(all, "a journal cut off anywhere is dropped");
	for (size_t at = 0; at < len; at += 61) {
		image[at] ^= 0x40;
		put(journal_path, image, len);
		if (at >= 12 && at < 16) /* the zero field says nothing */
			flips = flips && replay(1, &done, &err) == 0;
		else
			flips = flips && replay(1, &done, &err) == 0 && !done && file_is(false);
		put(file_path, old, sizeof(old));
		image[at] ^= 0x40;
	}
	ok(flips, "a journal with a changed bit anywhere is dropped");

	put(journal_path, image, len);
	is_int(replay(9, &done, &err), -1, "one of another key is refused");
	is_err(&err, ERR_REFUSED, "another cluster or another key", "by name");
	ok(exists(journal_path) && file_is(false), "it stays, and nothing is written");

	unlink(file_path);
	ok(replay(1, &done, &err) == 0 && !done && !exists(journal_path), "one whose file is gone is dropped");
	ok(!exists(file_path), "and makes no file");

	is_int(journal_begin(dir, &entry, false, &err), 0, "begin without fsync");
	is_int(journal_end(dir, false, &err), 0, "end");
	ok(!exists(journal_path), "removes it");
	is_int(journal_end(dir, true, &err), 0, "end again is no error");
	rmdir(dir);
	is_int(journal_begin(dir, &entry, true, &err), -1, "a folder that is gone is an error");
	is_err(&err, ERR_FAILED, "could not write", "which says so");
	return tap_done();
}
