#include "common/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fileio.h"

#define MAGIC "WCJL"
#define VERSION 1
#define PATH_LEN 4096

struct image {
	char magic[4];
	uint32_t version, crc, zero;
	struct journal_page body;
};
_Static_assert(sizeof(struct image) == 16 + 8 + 8 + 8 + JOURNAL_FILE_NAME_LEN + JOURNAL_PAGE_LEN, "no padding");

/* CRC-32C, bit by bit: a journal is written a few times in a server's life. */
static uint32_t
crc32c_slow(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t crc = 0xFFFFFFFFu;

	while (len-- > 0) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (0x82F63B78u & -(crc & 1));
	}
	return ~crc;
}

static int
file_open(const char *dir, const char *name, int flags)
{
	char path[PATH_LEN];

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

static int
file_close(int fd)
{
	int save = errno, rc = (int)syscall(SYS_close, fd);

	if (rc == 0)
		errno = save;
	return rc;
}

static int
sync_fd(int fd, bool durable)
{
	return durable ? (int)syscall(SYS_fsync, fd) : 0;
}

static int
sync_dir(const char *dir, bool durable)
{
	int fd, rc;

	if (!durable)
		return 0;
	if ((fd = (int)syscall(SYS_openat, AT_FDCWD, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)) < 0)
		return -1;
	rc = sync_fd(fd, true);
	file_close(fd);
	return rc;
}

int
journal_begin(const char *dir, const struct journal_page *page, bool durable, struct err *err)
{
	struct image image = {.magic = MAGIC, .version = VERSION, .body = *page};
	int fd = file_open(dir, JOURNAL_NAME, O_WRONLY | O_CREAT | O_TRUNC);

	image.crc = crc32c_slow(&image.body, sizeof(image.body));
	if (fd < 0 || fileio_pwrite(fd, &image, sizeof(image), 0) != 0 || sync_fd(fd, durable) != 0 ||
	    sync_dir(dir, durable) != 0) {
		err_os(err, errno, "could not write \"%s/%s\"", dir, JOURNAL_NAME);
		if (fd >= 0)
			file_close(fd);
		return -1;
	}
	file_close(fd);
	return 0;
}

int
journal_end(const char *dir, bool durable, struct err *err)
{
	char path[PATH_LEN];

	if (snprintf(path, sizeof(path), "%s/%s", dir, JOURNAL_NAME) >= (int)sizeof(path))
		return err_os(err, ENAMETOOLONG, "could not remove \"%s/%s\"", dir, JOURNAL_NAME);
	if ((syscall(SYS_unlinkat, AT_FDCWD, path, 0) != 0 && errno != ENOENT) || sync_dir(dir, durable) != 0)
		return err_os(err, errno, "could not remove \"%s\"", path);
	return 0;
}

/* 1: a whole page; 0: none, or one that was never finished; -1: error. */
static int
load(const char *dir, struct image *image, struct err *err)
{
	int fd = file_open(dir, JOURNAL_NAME, O_RDONLY);
	ssize_t n = -1;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd >= 0)
		n = fileio_pread(fd, image, sizeof(*image), 0);
	if (n < 0) {
		err_os(err, errno, "could not read \"%s/%s\"", dir, JOURNAL_NAME);
		if (fd >= 0)
			file_close(fd);
		return -1;
	}
	file_close(fd);
	return n == (ssize_t)sizeof(*image) && memcmp(image->magic, MAGIC, 4) == 0 && image->version == VERSION &&
	       image->crc == crc32c_slow(&image->body, sizeof(image->body)) &&
	       memchr(image->body.file, '\0', sizeof(image->body.file)) != NULL && strchr(image->body.file, '/') == NULL;
}

int
journal_replay(const char *dir, bool (*known)(const struct journal_page *page, void *arg), void *arg, bool *done,
               struct err *err)
{
	struct image image;
	int rc, fd;

	*done = false;
	if ((rc = load(dir, &image, err)) < 0)
		return -1;
	if (rc == 0)
		return journal_end(dir, true, err);
	if (!known(&image.body, arg)) {
		err_set(err, ERR_REFUSED, "\"%s/%s\" belongs to another cluster or another key", dir, JOURNAL_NAME);
		return err_hint(err, "If this directory was put together from several, remove that file.");
	}
	fd = file_open(dir, image.body.file, O_WRONLY);
	if (fd >= 0) {
		rc = fileio_pwrite(fd, image.body.page, sizeof(image.body.page), image.body.offset);
		if (rc == 0)
			rc = sync_fd(fd, true);
		file_close(fd);
		if (rc != 0)
			return err_os(err, errno, "could not write \"%s/%s\" again from the journal", dir, image.body.file);
		*done = true;
	} else if (errno != ENOENT)
		return err_os(err, errno, "could not open \"%s/%s\"", dir, image.body.file);
	return journal_end(dir, true, err);
}
