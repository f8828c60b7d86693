/*
 * A module of the server for tests/t/106_storage_calls.pl: file calls that a server never makes, made in a backend.
 *
 *   calls(call text, one text, other text) returns text: "ok", or the error's name
 */
#include <postgres.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <unistd.h>

#include <fmgr.h>
#include <utils/builtins.h>

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(calls);

/* Is what a copy of the descriptor reads what the descriptor reads? */
static int
copy_reads_same(const char *path, int command)
{
	char one[64], other[64];
	int fd = open(path, O_RDONLY), copy = command < 0 ? dup(fd) : fcntl(fd, command, 100);
	int rc = fd < 0 || copy < 0 || pread(fd, one, sizeof(one), 0) != sizeof(one) ||
	         pread(copy, other, sizeof(other), 0) != sizeof(other) || memcmp(one, other, sizeof(one)) != 0;

	close(fd);
	close(copy);
	errno = EBADMSG;
	return rc ? -1 : 0;
}

/* After the file was closed in one go, its number is a pipe's. */
static int
number_is_free(const char *path, bool from)
{
	int fd = open(path, O_RDONLY), fds[2], rc;
	char text[6] = "";

	if (fd < 0 || (fd = fcntl(fd, F_DUPFD, 900)) < 0)
		return -1;
	if (from)
		closefrom(fd);
	else if (close_range((unsigned)fd, (unsigned)fd, 0) != 0)
		return -1;
	if (pipe(fds) != 0)
		return -1;
	/* not by way of the layer, which would notice */
	if (syscall(33 /* SYS_dup2 */, fds[0], fd) < 0)
		return -1;
	rc = write(fds[1], "hello", 5) == 5 && read(fd, text, 5) == 5 && strcmp(text, "hello") == 0 ? 0 : -1;
	errno = rc != 0 ? EBADMSG : 0;
	close(fds[0]);
	close(fds[1]);
	close(fd);
	return rc;
}

static int
write_stream(const char *path, const char *mode)
{
	FILE *f = fopen(path, mode);

	if (f == NULL)
		return -1;
	fputs("text", f);
	return fclose(f);
}

/* Does a stream opened like this read what the descriptor reads? */
static int
stream_reads_same(const char *path, const char *mode)
{
	FILE *f = fopen(path, mode);
	int fd = open(path, O_RDONLY), rc;
	char one[64], other[64];

	rc = f == NULL || fd < 0 || fread(one, 1, sizeof(one), f) != sizeof(one) ||
	     pread(fd, other, sizeof(other), 0) != sizeof(other) || memcmp(one, other, sizeof(one)) != 0;
	if (f != NULL)
		fclose(f);
	close(fd);
	errno = EBADMSG;
	return rc ? -1 : 0;
}

static int
open_at(const char *dir, const char *name)
{
	DIR *d = opendir(dir);
	int fd = d != NULL ? openat(dirfd(d), name, O_RDONLY) : -1, save = errno;

	if (d != NULL)
		closedir(d);
	if (fd >= 0)
		close(fd);
	errno = save;
	return fd < 0 ? -1 : 0;
}

/* Text of three units, cut to a length by name: is what is left the beginning? */
static int
truncated_text(const char *path)
{
	static char text[3 * 8192], back[3 * 8192];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), rc = -1;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i % 26);
	if (fd >= 0 && write(fd, text, sizeof(text)) == sizeof(text) && truncate(path, 10001) == 0 &&
	    pread(fd, back, sizeof(back), 0) == 10001 && memcmp(text, back, 10001) == 0)
		rc = 0;
	errno = EBADMSG;
	close(fd);
	unlink(path);
	return rc;
}

/* As of any file: an offset below zero is an error. */
static int
before_beginning(const char *path, bool write)
{
	char text[100] = "x";
	int fd = open(path, O_RDWR | O_CREAT, 0600), rc = fd < 0 ? -1 : 0, failure;

	if (rc == 0 && (write ? pwrite(fd, text, sizeof(text), -50) : pread(fd, text, sizeof(text), -50)) < 0)
		rc = -1;
	failure = errno;
	close(fd);
	unlink(path);
	errno = failure;
	return rc;
}

static int
call(const char *what, const char *one, const char *other)
{
	if (strcmp(what, "pread before") == 0 || strcmp(what, "pwrite before") == 0)
		return before_beginning(one, strcmp(what, "pwrite before") == 0);
	if (strcmp(what, "rename") == 0)
		return rename(one, other);
	if (strcmp(what, "link") == 0)
		return link(one, other);
	if (strcmp(what, "openat") == 0)
		return open_at(one, other);
	if (strcmp(what, "fopen") == 0)
		return write_stream(one, other);
	if (strcmp(what, "fread") == 0)
		return stream_reads_same(one, other);
	if (strcmp(what, "dup") == 0)
		return copy_reads_same(one, -1);
	if (strcmp(what, "fcntl") == 0)
		return copy_reads_same(one, F_DUPFD_CLOEXEC);
	if (strcmp(what, "close_range") == 0)
		return number_is_free(one, false);
	if (strcmp(what, "closefrom") == 0)
		return number_is_free(one, true);
	if (strcmp(what, "truncate") == 0)
		return truncated_text(one);
	elog(ERROR, "unknown call %s", what);
}

Datum
calls(PG_FUNCTION_ARGS)
{
	char *what = text_to_cstring(PG_GETARG_TEXT_PP(0)), *one = text_to_cstring(PG_GETARG_TEXT_PP(1)),
	     *other = text_to_cstring(PG_GETARG_TEXT_PP(2));
	int rc = call(what, one, other);

	PG_RETURN_TEXT_P(cstring_to_text(rc == 0 ? "ok" : strerrorname_np(errno)));
}
