/*
 * raw: the system calls themselves. Everything inside the layer reads and writes through these, never through the libc
 * functions that the layer interposes; they need no set-up, so they also work before the layer's constructor ran.
 */
#ifndef STORAGE_RAW_H
#define STORAGE_RAW_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int
raw_openat(int dir, const char *path, int flags, mode_t mode)
{
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

static inline int
raw_open(const char *path, int flags, mode_t mode)
{
	return raw_openat(AT_FDCWD, path, flags, mode);
}

static inline int
raw_close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static inline ssize_t
raw_read(int fd, void *buf, size_t len)
{
	return syscall(SYS_read, fd, buf, len);
}

static inline ssize_t
raw_write(int fd, const void *buf, size_t len)
{
	return syscall(SYS_write, fd, buf, len);
}

static inline ssize_t
raw_pread(int fd, void *buf, size_t len, off_t off)
{
	return syscall(SYS_pread64, fd, buf, len, off);
}

static inline ssize_t
raw_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

static inline ssize_t
raw_preadv(int fd, const struct iovec *iov, int n, off_t off)
{
	return syscall(SYS_preadv, fd, iov, n, off, 0);
}

static inline off_t
raw_lseek(int fd, off_t off, int whence)
{
	return (off_t)syscall(SYS_lseek, fd, off, whence);
}

static inline int
raw_ftruncate(int fd, off_t len)
{
	return (int)syscall(SYS_ftruncate, fd, len);
}

static inline int
raw_rename(const char *from, const char *to)
{
	return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

static inline int
raw_unlink(const char *path)
{
	return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static inline int
raw_fdatasync(int fd)
{
	return (int)syscall(SYS_fdatasync, fd);
}

static inline int
raw_fsync(int fd)
{
	return (int)syscall(SYS_fsync, fd);
}

/* Until len bytes or the end of the file; -1 only when nothing could be read. */
static inline ssize_t
raw_pread_full(int fd, void *buf, size_t len, off_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = raw_pread(fd, (uint8_t *)buf + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return done > 0 ? (ssize_t)done : -1;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* All of it, or as many whole units as were written before an error; -1 when not even one was. */
static inline ssize_t
raw_pwrite_units(int fd, const void *buf, size_t len, off_t off, size_t unit)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = raw_pwrite(fd, (const uint8_t *)buf + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || n == 0) {
			if (n == 0)
				errno = ENOSPC;
			done -= done % unit;
			return done > 0 ? (ssize_t)done : -1;
		}
		done += (size_t)n;
	}
	return (ssize_t)done;
}

#endif
