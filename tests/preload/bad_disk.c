/*
 * A disk that does not give what is in files, played by a library preloaded into walcrypt-ctl, which reads by
 * syscall(): of the files whose paths end as BAD_DISK says it gives errors, or as BAD_DISK_GIVES says nothing ("short")
 * or something else ("changed").
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "syscall.h"

static bool
is_bad(long fd)
{
	const char *bad = getenv("BAD_DISK");
	char link[64], path[4096];
	ssize_t n, len;

	if (bad == NULL)
		return false;
	len = (ssize_t)strlen(bad);
	snprintf(link, sizeof(link), "/proc/self/fd/%ld", fd);
	n = readlink(link, path, sizeof(path) - 1);
	return n >= len && memcmp(path + n - len, bad, (size_t)len) == 0;
}

static long
on_syscall(long call, const long a[static 6])
{
	const char *gives = getenv("BAD_DISK_GIVES");
	long result;

	if (call != SYS_pread64 || !is_bad(a[0]))
		return pass(call, a);
	if (gives == NULL) {
		errno = EIO;
		return -1;
	}
	if (strcmp(gives, "short") == 0)
		return 0;
	if ((result = pass(call, a)) > 0)
		((unsigned char *)a[1])[result / 2] ^= 1;
	return result;
}
