#include "storage/relfile.h"

#include <string.h>

#include "storage/backupcheck.h"
#include "storage/pagewise.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/unlock.h"

static int
decrypt(int fd, const struct file *f, uint8_t *buf, uint32_t first, uint32_t n)
{
	struct page_at at = f->at;
	struct err err;

	at.block += first;
	return page_decrypt_many(unlock_keys(f)->page, &at, buf, buf, n, &err) == 0 ? 0 : process_fail(&err, fd);
}

/* Pages that begin at off into buf, decrypted; what a file's end leaves of a page reads as if zeros followed. */
static ssize_t
read_pages(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	ssize_t n = raw_pread(fd, buf, len, off);
	size_t rest;

	if (n <= 0)
		return n;
	rest = (size_t)n % PAGE_LEN;
	if (rest != 0 && (size_t)n < len) {
		ssize_t more = raw_pread_full(fd, buf + n, len - (size_t)n, off + n);

		if (more > 0)
			n += more;
		rest = (size_t)n % PAGE_LEN;
	}
	if (rest != 0)
		memset(buf + n, 0, PAGE_LEN - rest);
	if (decrypt(fd, f, buf, (uint32_t)(off / PAGE_LEN), (uint32_t)(((size_t)n + PAGE_LEN - 1) / PAGE_LEN)) != 0)
		return -1;
	return n;
}

ssize_t
relfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off)
{
	if (len == 0 || off < 0)
		return raw_pread(fd, buf, len, off);
	if (f->view == VIEW_RAW) {
		ssize_t n = raw_pread(fd, buf, len, off);

		if (n > 0)
			backupcheck_read(fd, f, buf, (size_t)n, off);
		return n;
	}
	unlock_needed();
	if (off % PAGE_LEN == 0 && len % PAGE_LEN == 0)
		return read_pages(fd, f, buf, len, off);
	return pagewise_read(fd, f, buf, len, off, read_pages);
}

ssize_t
relfile_readv(int fd, const struct file *f, const struct iovec *iov, int n, off_t off)
{
	ssize_t got = raw_preadv(fd, iov, n, off);
	size_t left = got > 0 ? (size_t)got : 0;
	uint32_t block = (uint32_t)(off / PAGE_LEN);

	if (got <= 0 || f->view == VIEW_RAW)
		return got;
	unlock_needed();
	for (int i = 0; i < n && left >= PAGE_LEN; i++) {
		size_t len = (iov[i].iov_len < left ? iov[i].iov_len : left) / PAGE_LEN * PAGE_LEN;

		if (decrypt(fd, f, iov[i].iov_base, block, (uint32_t)(len / PAGE_LEN)) != 0)
			return -1;
		block += (uint32_t)(len / PAGE_LEN);
		left -= len;
	}
	/* what a file's end leaves of a page is no page yet: the server takes it for the end */
	return (ssize_t)((size_t)got - left);
}

ssize_t
relfile_write(int fd, const struct file *f, const uint8_t *data, uint8_t *out, size_t len, off_t off)
{
	struct page_at at = f->at;
	struct err err;

	if (f->view == VIEW_RAW)
		return raw_pwrite(fd, data, len, off);
	if (off < 0 || off % PAGE_LEN != 0 || len % PAGE_LEN != 0) {
		err_set(&err, ERR_REFUSED, "refused to write %zu bytes at %lld: relation files are encrypted in whole pages",
		        len, (long long)off);
		return process_fail(&err, fd);
	}
	unlock_needed();
	at.block += (uint32_t)(off / PAGE_LEN);
	if (page_encrypt_many(keys.page, &at, data, out, (uint32_t)(len / PAGE_LEN), &err) != 0)
		return process_fail(&err, fd);
	return raw_pwrite_units(fd, out, len, off, PAGE_LEN);
}
