#include "common/fileio.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

static ssize_t
read_full(int fd, uint8_t *data, size_t len, bool positioned, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		long n = positioned ? syscall(SYS_pread64, fd, data + done, len - done, offset + done)
		                    : syscall(SYS_read, fd, data + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t
fileio_read(int fd, void *data, size_t len)
{
	return read_full(fd, data, len, false, 0);
}

ssize_t
fileio_pread(int fd, void *data, size_t len, uint64_t offset)
{
	return read_full(fd, data, len, true, offset);
}

int
fileio_pwrite(int fd, const void *data, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		long n = syscall(SYS_pwrite64, fd, (const uint8_t *)data + done, len - done, offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n == 0)
				errno = ENOSPC;
			return -1;
		}
		done += (size_t)n;
	}
	return 0;
}
