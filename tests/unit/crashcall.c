#include "tests/unit/crashcall.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNSYNCED_MAX 64

static int left; /* calls until the end; 0: not counting */
static char unsynced[UNSYNCED_MAX][PATH_MAX];
static size_t nunsynced;

static void
count(void)
{
	if (left == 0 || --left > 0)
		return;
	for (size_t i = 0; i < nunsynced; i++)
		if (syscall(SYS_truncate, unsynced[i], 0) != 0 && errno != ENOENT)
			_exit(78);
	_exit(CRASHCALL_STATUS);
}

/* The regular file behind a descriptor; 0 when it is none. */
static int
path_of(int fd, char path[static PATH_MAX])
{
	char link_path[64];
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		return 0;
	snprintf(link_path, sizeof(link_path), "/proc/self/fd/%d", fd);
	n = readlink(link_path, path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static size_t
find(const char *path)
{
	size_t i = 0;

	while (i < nunsynced && strcmp(unsynced[i], path) != 0)
		i++;
	return i;
}

ssize_t
write(int fd, const void *data, size_t len)
{
	char path[PATH_MAX];

	if (left > 0 && path_of(fd, path)) {
		count();
		if (find(path) == nunsynced && nunsynced < UNSYNCED_MAX)
			memcpy(unsynced[nunsynced++], path, sizeof(path));
	}
	return syscall(SYS_write, fd, data, len);
}

int
fsync(int fd)
{
	char path[PATH_MAX];
	size_t i;

	count();
	if (path_of(fd, path) && (i = find(path)) < nunsynced)
		memcpy(unsynced[i], unsynced[--nunsynced], sizeof(path));
	return (int)syscall(SYS_fsync, fd);
}

/* A file that was not fsynced does not become so by another name. */
static void
renamed(const char *from, const char *to)
{
	size_t len = strlen(from);

	for (size_t i = 0; i < nunsynced; i++)
		if (strncmp(unsynced[i], from, len) == 0 && (unsynced[i][len] == '\0' || unsynced[i][len] == '/')) {
			char rest[PATH_MAX];

			memcpy(rest, unsynced[i] + len, strlen(unsynced[i] + len) + 1);
			snprintf(unsynced[i], PATH_MAX, "%.2000s%.2000s", to, rest);
		}
}

int
rename(const char *from, const char *to)
{
	count();
	if (syscall(SYS_rename, from, to) != 0)
		return -1;
	renamed(from, to);
	return 0;
}

int
link(const char *from, const char *to)
{
	count();
	return (int)syscall(SYS_link, from, to);
}

int
unlink(const char *path)
{
	count();
	return (int)syscall(SYS_unlink, path);
}

int
unlinkat(int dir, const char *path, int flags)
{
	count();
	return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int
rmdir(const char *path)
{
	count();
	return (int)syscall(SYS_rmdir, path);
}

int
mkdir(const char *path, mode_t mode)
{
	count();
	return (int)syscall(SYS_mkdir, path, mode);
}

int
crashcall_run(int n, int (*work)(void *arg), void *arg)
{
	int status;
	pid_t pid;

	fflush(stdout);
	if ((pid = fork()) == 0) {
		left = n;
		_exit(work(arg));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}
