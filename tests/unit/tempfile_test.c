/* Temporary files: random reads, writes and truncations of real files against a model in memory, and what stands on
 * disk. */
#include "storage/tempfile.c"

#include <fcntl.h>
#include <stdlib.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

#define MAX_LEN (5 * UNIT_LEN)

/* what the layer's process.c would do */
int
process_fail(const struct err *err, int fd)
{
	(void)fd;
	printf("# %s\n", err->text);
	errno = EIO;
	return -1;
}

void
process_die(const struct err *err)
{
	printf("# %s\n", err->text);
	exit(1);
}

static int held, locks;

void
run_files_lock(void)
{
	held++;
	locks++;
}

void
run_files_unlock(void)
{
	held--;
}

static uint64_t seed = 11;

static size_t
chance(size_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (size_t)(seed >> 33) % below;
}

/* Lengths as they come: whole units, small pieces, anything. */
static size_t
some_len(size_t max)
{
	size_t len = chance(3) == 0 ? UNIT_LEN : chance(2) == 0 ? chance(40) : chance(2 * UNIT_LEN);

	return len < max ? len : max;
}

static void
units(enum tempfile_key key)
{
	uint8_t tweak[TEMPFILE_TWEAK_LEN] = {1}, text[64], data[64], other[64];
	bool back = true, differs = true, tweaked = true;
	struct err err;
	int seen[256] = {0}, values = 0;

	sample_noise(5, text, sizeof(text));
	for (size_t len = 1; len <= sizeof(text); len++) {
		memcpy(data, text, len);
		memcpy(other, text, len);
		tempfile_unit(true, key, tweak, 3, data, len, &err);
		tempfile_unit(true, key, tweak, 4, other, len, &err);
		differs = differs && (len < 3 || memcmp(data, text, len) != 0);
		tweaked = tweaked && (len < 3 || memcmp(data, other, len) != 0);
		tempfile_unit(false, key, tweak, 3, data, len, &err);
		back = back && memcmp(data, text, len) == 0;
	}
	ok(back, "units of 1 to 64 bytes come back");
	ok(differs, "and are changed");
	ok(tweaked, "differently in each unit");
	for (int i = 0; i < 256; i++) {
		data[0] = (uint8_t)i;
		tempfile_unit(true, key, tweak, 0, data, 1, &err);
		values += seen[data[0]]++ == 0;
	}
	is_int(values, 256, "one byte is mapped one to one");
}

static void
random_calls(int fd, const struct file *f)
{
	static uint8_t model[MAX_LEN], buf[MAX_LEN], data[MAX_LEN];
	size_t size = 0;
	bool same = true, sized = true;

	for (int i = 0; i < 4000 && same && sized; i++) {
		size_t off = chance(MAX_LEN), len = some_len(MAX_LEN - off);

		switch (chance(8)) {
		case 0:
			len = chance(MAX_LEN);
			same = tempfile_truncate(fd, f, (off_t)len) == 0;
			if (len > size)
				memset(model + size, 0, len - size);
			size = len;
			break;
		case 1:
		case 2:
		case 3:
			if (chance(2) == 0)
				off = size < MAX_LEN ? size : 0; /* at the end, as most are */
			len = len < MAX_LEN - off ? len : MAX_LEN - off;
			sample_noise(seed, data, len);
			same = tempfile_write(fd, f, data, len, (off_t)off) == (ssize_t)len;
			if (len > 0 && off > size)
				memset(model + size, 0, off - size);
			memcpy(model + off, data, len);
			if (len > 0 && off + len > size)
				size = off + len;
			break;
		default: {
			ssize_t n = tempfile_read(fd, f, buf, len, (off_t)off);
			size_t want = off >= size ? 0 : size - off < len ? size - off : len;

			same = n == (ssize_t)want && memcmp(buf, model + off, want) == 0;
		}
		}
		sized = raw_lseek(fd, 0, SEEK_END) == (off_t)size;
	}
	ok(same, "4000 calls read what was written");
	ok(sized, "and the file has the size that the server thinks it has");
}

int
main(void)
{
	char path[] = "/tmp/tempfile_testXXXXXX";
	struct file f = {.class = FILE_TEMP}, other = {.class = FILE_TEMP};
	uint8_t text[100], disk[200];
	struct data_key relation_key = {.len = 32};
	struct err err;
	int fd = mkstemp(path);

	if (fd < 0 || secmem_init(64 * 1024, &err) != 0 || tempfile_init(&relation_key, &err) != 0)
		return 1;
	tempfile_tweak(TEMPFILE_TEMPORARY, "base/pgsql_tmp/pgsql_tmp1.0", f.tweak);
	tempfile_tweak(TEMPFILE_TEMPORARY, "base/pgsql_tmp/pgsql_tmp1.1", other.tweak);
	ok(memcmp(f.tweak, other.tweak, sizeof(f.tweak)) != 0, "each file has its own tweak");
	tempfile_tweak(TEMPFILE_LASTING, "base/pgsql_tmp/pgsql_tmp1.0", other.tweak);
	ok(memcmp(f.tweak, other.tweak, sizeof(f.tweak)) != 0, "and each key another");
	units(TEMPFILE_TEMPORARY);
	units(TEMPFILE_LASTING);
	random_calls(fd, &f);
	is_int(locks, 0, "a temporary file is one process's at a time");
	tempfile_truncate(fd, &f, 0);
	f.lasting = true;
	random_calls(fd, &f);
	ok(locks >= 4000 && held == 0, "calls on a lasting file wait for each other");
	f.lasting = false;
	tempfile_truncate(fd, &f, 0);

	memset(text, 'M', sizeof(text));
	tempfile_truncate(fd, &f, 0);
	is_int(tempfile_write(fd, &f, text, sizeof(text), 50), 100, "a write behind the end");
	is_int(raw_pread(fd, disk, sizeof(disk), 0), 150, "fills the gap");
	ok(memmem(disk, 150, "MMMM", 4) == NULL, "what stands on disk is not the text");
	ok(memmem(disk, 50, "\0\0\0\0", 4) == NULL, "nor the gap's zeros");
	raw_close(fd);
	raw_unlink(path);
	return tap_done();
}
