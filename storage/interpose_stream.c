/*
 * Streams on files of ours: libc's own read and write by system calls that nobody can interpose. So they get functions
 * of their own under them (fopencookie): relation files and WAL can be read (pg_read_binary_file, which pg_rewind's
 * source is asked with), the files of storage/tempfile.h written too (pg_stat_statements).
 */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/interpose.h"
#include "storage/process.h"
#include "storage/raw.h"

INTERPOSED FILE *fopen(const char *path, const char *mode);
INTERPOSED_ALIAS("fopen") FILE *fopen64(const char *path, const char *mode);

struct stream {
	int fd;
	off_t pos;
};

static ssize_t
stream_read(void *cookie, char *buf, size_t len)
{
	struct stream *s = cookie;
	struct file *f = fdtable_file(s->fd);
	ssize_t n = f != NULL ? interpose_pread(s->fd, f, buf, len, s->pos) : raw_pread(s->fd, buf, len, s->pos);

	if (n > 0)
		s->pos += n;
	return n;
}

/* glibc: 0 on error, never negative (fopencookie(3)). */
static ssize_t
stream_write(void *cookie, const char *buf, size_t len)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct stream *s = cookie;
	struct file *f = fdtable_file(s->fd);
	off_t pos = f != NULL && f->append ? raw_lseek(s->fd, 0, SEEK_END) : s->pos;
	ssize_t n = f != NULL && pos >= 0 ? interpose_pwritev(s->fd, f, &iov, 1, pos) : -1;

	if (n <= 0)
		return 0;
	s->pos = pos + n;
	return n;
}

static int
stream_seek(void *cookie, off64_t *pos, int whence)
{
	struct stream *s = cookie;
	off_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->pos : raw_lseek(s->fd, 0, SEEK_END);

	if (base < 0 || base + *pos < 0) {
		errno = EINVAL;
		return -1;
	}
	*pos = s->pos = base + *pos;
	return 0;
}

static int
stream_close(void *cookie)
{
	struct stream *s = cookie;
	int rc = close(s->fd);

	free(s);
	return rc;
}

static FILE *
stream_open(const char *path, const char *mode, int flags)
{
	cookie_io_functions_t calls = {
	    .read = stream_read, .write = stream_write, .seek = stream_seek, .close = stream_close};
	struct stream *s = calloc(1, sizeof(*s));
	FILE *file;

	if (s == NULL)
		return NULL;
	s->fd = interpose_open(AT_FDCWD, path, flags, 0666);
	if (s->fd < 0) {
		free(s);
		return NULL;
	}
	if ((file = fopencookie(s, mode, calls)) == NULL) {
		stream_close(s);
		return NULL;
	}
	/* for fileno: who writes a file by stream truncates and flushes it by number. glibc itself never uses the number of
	 * a stream with functions of its own. */
	file->_fileno = s->fd;
	return file;
}

/* fopen(3)'s modes as open's flags. */
static int
mode_flags(const char *mode)
{
	bool both = strchr(mode, '+') != NULL;
	int flags = mode[0] == 'r' ? 0 : mode[0] == 'w' ? O_CREAT | O_TRUNC : O_CREAT | O_APPEND;

	flags |= both ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
	if (strchr(mode, 'e') != NULL)
		flags |= O_CLOEXEC;
	if (strchr(mode, 'x') != NULL)
		flags |= O_EXCL;
	return flags;
}

FILE *
fopen(const char *path, const char *mode)
{
	static FILE *(*libc)(const char *, const char *);
	int flags = mode_flags(mode);
	struct file f;

	if (process.program != PROGRAM_PASSIVE) {
		fdtable_classify(path, flags, &f);
		if (f.class == FILE_TEMP || (f.class != FILE_NONE && (flags & O_ACCMODE) == O_RDONLY && f.view == VIEW_CRYPT))
			return stream_open(path, mode, flags);
		if (f.class != FILE_NONE && (flags & O_ACCMODE) != O_RDONLY) {
			interpose_refuse("fopen for writing", -1);
			return NULL;
		}
	}
	if (libc == NULL && (libc = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen")) == NULL) {
		errno = ENOSYS;
		return NULL;
	}
	return libc(path, mode);
}
