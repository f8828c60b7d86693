/* Bytes that are read and written. */
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "storage/interpose.h"
#include "storage/raw.h"
#include "storage/relfile.h"
#include "storage/tempfile.h"
#include "storage/walfile.h"

INTERPOSED ssize_t read(int fd, void *buf, size_t len);
INTERPOSED ssize_t write(int fd, const void *buf, size_t len);
INTERPOSED ssize_t pread(int fd, void *buf, size_t len, off_t off);
INTERPOSED ssize_t pwrite(int fd, const void *buf, size_t len, off_t off);
INTERPOSED ssize_t readv(int fd, const struct iovec *iov, int n);
INTERPOSED ssize_t writev(int fd, const struct iovec *iov, int n);
INTERPOSED ssize_t preadv(int fd, const struct iovec *iov, int n, off_t off);
INTERPOSED ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off);
INTERPOSED ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t off, int flags);
INTERPOSED ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags);
INTERPOSED_ALIAS("pread") ssize_t pread64(int fd, void *buf, size_t len, off_t off);
INTERPOSED_ALIAS("pwrite") ssize_t pwrite64(int fd, const void *buf, size_t len, off_t off);
INTERPOSED_ALIAS("preadv") ssize_t preadv64(int fd, const struct iovec *iov, int n, off_t off);
INTERPOSED_ALIAS("pwritev") ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t off);
INTERPOSED_ALIAS("preadv2") ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off_t off, int flags);
INTERPOSED_ALIAS("pwritev2") ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off_t off, int flags);
/* what the headers make of read and pread when they check sizes; PostgreSQL 15 imports the first */
INTERPOSED ssize_t __read_chk(int fd, void *buf, size_t len, size_t size);
INTERPOSED ssize_t __pread_chk(int fd, void *buf, size_t len, off_t off, size_t size);
INTERPOSED_ALIAS("__pread_chk") ssize_t __pread64_chk(int fd, void *buf, size_t len, off_t off, size_t size);
INTERPOSED int ftruncate(int fd, off_t len);
INTERPOSED_ALIAS("ftruncate") int ftruncate64(int fd, off_t len);

/* Where bytes are encrypted to: the server's own memory is never changed. Aligned for O_DIRECT, as large as a round of
 * its vectored writes, small enough to be in a core's second-level cache when the kernel copies it. */
#define STAGE_LEN (256 * 1024)
static uint8_t stage[STAGE_LEN] __attribute__((aligned(4096)));

ssize_t
interpose_pread(int fd, struct file *f, void *buf, size_t len, off_t off)
{
	switch ((enum file_class)f->class) {
	case FILE_RELATION:
		return relfile_read(fd, f, buf, len, off);
	case FILE_WAL:
	case FILE_WAL_TEMP:
		return walfile_read(fd, f, buf, len, off);
	case FILE_TEMP:
		return tempfile_read(fd, f, buf, len, off);
	case FILE_NONE:
		break;
	}
	return raw_pread(fd, buf, len, off);
}

/* data is the server's own memory or the stage. */
static ssize_t
write_some(int fd, struct file *f, const uint8_t *data, size_t len, off_t off)
{
	switch ((enum file_class)f->class) {
	case FILE_RELATION:
		return relfile_write(fd, f, data, stage, len, off);
	case FILE_WAL:
	case FILE_WAL_TEMP:
		return walfile_write(fd, f, data, stage, len, off);
	case FILE_TEMP:
		return tempfile_write(fd, f, data, len, off);
	case FILE_NONE:
		break;
	}
	return raw_pwrite(fd, data, len, off);
}

/* Bytes [from, from + len) of what iov describes: in place when they lie together, else gathered in the stage. */
static const uint8_t *
gather(const struct iovec *iov, int n, size_t from, size_t len)
{
	size_t done = 0;

	for (int i = 0; i < n && done < len; i++) {
		const uint8_t *at = iov[i].iov_base;
		size_t take;

		if (from >= iov[i].iov_len) {
			from -= iov[i].iov_len;
			continue;
		}
		take = iov[i].iov_len - from;
		if (take >= len && done == 0)
			return at + from;
		if (take > len - done)
			take = len - done;
		memcpy(stage + done, at + from, take);
		done += take;
		from = 0;
	}
	return stage;
}

ssize_t
interpose_pwritev(int fd, struct file *f, const struct iovec *iov, int n, off_t off)
{
	size_t total = 0, done = 0;

	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	if (total > SSIZE_MAX) {
		errno = EINVAL;
		return -1;
	}
	while (done < total) {
		size_t len = total - done < STAGE_LEN ? total - done : STAGE_LEN;
		ssize_t wrote = write_some(fd, f, gather(iov, n, done, len), len, off + (off_t)done);

		if (wrote < 0)
			return done > 0 ? (ssize_t)done : -1;
		done += (size_t)wrote;
		if ((size_t)wrote < len)
			break;
	}
	return (ssize_t)done;
}

