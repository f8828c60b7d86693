/* Files that are opened, duplicated and closed. */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "storage/backupcheck.h"
#include "storage/interpose.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/unlock.h"
#include "walcrypt/pgfile.h"

INTERPOSED int open(const char *path, int flags, ...);
INTERPOSED int openat(int dir, const char *path, int flags, ...);
INTERPOSED int creat(const char *path, mode_t mode);
INTERPOSED_ALIAS("open") int open64(const char *path, int flags, ...);
INTERPOSED_ALIAS("openat") int openat64(int dir, const char *path, int flags, ...);
INTERPOSED_ALIAS("creat") int creat64(const char *path, mode_t mode);
/* what the headers make of open when they check its arguments */
INTERPOSED int __open_2(const char *path, int flags);
INTERPOSED int __openat_2(int dir, const char *path, int flags);
INTERPOSED_ALIAS("__open_2") int __open64_2(const char *path, int flags);
INTERPOSED_ALIAS("__openat_2") int __openat64_2(int dir, const char *path, int flags);
INTERPOSED int close(int fd);
INTERPOSED int dup(int fd);
INTERPOSED int dup2(int from, int to);
INTERPOSED int dup3(int from, int to, int flags);
INTERPOSED FILE *fopen(const char *path, const char *mode);
INTERPOSED_ALIAS("fopen") FILE *fopen64(const char *path, const char *mode);

/* Tuples would lie in clear files that nobody looks after. */
static int
refuse_mmap_segments(void)
{
	struct err err;

	err_set(&err, ERR_REFUSED, "dynamic_shared_memory_type = mmap cannot be used with the storage layer");
	err_detail(&err, "Rows that parallel workers exchange would lie in files in clear.");
	err_hint(&err, "Use \"posix\" or \"sysv\".");
	log_err(LOG_ERROR, &err, NULL);
	errno = EPERM;
	return -1;
}

/* pg_rewind writes the source's files over the target's, with O_WRONLY; the target keeps its own keys. */
static bool
is_protected(const char *path)
{
	struct pgfile pf;

	pgfile_parse_suffix(path, &pf);
	return pf.kind == PGFILE_KEYDIR;
}

int
interpose_open(int dir, const char *path, int flags, mode_t mode)
{
	struct file f;
	int fd;

	if (process.program == PROGRAM_PASSIVE || path == NULL || (dir != AT_FDCWD && path[0] != '/'))
		return raw_openat(dir, path, flags, mode);
	if (process.program == PROGRAM_SERVER) {
		if ((flags & O_CREAT) != 0 && strcmp(path, "postmaster.pid") == 0)
			unlock_server();
		if (strncmp(path, "pg_dynshmem/mmap.", 17) == 0)
			return refuse_mmap_segments();
	}
	if (process.rewind && (flags & O_ACCMODE) == O_WRONLY && is_protected(path))
		return raw_open("/dev/null", O_WRONLY | (flags & O_CLOEXEC), 0);
	fdtable_classify(path, flags, &f);
	if (f.class == FILE_TEMP) {
		/* units are read, changed and written; where the end is, is ours to say */
		f.append = (flags & O_APPEND) != 0;
		flags &= ~O_APPEND;
		if ((flags & O_ACCMODE) == O_WRONLY)
			flags = (flags & ~O_ACCMODE) | O_RDWR;
	}
	fd = raw_openat(dir, path, flags, mode);
	if (fd < 0)
		return fd;
	fdtable_clear(fd);
	if (f.class == FILE_NONE)
		return fd;
	if (fd >= FDTABLE_MAX) {
		raw_close(fd);
		errno = EMFILE;
		return -1;
	}
	fdtable[fd] = f;
	if (f.class == FILE_RELATION && f.view == VIEW_RAW)
		backupcheck_open(fd, path);
	return fd;
}

static mode_t
mode_of(int flags, va_list ap)
{
	return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? (mode_t)va_arg(ap, int) : 0;
}

int
open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return interpose_open(AT_FDCWD, path, flags, mode);
}

int
openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return interpose_open(dir, path, flags, mode);
}

int
creat(const char *path, mode_t mode)
{
	return interpose_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

int
__open_2(const char *path, int flags)
{
	return interpose_open(AT_FDCWD, path, flags, 0);
}

int
__openat_2(int dir, const char *path, int flags)
{
	return interpose_open(dir, path, flags, 0);
}

int
close(int fd)
{
	backupcheck_close(fd);
	fdtable_clear(fd);
	return raw_close(fd);
}

/* The copy is what the original is. */
static int
copied(int from, int to)
{
	if (to < 0)
		return to;
	fdtable_clear(to);
	if (fdtable_file(from) == NULL)
		return to;
	if (to >= FDTABLE_MAX) {
		raw_close(to);
		errno = EMFILE;
		return -1;
	}
	fdtable[to] = fdtable[from];
	return to;
}

int
dup(int fd)
{
	return copied(fd, (int)syscall(SYS_dup, fd));
}

int
dup2(int from, int to)
{
	if (from == to)
		return fcntl(from, F_GETFD) < 0 ? -1 : to;
	return copied(from, (int)syscall(SYS_dup3, from, to, 0));
}

int
dup3(int from, int to, int flags)
{
	return copied(from, (int)syscall(SYS_dup3, from, to, flags));
}

/* A stream on an encrypted file, read-only (pg_read_binary_file, which pg_rewind's source is asked with). */
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
stream_open(const char *path, const char *mode)
{
	cookie_io_functions_t calls = {.read = stream_read, .seek = stream_seek, .close = stream_close};
	struct stream *s = calloc(1, sizeof(*s));
	FILE *file;

	if (s == NULL)
		return NULL;
	s->fd = interpose_open(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (s->fd < 0) {
		free(s);
		return NULL;
	}
	if ((file = fopencookie(s, mode, calls)) == NULL)
		stream_close(s);
	return file;
}

FILE *
fopen(const char *path, const char *mode)
{
	static FILE *(*libc)(const char *, const char *);
	struct file f;

	if (process.program != PROGRAM_PASSIVE && mode[0] == 'r' && strchr(mode, '+') == NULL) {
		fdtable_classify(path, O_RDONLY, &f);
		if (f.class != FILE_NONE && f.view == VIEW_CRYPT)
			return stream_open(path, mode);
	}
	if (libc == NULL && (libc = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen")) == NULL) {
		errno = ENOSYS;
		return NULL;
	}
	return libc(path, mode);
}
