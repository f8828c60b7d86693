/* host: the machine that walcrypt runs on. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timex.h>
#include <unistd.h>

#include "ctl/doctor/checks.h"

/* What the proxy locks (proxy/process.c); the storage layer and walcrypt-ctl lock less. */
#define LOCKED_KB 4096u

/* The first line of a file that starts with prefix, without it; false when there is none. */
static bool
line_find(const char *path, const char *prefix, char *line, size_t len)
{
	FILE *file = fopen(path, "re");
	size_t n = strlen(prefix);
	bool found = false;

	while (file != NULL && !found && fgets(line, (int)len, file) != NULL)
		if ((found = strncmp(line, prefix, n) == 0)) {
			memmove(line, line + n, strlen(line + n) + 1);
			line[strcspn(line, "\n")] = '\0';
		}
	if (file != NULL)
		fclose(file);
	return found;
}

static bool
has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = text; (at = strstr(at, word)) != NULL; at += n)
		if ((at == text || at[-1] == ' ' || at[-1] == '\t') && (at[n] == '\0' || at[n] == ' '))
			return true;
	return false;
}

static void
check_processor(struct findings *f)
{
	char flags[8192];

	if (!line_find("/proc/cpuinfo", "flags", flags, sizeof(flags)) &&
	    !line_find("/proc/cpuinfo", "Features", flags, sizeof(flags)))
		finding(f, FINDING_NOTE, NULL, "/proc/cpuinfo does not tell what the processor can do");
	else if (!has_word(flags, "aes"))
		finding(f, FINDING_WARNING, "Expect a tenth of the speed; in a virtual machine, pass the host's processor on.",
		        "the processor has no AES instructions");
	else
		finding(f, FINDING_OK, NULL, "the processor has AES instructions%s",
		        has_word(flags, "vaes") ? ", four blocks wide (VAES)" : "");
}

static void
check_locked_memory(struct findings *f)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
		finding(f, FINDING_NOTE, NULL, "the limit of locked memory could not be read: %s", strerror(errno));
	else if (limit.rlim_cur == RLIM_INFINITY)
		finding(f, FINDING_OK, NULL, "memory may be locked without limit");
	else if (limit.rlim_cur / 1024 >= LOCKED_KB)
		finding(f, FINDING_OK, NULL, "%" PRIu64 " kB of memory may be locked (the proxy needs %u)",
		        (uint64_t)limit.rlim_cur / 1024, LOCKED_KB);
	else
		finding(f, geteuid() == 0 ? FINDING_NOTE : FINDING_PROBLEM,
		        "Set LimitMEMLOCK= of the service, or \"memlock\" in /etc/security/limits.conf.",
		        "%" PRIu64 " kB of memory may be locked here, and the proxy needs %u", (uint64_t)limit.rlim_cur / 1024,
		        LOCKED_KB);
}

/* Is a swap device (or the one that carries a swap file, which nobody can tell) encrypted? */
static bool
swap_is_safe(const char *device)
{
	char target[PATH_MAX], path[PATH_MAX + 64], uuid[128];
	const char *name = device;

	if (realpath(device, target) != NULL)
		name = target;
	if (strncmp(name, "/dev/", strlen("/dev/")) != 0)
		return false;
	name += strlen("/dev/");
	if (strncmp(name, "zram", 4) == 0)
		return true;
	return snprintf(path, sizeof(path), "/sys/block/%s/dm/uuid", name) < (int)sizeof(path) &&
	       line_find(path, "CRYPT-", uuid, sizeof(uuid));
}

static void
check_swap(struct findings *f)
{
	FILE *file = fopen("/proc/swaps", "re");
	char line[PATH_MAX + 128];
	unsigned n = 0, clear = 0;

	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		line[strcspn(line, " \t\n")] = '\0';
		if (line[0] != '/')
			continue;
		n++;
		if (swap_is_safe(line))
			continue;
		clear++;
		finding(f, FINDING_WARNING,
		        "Encrypt it (crypttab's \"swap\"), switch it off, or set walcrypt.lock_shared_memory on the servers.",
		        "pages of data in a server's memory may be written to \"%s\" in clear", line);
	}
	if (file == NULL)
		finding(f, FINDING_NOTE, NULL, "/proc/swaps could not be read: %s", strerror(errno));
	else
		fclose(file);
	if (file != NULL && clear == 0)
		finding(f, FINDING_OK, NULL, n == 0 ? "there is no swap" : "swap is encrypted or in memory");
}

/* Keys are left out of every core; what a server has in its shared memory is not. */
static void
check_cores(struct findings *f)
{
	char pattern[512];
	struct rlimit limit;

	if (!line_find("/proc/sys/kernel/core_pattern", "", pattern, sizeof(pattern)) ||
	    getrlimit(RLIMIT_CORE, &limit) != 0)
		return;
	if (limit.rlim_cur == 0 && pattern[0] != '|')
		finding(f, FINDING_OK, NULL, "servers started from here write no core");
	else
		finding(f, FINDING_NOTE, "Keep cores where nobody looks, or set LimitCORE=0 of the servers' services.",
		        "a core of a server would hold data, though no key, in clear (core_pattern \"%.100s\")", pattern);
}

static void
check_selinux(struct findings *f)
{
	char mode[16];

	if (!line_find("/sys/fs/selinux/enforce", "", mode, sizeof(mode)))
		finding(f, FINDING_OK, NULL, "SELinux is not here");
	else if (mode[0] == '0')
		finding(f, FINDING_NOTE, NULL, "SELinux is permissive");
	else
		finding(f, FINDING_WARNING,
		        "The server's domain needs execmod on the server program and to read the storage layer; look for "
		        "\"avc: denied\" in the audit log.",
		        "SELinux is enforcing");
}

static void
check_apparmor(struct findings *f)
{
	FILE *file = fopen("/sys/kernel/security/apparmor/profiles", "re");
	char line[512];
	unsigned found = 0;

	if (file == NULL && errno == ENOENT) {
		finding(f, FINDING_OK, NULL, "AppArmor is not here");
		return;
	}
	if (file == NULL) {
		finding(f, FINDING_NOTE, "Run doctor as root to see them.", "AppArmor's profiles could not be read: %s",
		        strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		if ((strstr(line, "postgres") == NULL && strstr(line, "walcrypt") == NULL) || strstr(line, "(enforce)") == NULL)
			continue;
		line[strcspn(line, "\n")] = '\0';
		found++;
		finding(
		    f, FINDING_WARNING,
		    "It must allow mapping libwalcrypt-storage.so (mr), LD_PRELOAD to pass (no 'Px'), and the key files (r).",
		    "AppArmor confines %s", line);
	}
	if (found == 0)
		finding(f, FINDING_OK, NULL, "no AppArmor profile confines PostgreSQL or walcrypt");
	fclose(file);
}

static void
check_clock(struct findings *f)
{
	struct timex t = {.modes = 0};

	if (adjtimex(&t) < 0)
		finding(f, FINDING_NOTE, NULL, "whether the clock is set could not be read: %s", strerror(errno));
	else if (t.status & STA_UNSYNC)
		finding(f, FINDING_WARNING,
		        "Run chrony or systemd-timesyncd: certificates, tokens and the audit log depend on the time.",
		        "nothing keeps the clock right");
	else
		finding(f, FINDING_OK, NULL, "the clock is kept right, to %ld ms", t.esterror / 1000);
}

void
doctor_host(struct findings *f)
{
	findings_area(f, "host");
	check_processor(f);
	check_locked_memory(f);
	check_swap(f);
	check_cores(f);
	check_selinux(f);
	check_apparmor(f);
	check_clock(f);
}
