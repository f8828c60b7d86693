/* A file system with 3 GB free, played by a library preloaded into walcrypt-ctl: how much the machine's has is not the test's business. */
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

int
statvfs(const char *path, struct statvfs *s)
{
	struct statfs fs;

	if (syscall(SYS_statfs, path, &fs) != 0)
		return -1;
	*s = (struct statvfs){.f_bsize = 4096, .f_frsize = 4096, .f_bavail = (3UL << 30) / 4096, .f_namemax = 255};
	return 0;
}
