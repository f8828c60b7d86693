#include "proxy/tunables.h"

#include <gnu/libc-version.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOVSB "glibc.cpu.x86_rep_movsb_threshold"

/* Before 2.40 glibc copies large blocks by `rep movsb` on AMD's Zen 3 and 4 as well, which there falls to 3 GB/s when
 * the target lies up to 63 bytes after the source within their pages (glibc bug 30994). So do libpq's copies of WAL
 * messages: its buffer and the message are large allocations, and the message's header puts them 11 bytes apart. */
static int
movsb_is_slow(void)
{
	int major = 0, minor = 0;

	if (sscanf(gnu_get_libc_version(), "%d.%d", &major, &minor) != 2 || major > 2 || minor >= 40)
		return 0;
#if defined(__x86_64__)
	return __builtin_cpu_is("amd");
#else
	return 0;
#endif
}

void
tunables_apply(char **argv)
{
	const char *now = getenv("GLIBC_TUNABLES");
	char path[PATH_MAX], value[4096];
	ssize_t n;

	if (!movsb_is_slow() || (now != NULL && strstr(now, MOVSB) != NULL))
		return;
	/* the program's own path, so that its name stays */
	if ((n = readlink("/proc/self/exe", path, sizeof(path) - 1)) <= 0)
		return;
	path[n] = '\0';
	n = snprintf(value, sizeof(value), "%s%s" MOVSB "=1073741824", now != NULL ? now : "",
	             now != NULL && *now != '\0' ? ":" : "");
	if (n < 0 || (size_t)n >= sizeof(value) || setenv("GLIBC_TUNABLES", value, 1) != 0)
		return;
	execv(path, argv);
}
