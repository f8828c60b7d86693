#include "proxy/spoolfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define BUFFER 65536

struct spoolfile {
	int fd;
	off_t written, read;
	struct spool_io io;
	size_t held; /* bytes of buffer not written yet */
	uint8_t buffer[BUFFER];
};

static int
flush(struct spoolfile *f, struct err *err)
{
	size_t done = 0;

	while (done < f->held) {
		ssize_t n = pwrite(f->fd, f->buffer + done, f->held - done, f->written);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_os(err, n == 0 ? ENOSPC : errno, "could not write a temporary file");
		done += (size_t)n;
		f->written += n;
	}
	f->held = 0;
	return 0;
}

static int
put(void *arg, const void *data, size_t len, struct err *err)
{
	struct spoolfile *f = arg;
	const uint8_t *p = data;

	while (len > 0) {
		size_t part = BUFFER - f->held < len ? BUFFER - f->held : len;

		memcpy(f->buffer + f->held, p, part);
		f->held += part;
		p += part;
		len -= part;
		if (f->held == BUFFER && flush(f, err) != 0)
			return -1;
	}
	return 0;
}

static int
get(void *arg, void *data, size_t len, struct err *err)
{
	struct spoolfile *f = arg;
	ssize_t n;

	if (flush(f, err) != 0)
		return -1;
	do
		n = pread(f->fd, data, len > INT_MAX ? INT_MAX : len, f->read);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_os(err, errno, "could not read a temporary file");
	f->read += n;
	return (int)n;
}

struct spoolfile *
spoolfile_new(const char *folder, struct err *err)
{
	struct spoolfile *f = calloc(1, sizeof(*f));
	char path[PATH_MAX];

	if (f == NULL) {
		err_nomem(err);
		return NULL;
	}
	snprintf(path, sizeof(path), "%s/spool.XXXXXX", folder);
	f->fd = mkostemp(path, O_CLOEXEC);
	if (f->fd < 0 || unlink(path) != 0) {
		err_os(err, errno, "could not make a temporary file in \"%s\"", folder);
		spoolfile_free(f);
		return NULL;
	}
	f->io = (struct spool_io){.arg = f, .write = put, .read = get};
	return f;
}

void
spoolfile_free(struct spoolfile *f)
{
	if (f == NULL)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

const struct spool_io *
spoolfile_io(const struct spoolfile *f)
{
	return &f->io;
}
