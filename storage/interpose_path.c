/* Names that change, and roads round the layer. */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "storage/interpose.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/sharedlock.h"
#include "storage/tempfile.h"
#include "storage/walfile.h"
#include "walcrypt/pgfile.h"

INTERPOSED int rename(const char *from, const char *to);
INTERPOSED int truncate(const char *path, off_t len);
INTERPOSED_ALIAS("truncate") int truncate64(const char *path, off_t len);
INTERPOSED int posix_fallocate(int fd, off_t off, off_t len);
INTERPOSED_ALIAS("posix_fallocate") int posix_fallocate64(int fd, off_t off, off_t len);
INTERPOSED int link(const char *from, const char *to);
INTERPOSED int unlink(const char *path);
INTERPOSED int rmdir(const char *path);
INTERPOSED int mkdir(const char *path, mode_t mode);
INTERPOSED int ioctl(int fd, unsigned long request, ...);
INTERPOSED void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
INTERPOSED_ALIAS("mmap") void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off);
INTERPOSED void *shmat(int id, const void *addr, int flags);
INTERPOSED ssize_t sendfile(int out, int in, off_t *off, size_t len);
INTERPOSED_ALIAS("sendfile") ssize_t sendfile64(int out, int in, off_t *off, size_t len);
INTERPOSED ssize_t copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags);
INTERPOSED ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags);

#define REQUEST_FICLONE 0x40049409ul
#define REQUEST_FICLONERANGE 0x4020940dul
#define COPY_LEN (256 * 1024)

int
interpose_refuse(const char *call, int fd)
{
	struct err err;

	err_set(&err, ERR_REFUSED, "%s is not possible on an encrypted file", call);
	err_hint(&err, "Its bytes mean something only at their own place; copy the file by reading and writing.");
	process_fail(&err, fd);
	errno = ENOTSUP;
	return -1;
}

static void
classify(const char *path, struct file *f)
{
	if (process.program == PROGRAM_PASSIVE)
		memset(f, 0, sizeof(*f));
	else
		fdtable_classify(path, O_RDONLY, f);
}

/* What is read under another name would be decrypted with another tweak. */
int
rename(const char *from, const char *to)
{
	struct pgfile old, new;
	struct file a, b;

	classify(from, &a);
	classify(to, &b);
	if (!fdtable_same_place(&a, &b))
		return interpose_refuse("renaming to or from the name of a relation or temporary file", -1);
	if (process.program == PROGRAM_SERVER && b.class == FILE_WAL) {
		pgfile_parse_suffix(from, &old);
		pgfile_parse_suffix(to, &new);
		if (old.kind == PGFILE_WAL_RECOVERY && new.kind == PGFILE_WAL && walfile_restored(from, to) != 0)
			return -1;
	}
	return raw_rename(from, to);
}

