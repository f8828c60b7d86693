/* Names that change, and roads round the layer. */
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "storage/interpose.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/walfile.h"
#include "walcrypt/pgfile.h"

INTERPOSED int rename(const char *from, const char *to);
INTERPOSED int link(const char *from, const char *to);
INTERPOSED int unlink(const char *path);
INTERPOSED int rmdir(const char *path);
INTERPOSED int mkdir(const char *path, mode_t mode);
INTERPOSED int ioctl(int fd, unsigned long request, ...);
INTERPOSED void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
INTERPOSED_ALIAS("mmap") void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off);
INTERPOSED ssize_t sendfile(int out, int in, off_t *off, size_t len);
INTERPOSED_ALIAS("sendfile") ssize_t sendfile64(int out, int in, off_t *off, size_t len);
INTERPOSED ssize_t copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags);
INTERPOSED ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags);

#define REQUEST_FICLONE 0x40049409ul
#define REQUEST_FICLONERANGE 0x4020940dul

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
parse(const char *path, struct pgfile *pf)
{
	if (process.program == PROGRAM_PASSIVE)
		memset(pf, 0, sizeof(*pf));
	else
		pgfile_parse_suffix(path, pf);
}

/* A relation file read under another name would be decrypted with another tweak. */
static bool
same_place(const struct pgfile *a, const struct pgfile *b)
{
	if (a->kind != PGFILE_RELATION && b->kind != PGFILE_RELATION)
		return true;
	return a->kind == b->kind && a->at.db == b->at.db && a->at.rel == b->at.rel && a->at.block == b->at.block &&
	       a->at.fork == b->at.fork && a->at.temp == b->at.temp;
}

int
rename(const char *from, const char *to)
{
	struct pgfile old, new;

	parse(from, &old);
	parse(to, &new);
	if (!same_place(&old, &new))
		return interpose_refuse("renaming to or from a relation's name", -1);
	if (process.program == PROGRAM_SERVER && old.kind == PGFILE_WAL_RECOVERY &&
	    new.kind == PGFILE_WAL &&walfile_restored(from, to) != 0)
		return -1;
	return raw_rename(from, to);
}

/* Two names of one file would be read under two keys (pg_upgrade --link) or two tweaks. */
int
link(const char *from, const char *to)
{
	struct pgfile old, new;

	parse(from, &old);
	parse(to, &new);
	if (old.kind == PGFILE_RELATION || new.kind == PGFILE_RELATION)
		return interpose_refuse("a hard link", -1);
	return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
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
	if (fd >= 0 && (flags & MAP_ANONYMOUS) == 0 && fdtable_file(fd) != NULL) {
		interpose_refuse("mmap", fd);
		errno = ENODEV;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

ssize_t
sendfile(int out, int in, off_t *off, size_t len)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return interpose_refuse("sendfile", fdtable_file(in) != NULL ? in : out);
	return syscall(SYS_sendfile, out, in, off, len);
}

ssize_t
copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return interpose_refuse("copy_file_range", fdtable_file(in) != NULL ? in : out);
	return syscall(SYS_copy_file_range, in, in_off, out, out_off, len, flags);
}

ssize_t
splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	if (fdtable_file(out) != NULL || fdtable_file(in) != NULL)
		return interpose_refuse("splice", fdtable_file(in) != NULL ? in : out);
	return syscall(SYS_splice, in, in_off, out, out_off, len, flags);
}
