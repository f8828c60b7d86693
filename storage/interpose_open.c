/* Files that are opened, duplicated and closed. */
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
INTERPOSED int fcntl(int fd, int command, ...);
INTERPOSED_ALIAS("fcntl") int fcntl64(int fd, int command, ...);
INTERPOSED int close_range(unsigned first, unsigned last, int flags);
INTERPOSED void closefrom(int first);

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

/* Files of ours are opened by the names that the server gives them, and nobody opens them relative to a directory. */
static int
open_relative(int dir, const char *path, int flags, mode_t mode)
{
	char link[32], full[PATH_MAX];
	struct file f;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	n = readlink(link, full, sizeof(full) - 1);
	if (n > 0 && (size_t)n + 1 + strlen(path) < sizeof(full)) {
		full[n] = '/';
		memcpy(full + n + 1, path, strlen(path) + 1);
		fdtable_classify(full, flags, &f);
		if (f.class != FILE_NONE)
			return interpose_refuse("openat relative to a directory", dir);
	}
	n = raw_openat(dir, path, flags, mode);
	if (n >= 0)
		fdtable_clear((int)n);
	return (int)n;
}

int
interpose_open(int dir, const char *path, int flags, mode_t mode)
{
	struct file f;
	int fd;

	if (process.program == PROGRAM_PASSIVE || path == NULL)
		return raw_openat(dir, path, flags, mode);
	if (dir != AT_FDCWD && path[0] != '/')
		return open_relative(dir, path, flags, mode);
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

int
fcntl(int fd, int command, ...)
{
	va_list ap;
	long arg;

	va_start(ap, command);
	arg = va_arg(ap, long);
	va_end(ap);
	if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
		return copied(fd, (int)syscall(SYS_fcntl, fd, command, arg));
	return (int)syscall(SYS_fcntl, fd, command, arg);
}

/* What is closed must be forgotten: its number will be that of a socket or pipe next. */
static void
forget_range(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < FDTABLE_MAX; fd++)
		fdtable_clear((int)fd);
}

int
close_range(unsigned first, unsigned last, int flags)
{
	int rc = (int)syscall(SYS_close_range, first, last, flags);

	if (rc == 0 && (flags & CLOSE_RANGE_CLOEXEC) == 0)
		forget_range(first, last);
	return rc;
}

void
closefrom(int first)
{
	unsigned from = first > 0 ? (unsigned)first : 0;

	if (close_range(from, ~0u, 0) == 0)
		return;
	for (unsigned fd = from; fd < FDTABLE_MAX; fd++) /* before Linux 5.9 */
		close((int)fd);
}