/* Two names of one file would be read under two keys (pg_upgrade --link) or two tweaks. */
int
link(const char *from, const char *to)
{
	struct file a, b;

	classify(from, &a);
	classify(to, &b);
	if (a.class == FILE_RELATION || b.class == FILE_RELATION || a.class == FILE_TEMP || b.class == FILE_TEMP)
		return interpose_refuse("a hard link", -1);
	return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Relation files and WAL are cut at pages, where nothing has to be written anew. */
int
truncate(const char *path, off_t len)
{
	struct file f;
	int fd, rc, save;

	classify(path, &f);
	if (f.class != FILE_TEMP || len < 0)
		return (int)syscall(SYS_truncate, path, len);
	if ((fd = raw_open(path, O_RDWR | O_CLOEXEC, 0)) < 0)
		return -1;
	rc = tempfile_truncate(fd, &f, len);
	save = errno;
	raw_close(fd);
	errno = save;
	return rc;
}

/* Zeros that the kernel puts into a file are zeros in relation files and WAL, and garbage in others. */
int
posix_fallocate(int fd, off_t off, off_t len)
{
	static int (*libc)(int, off_t, off_t);
	struct file *f = fdtable_file(fd);

	if (f != NULL && f->class == FILE_TEMP)
		return EOPNOTSUPP;
	/* where the file system cannot, libc writes zeros */
	if (libc == NULL && (libc = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate")) == NULL)
		return ENOSYS;
	return libc(fd, off, len);
}

/* pg_rewind makes the target's files what the source has; keys stay the target's own. */
static bool
keeps_keys(const char *path)
{
	struct pgfile pf;

	if (!process.rewind)
		return false;
	pgfile_parse_suffix(path, &pf);
	return pf.kind == PGFILE_KEYDIR;
}

int
unlink(const char *path)
{
	return keeps_keys(path) ? 0 : raw_unlink(path);
}

int
rmdir(const char *path)
{
	return keeps_keys(path) ? 0 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

int
mkdir(const char *path, mode_t mode)
{
	return keeps_keys(path) ? 0 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int
ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == REQUEST_FICLONE || request == REQUEST_FICLONERANGE) {
		int from = request == REQUEST_FICLONE ? (int)(intptr_t)arg : (int)*(const int64_t *)arg;

		if (fdtable_file(fd) != NULL || fdtable_file(from) != NULL)
			return interpose_refuse("a clone", fd);
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

void *
mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	void *map;

	if (fd >= 0 && (flags & MAP_ANONYMOUS) == 0 && fdtable_file(fd) != NULL) {
		interpose_refuse("mmap", fd);
		errno = ENODEV;
		return MAP_FAILED;
	}
	map = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
	if (map != MAP_FAILED && (flags & MAP_SHARED) != 0 && (prot & PROT_WRITE) != 0 &&
	    sharedlock_mapped(map, len) != 0) {
		munmap(map, len);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return map;
}

void *
shmat(int id, const void *addr, int flags)
{
	void *map = (void *)syscall(SYS_shmat, id, addr, flags);
	struct shmid_ds ds;

	if (map == (void *)-1 || shmctl(id, IPC_STAT, &ds) != 0)
		return map;
	if (sharedlock_mapped(map, ds.shm_segsz) != 0) {
		shmdt(map);
		errno = ENOMEM;
		return (void *)-1;
	}
	return map;
}

ssize_t
sendfile(int out, int in, off_t *off, size_t len)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return interpose_refuse("sendfile", fdtable_file(in) != NULL ? in : out);
	return syscall(SYS_sendfile, out, in, off, len);
}

static ssize_t
read_at(int fd, void *buf, size_t len, off_t off)
{
	struct file *f = fdtable_file(fd);

	return f != NULL ? interpose_pread(fd, f, buf, len, off) : raw_pread(fd, buf, len, off);
}

static ssize_t
write_at(int fd, void *buf, size_t len, off_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct file *f = fdtable_file(fd);

	return f != NULL ? interpose_pwritev(fd, f, &iov, 1, off) : raw_pwrite(fd, buf, len, off);
}

/* Some of what was asked for, as the call may; a page is another ciphertext at its new place, so it goes through our
 * hands. */
static ssize_t
copy_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t len)
{
	static uint8_t buf[COPY_LEN] __attribute__((aligned(4096)));
	off_t from = in_off != NULL ? *in_off : raw_lseek(in, 0, SEEK_CUR);
	off_t to = out_off != NULL ? *out_off : raw_lseek(out, 0, SEEK_CUR);
	ssize_t n;

	if (from < 0 || to < 0)
		return -1;
	n = read_at(in, buf, len < sizeof(buf) ? len : sizeof(buf), from);
	if (n > 0)
		n = write_at(out, buf, (size_t)n, to);
	if (n <= 0)
		return n;
	if (in_off != NULL)
		*in_off = from + n;
	else if (raw_lseek(in, from + n, SEEK_SET) < 0)
		return -1;
	if (out_off != NULL)
		*out_off = to + n;
	else if (raw_lseek(out, to + n, SEEK_SET) < 0)
		return -1;
	return n;
}

ssize_t
copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return copy_range(in, in_off, out, out_off, len);
	return syscall(SYS_copy_file_range, in, in_off, out, out_off, len, flags);
}

ssize_t
splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return interpose_refuse("splice", fdtable_file(in) != NULL ? in : out);
	return syscall(SYS_splice, in, in_off, out, out_off, len, flags);
}
