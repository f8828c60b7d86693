#include "ctl/reencrypt_file.h"

#include <errno.h>
#include <fcntl.h>
#include <isa-l/crc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/path.h"
#include "ctl/reencrypt.h"

int
reencrypt_file_name(struct reencrypt_file *f, struct reencrypt *r, const struct reencrypt_entry *e, struct err *err)
{
	f->r = r;
	f->e = e;
	f->in = f->out = -1;
	return path_format(f->old, err, "%s/%s", r->datadir, e->path) != 0 ||
	               path_format(f->tmp, err, "%s" REENCRYPT_TMP, f->old) != 0 ||
	               path_format(f->new, err, "%s" REENCRYPT_NEW, f->old) != 0
	           ? -1
	           : 0;
}

/* Blocks for all of it at once, where a file is more than one write: then several threads can write it, and a full disk
 * is known now. A file system that cannot do that allocates as it is written. */
static int
allocate(const struct reencrypt_file *f)
{
	if (f->sparse || f->len <= REENCRYPT_BUFFER_LEN || fallocate(f->out, 0, 0, (off_t)f->len) == 0)
		return 0;
	return errno == ENOSPC || errno == EDQUOT ? -1 : 0;
}

static void
direct_begin(struct reencrypt_file *f)
{
	int flags = fcntl(f->out, F_GETFL);

	f->direct = flags >= 0 && fcntl(f->out, F_SETFL, flags | O_DIRECT) == 0;
}

int
reencrypt_file_open(struct reencrypt_file *f, struct reencrypt *r, const struct reencrypt_entry *e,
                    struct reencrypt_spares *spares, struct err *err)
{
	struct stat st;

	if (reencrypt_file_name(f, r, e, err) != 0)
		return -1;
	if ((f->in = open(f->old, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) < 0)
		return err_os(err, errno, "could not open file \"%s\"", f->old);
	if (fstat(f->in, &st) != 0)
		return err_os(err, errno, "could not stat file \"%s\"", f->old);
	/* a rest behind the last whole page is nothing to any server, and can not be encrypted */
	f->len = (uint64_t)st.st_size - (uint64_t)st.st_size % PAGE_LEN;
	f->sparse = (uint64_t)st.st_blocks * 512 < f->len;
	/* a spare has blocks where a hole is to be */
	if (!f->sparse)
		f->out = reencrypt_spares_take(spares, f->tmp, f->len);
	if (f->out < 0 && (f->out = open(f->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
		return err_os(err, errno, "could not create file \"%s\"", f->tmp);
	if (fchmod(f->out, st.st_mode & 0777) != 0 || ftruncate(f->out, (off_t)f->len) != 0 || allocate(f) != 0)
		return err_os(err, errno, "could not prepare file \"%s\"", f->tmp);
	direct_begin(f);
	return e->is.kind == PGFILE_WAL ? wal_random_generation(&f->generation, err) : 0;
}

void
reencrypt_file_close(struct reencrypt_file *f)
{
	if (f->in >= 0)
		close(f->in);
	if (f->out >= 0)
		close(f->out);
	f->in = f->out = -1;
}

/* A device may want larger units than ours for direct I/O: then through the cache. */
static bool
direct_refused(struct reencrypt_file *f)
{
	int flags;

	if (errno != EINVAL || (flags = fcntl(f->out, F_GETFL)) < 0)
		return false;
	f->direct = false;
	return fcntl(f->out, F_SETFL, flags & ~O_DIRECT) == 0;
}

static int
stretch_write(struct reencrypt_file *f, const uint8_t *data, size_t len, uint64_t offset)
{
	if (fileio_pwrite(f->out, data, len, offset) != 0 &&
	    (!direct_refused(f) || fileio_pwrite(f->out, data, len, offset) != 0))
		return -1;
	/* on its way to the disk while the next ones are worked on; the fsync later is what counts */
	if (!f->direct)
		sync_file_range(f->out, (off64_t)offset, (off64_t)len, SYNC_FILE_RANGE_WRITE);
	return 0;
}

static bool
all_zero(const uint8_t *data, size_t len)
{
	return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

static size_t
part_len(const struct reencrypt_stretch *s, uint64_t offset)
{
	return s->to - offset < REENCRYPT_BUFFER_LEN ? (size_t)(s->to - offset) : REENCRYPT_BUFFER_LEN;
}

int
reencrypt_file_convert(struct reencrypt_file *f, struct reencrypt_pages *p, struct reencrypt_stretch *s,
                       struct err *err)
{
	for (uint64_t offset = s->from; offset < s->to; offset += REENCRYPT_BUFFER_LEN) {
		size_t len = part_len(s, offset);
		ssize_t got;

		if (atomic_load(&f->r->stop))
			return err_set(err, ERR_MIDWAY, "stopped");
		if ((got = fileio_pread(f->in, p->in, len, offset)) != (ssize_t)len)
			return got < 0 ? err_os(err, errno, "could not read file \"%s\"", f->old)
			               : err_set(err, ERR_FAILED, "file \"%s\" became shorter", f->old);
		if (reencrypt_pages_turn(p, f->r, f->e, f->generation, (uint32_t)(len / PAGE_LEN), offset, &s->damage, err) !=
		    0)
			return -1;
		s->crc = crc32_iscsi(p->out, (int)len, s->crc);
		if (!(f->sparse && all_zero(p->out, len)) && stretch_write(f, p->out, len, offset) != 0)
			return err_os(err, errno, "could not write file \"%s\"", f->tmp);
		progress_add(&f->r->progress, len / 2);
	}
	return 0;
}

int
reencrypt_file_settle(struct reencrypt_file *f, struct reencrypt_pages *p, const struct reencrypt_stretch *s,
                      struct err *err)
{
	bool whole = true;
	uint32_t crc = 0;

	if (fsync(f->out) != 0)
		return err_os(err, errno, "could not fsync file \"%s\"", f->tmp);
	/* past the cache all the same, if the system lets us */
	if (!f->direct)
		posix_fadvise(f->out, (off_t)s->from, (off_t)(s->to - s->from), POSIX_FADV_DONTNEED);
	for (uint64_t offset = s->from; whole && offset < s->to; offset += REENCRYPT_BUFFER_LEN) {
		size_t len = part_len(s, offset);
		ssize_t got = fileio_pread(f->out, p->out, len, offset);

		if (got < 0)
			return err_os(err, errno, "could not read file \"%s\" back", f->tmp);
		whole = (size_t)got == len;
		crc = crc32_iscsi(p->out, (int)got, crc);
		/* the other half, now that it is on the disk */
		progress_add(&f->r->progress, len - len / 2);
	}
	return whole && crc == s->crc
	           ? 0
	           : err_set(err, ERR_FAILED, "file \"%s\" does not read back as it was written", f->tmp);
}