static bool
whole_pages(const struct iovec *iov, int n, off_t off)
{
	if (off < 0 || off % PAGE_LEN != 0)
		return false;
	for (int i = 0; i < n; i++)
		if (iov[i].iov_len % PAGE_LEN != 0)
			return false;
	return true;
}

static ssize_t
preadv_at(int fd, struct file *f, const struct iovec *iov, int n, off_t off)
{
	size_t done = 0;

	if (f->class == FILE_RELATION && whole_pages(iov, n, off))
		return relfile_readv(fd, f, iov, n, off);

	for (int i = 0; i < n; i++) {
		ssize_t got = interpose_pread(fd, f, iov[i].iov_base, iov[i].iov_len, off + (off_t)done);

		if (got < 0)
			return done > 0 ? (ssize_t)done : -1;
		done += (size_t)got;
		if ((size_t)got < iov[i].iov_len)
			break;
	}
	return (ssize_t)done;
}

/* The file's own position, around a call that says where. */
static off_t
position(int fd, const struct file *f, bool write)
{
	return raw_lseek(fd, 0, write && f->append ? SEEK_END : SEEK_CUR);
}

static ssize_t
advance(int fd, off_t from, ssize_t n)
{
	return n > 0 && raw_lseek(fd, from + n, SEEK_SET) < 0 ? -1 : n;
}

ssize_t
read(int fd, void *buf, size_t len)
{
	struct file *f = fdtable_file(fd);
	off_t pos;

	if (f == NULL)
		return raw_read(fd, buf, len);
	pos = position(fd, f, false);
	return pos < 0 ? -1 : advance(fd, pos, interpose_pread(fd, f, buf, len, pos));
}

ssize_t
pread(int fd, void *buf, size_t len, off_t off)
{
	struct file *f = fdtable_file(fd);

	return f == NULL ? raw_pread(fd, buf, len, off) : interpose_pread(fd, f, buf, len, off);
}

ssize_t
write(int fd, const void *buf, size_t len)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct file *f = fdtable_file(fd);
	off_t pos;

	if (f == NULL)
		return raw_write(fd, buf, len);
	pos = position(fd, f, true);
	return pos < 0 ? -1 : advance(fd, pos, interpose_pwritev(fd, f, &iov, 1, pos));
}

ssize_t
pwrite(int fd, const void *buf, size_t len, off_t off)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
	struct file *f = fdtable_file(fd);

	return f == NULL ? raw_pwrite(fd, buf, len, off) : interpose_pwritev(fd, f, &iov, 1, off);
}

ssize_t
readv(int fd, const struct iovec *iov, int n)
{
	struct file *f = fdtable_file(fd);
	off_t pos;

	if (f == NULL)
		return syscall(SYS_readv, fd, iov, n);
	pos = position(fd, f, false);
	return pos < 0 ? -1 : advance(fd, pos, preadv_at(fd, f, iov, n, pos));
}

ssize_t
writev(int fd, const struct iovec *iov, int n)
{
	struct file *f = fdtable_file(fd);
	off_t pos;

	if (f == NULL)
		return syscall(SYS_writev, fd, iov, n);
	pos = position(fd, f, true);
	return pos < 0 ? -1 : advance(fd, pos, interpose_pwritev(fd, f, iov, n, pos));
}

ssize_t
preadv(int fd, const struct iovec *iov, int n, off_t off)
{
	struct file *f = fdtable_file(fd);

	return f == NULL ? syscall(SYS_preadv, fd, iov, n, off, 0) : preadv_at(fd, f, iov, n, off);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
	struct file *f = fdtable_file(fd);

	return f == NULL ? syscall(SYS_pwritev, fd, iov, n, off, 0) : interpose_pwritev(fd, f, iov, n, off);
}

/* flags are hints and durability of one call; on our files only calls without them are known to be made */
ssize_t
preadv2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	if (fdtable_file(fd) == NULL)
		return syscall(SYS_preadv2, fd, iov, n, off, 0, flags);
	return flags != 0  ? interpose_refuse("preadv2 with flags", fd)
	       : off == -1 ? readv(fd, iov, n)
	                   : preadv(fd, iov, n, off);
}

ssize_t
pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	if (fdtable_file(fd) == NULL)
		return syscall(SYS_pwritev2, fd, iov, n, off, 0, flags);
	return flags != 0  ? interpose_refuse("pwritev2 with flags", fd)
	       : off == -1 ? writev(fd, iov, n)
	                   : pwritev(fd, iov, n, off);
}

ssize_t
__read_chk(int fd, void *buf, size_t len, size_t size)
{
	if (len > size)
		abort();
	return read(fd, buf, len);
}

ssize_t
__pread_chk(int fd, void *buf, size_t len, off_t off, size_t size)
{
	if (len > size)
		abort();
	return pread(fd, buf, len, off);
}

int
ftruncate(int fd, off_t len)
{
	struct file *f = fdtable_file(fd);

	return f != NULL && f->class == FILE_TEMP && len >= 0 ? tempfile_truncate(fd, f, len) : raw_ftruncate(fd, len);
}
