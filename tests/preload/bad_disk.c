/* A disk that does not give the file that BAD_DISK names, played by a library preloaded into walcrypt-ctl, which reads by syscall(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "syscall.h"

static long
on_syscall(long call, const long a[static 6])
{
	const char *bad = getenv("BAD_DISK");
	char link[64], path[4096];
	ssize_t n;

	if (call == SYS_pread64 && bad != NULL) {
		snprintf(link, sizeof(link), "/proc/self/fd/%ld", a[0]);
		n = readlink(link, path, sizeof(path) - 1);
		if (n > 0 && (size_t)n == strlen(bad) && memcmp(path, bad, (size_t)n) == 0) {
			errno = EIO;
			return -1;
		}
	}
	return pass(call, a);
}
