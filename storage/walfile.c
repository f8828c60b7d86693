#include "storage/walfile.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "storage/pagewise.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/run.h"
#include "storage/unlock.h"
#include "storage/walchange.h"
#include "storage/walrecv.h"
#include "storage/walsend.h"
#include "walcrypt/pgfile.h"

#define RESTORED_TEMP "pg_wal/pgsql_tmp_walcrypt.restored"

/*
 * Recovery takes a page that it cannot read for the end of WAL, and would make the server a primary without what comes
 * behind it. So where the page belongs into its place and only its epoch's key is missing, the server ends instead.
 */
static void
die_for_epoch(int fd, const uint8_t *page, off_t off, struct err *err)
{
	struct wal_header h;
	struct pgfile pf;
	struct stat st;
	char path[PATH_MAX];

	if (err->class != ERR_WRONG_KEY || process_role() != ROLE_STARTUP ||
	    wal_page_look(page, WAL_PAGE_LEN, &h) != WAL_PAGE_ENCRYPTED || fstat(fd, &st) != 0 || st.st_size <= 0 ||
	    st.st_size > UINT32_MAX)
		return;
	process_path(fd, path);
	if (pgfile_parse_suffix(path, &pf) < 0 || pf.kind != PGFILE_WAL ||
	    h.pageaddr != pgfile_wal_segno(&pf, (uint32_t)st.st_size) * (uint64_t)st.st_size + (uint64_t)off)
		return;
	err_context(err, "%s", path);
	process_die(err);
}

/* Pages that begin at off into buf, decrypted; a page that a file's end cuts off reads as if zeros followed. */
static ssize_t
read_pages(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	unsigned begun;
	struct err err;
	ssize_t n;

	do {
		begun = run != NULL ? run_read_begin() : 0;
		n = raw_pread_full(fd, buf, len, off);
	} while (run != NULL && !run_read_end(begun));
	if (n <= 0)
		return n;
	if (n % WAL_PAGE_LEN != 0)
		memset(buf + n, 0, WAL_PAGE_LEN - (size_t)n % WAL_PAGE_LEN);
	for (ssize_t i = 0; i < n; i += WAL_PAGE_LEN)
		if (wal_page_decrypt(unlock_keys(f)->wal, buf + i, buf + i, &err) != 0) {
			die_for_epoch(fd, buf + i, off + i, &err);
			return process_fail(&err, fd);
		}
	return n;
}

ssize_t
walfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	if (f->view == VIEW_SENDER)
		return walsend_read(fd, buf, len, off);
	if (f->view == VIEW_RAW || f->text || len == 0 || off < 0)
		return raw_pread(fd, buf, len, off);
	unlock_needed();
	if (off % WAL_PAGE_LEN == 0 && len % WAL_PAGE_LEN == 0)
		return read_pages(fd, f, buf, len, off);
	/* a part of a page is decrypted from the whole page: only its header says how */
	return pagewise_read(fd, f, buf, len, off, read_pages);
}

static bool
all_zero(const uint8_t *data, size_t len)
{
	return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

static int
encrypt_pages(const uint8_t *data, uint8_t *out, size_t len, struct err *err)
{
	uint32_t generation = atomic_load(&run->generation);

	for (size_t i = 0; i < len; i += WAL_PAGE_LEN)
		if (wal_page_encrypt(keys.wal, generation, i + WAL_PAGE_LEN == len, data + i, out + i, err) != 0)
			return -1;
	return 0;
}

ssize_t
walfile_write(int fd, struct file *f, const uint8_t *data, uint8_t *out, size_t len, off_t off)
{
	struct wal_header h;
	struct err err;

	if (f->view == VIEW_RAW || f->text)
		return raw_pwrite(fd, data, len, off);
	unlock_needed();
	if (f->view == VIEW_RECEIVER) {
		memmove(out, data, len);
		return walrecv_write(fd, f, out, len, off);
	}
	if (f->class == FILE_WAL_TEMP && off == 0 &&
	    (len < WAL_HEADER_LEN || wal_page_look(data, len, &h) == WAL_PAGE_INVALID)) {
		f->text = true;
		return raw_pwrite(fd, data, len, off);
	}
	if (off < 0 || off % WAL_PAGE_LEN != 0 || len % WAL_PAGE_LEN != 0) {
		memmove(out, data, len);
		if (all_zero(out, len))
			return raw_pwrite(fd, out, len, off);
		err_set(&err, ERR_REFUSED, "refused to write %zu bytes at %lld: WAL is encrypted in whole pages", len,
		        (long long)off);
		return process_fail(&err, fd);
	}
	if (encrypt_pages(data, out, len, &err) != 0)
		return process_fail(&err, fd);
	if (f->class == FILE_WAL && process.program == PROGRAM_SERVER &&
	    walchange_first_write(fd, f, off, out, len, &err) != 0)
		return process_fail(&err, fd);
	return raw_pwrite_units(fd, out, len, off, WAL_PAGE_LEN);
}

/*
 * One page of a restored file: 1 if it changed. A page that does not belong where it stands (the tail of a recycled
 * segment) becomes zero: the server would not read it, and its bytes would be clear.
 */
static int
restored_page(uint8_t *page, uint64_t lsn, uint32_t generation, struct err *err)
{
	struct wal_header h;

	switch (wal_page_look(page, WAL_PAGE_LEN, &h)) {
	case WAL_PAGE_ENCRYPTED:
		return 0;
	case WAL_PAGE_CLEAR:
		if (h.pageaddr == lsn)
			return wal_page_encrypt(keys.wal, generation, false, page, page, err) == 0 ? 1 : -1;
		break;
	case WAL_PAGE_ZERO:
	case WAL_PAGE_INVALID:
		break;
	}
	if (all_zero(page, WAL_PAGE_LEN))
		return 0;
	memset(page, 0, WAL_PAGE_LEN);
	return 1;
}

/* Copy in to out with every page encrypted; *changed says whether there was need. */
static int
copy_restored(int in, int out, uint64_t lsn, bool *changed, struct err *err)
{
	static uint8_t page[WAL_PAGE_LEN] __attribute__((aligned(4096)));
	uint32_t generation;
	ssize_t n;

	*changed = false;
	if (wal_random_generation(&generation, err) != 0)
		return -1;
	for (off_t off = 0;; off += WAL_PAGE_LEN) {
		int rc;

		if ((n = raw_pread_full(in, page, WAL_PAGE_LEN, off)) == 0)
			break;
		if (n != WAL_PAGE_LEN)
			return err_set(err, ERR_DAMAGED, "the restored WAL segment does not end with a page");
		if ((rc = restored_page(page, lsn + (uint64_t)off, generation, err)) < 0)
			return -1;
		*changed = *changed || rc > 0;
		if (raw_pwrite_units(out, page, WAL_PAGE_LEN, off, WAL_PAGE_LEN) != WAL_PAGE_LEN)
			return err_os(err, errno, "could not write \"%s\"", RESTORED_TEMP);
	}
	return process_fsync() && raw_fsync(out) != 0 ? err_os(err, errno, "could not flush \"%s\"", RESTORED_TEMP) : 0;
}

int
walfile_restored(const char *path, const char *becomes)
{
	struct pgfile pf;
	struct stat st;
	struct err err;
	bool changed = false;
	int in, out = -1, rc = -1;

	pgfile_parse(becomes, false, &pf);
	if ((in = raw_open(path, O_RDONLY | O_CLOEXEC, 0)) < 0)
		return -1;
	if (fstat(in, &st) != 0 || st.st_size == 0 || st.st_size > UINT32_MAX)
		err_set(&err, ERR_DAMAGED, "the restored WAL segment has no sensible size");
	/* one left by a crash may have been made with another mode */
	else if ((out = raw_open(RESTORED_TEMP, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0 ||
	         fchmod(out, st.st_mode & 0777) != 0)
		err_os(&err, errno, "could not create \"%s\"", RESTORED_TEMP);
	else
		rc = copy_restored(in, out, pgfile_wal_segno(&pf, (uint32_t)st.st_size) * (uint64_t)st.st_size, &changed, &err);
	if (rc != 0)
		process_fail(&err, in);
	raw_close(in);
	if (out >= 0) {
		raw_close(out);
		if (rc == 0 && changed)
			rc = raw_rename(RESTORED_TEMP, path);
		else
			raw_unlink(RESTORED_TEMP);
	}
	if (rc != 0)
		errno = EIO;
	return rc;
}
