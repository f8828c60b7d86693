#include "storage/walrecv.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "storage/process.h"
#include "storage/raw.h"
#include "storage/run.h"
#include "storage/unlock.h"
#include "storage/walchange.h"
#include "walcrypt/pgfile.h"

#define SCAN_LEN (32 * WAL_PAGE_LEN)

/* The page that is arriving. A walreceiver writes one segment at a time, in order. */
static struct {
	bool known;
	uint32_t tli, log, seg; /* of the file it goes to */
	off_t next;             /* where the next piece belongs */
	enum wal_page_kind kind;
	struct wal_header h;         /* as it arrived */
	bool kept;                   /* the page on disk says the same so far and was left alone */
	uint8_t disk[WAL_PAGE_LEN];  /* kept: what it says, decrypted */
	uint8_t image[WAL_PAGE_LEN]; /* kept: what would be written instead, so far */
} page;

/* The generation for clear pages of one segment file. */
static struct {
	bool drawn;
	uint32_t tli, log, seg, generation;
} own;

static int
own_generation(const struct file *f, uint32_t *generation, struct err *err)
{
	if (!own.drawn || own.tli != f->wal.tli || own.log != f->wal.log || own.seg != f->wal.seg) {
		if (wal_random_generation(&own.generation, err) != 0)
			return -1;
		own.drawn = true;
		own.tli = f->wal.tli;
		own.log = f->wal.log;
		own.seg = f->wal.seg;
	}
	*generation = own.generation;
	return 0;
}

/* Find once per open file up to where pages stand that have their place's address: only those need a second look. */
static int
peek(int fd, struct file *f, struct err *err)
{
	static uint8_t buf[SCAN_LEN] __attribute__((aligned(4096)));
	struct pgfile pf = {.tli = f->wal.tli, .log = f->wal.log, .seg = f->wal.seg};
	struct wal_header h;
	struct stat st;
	uint64_t start;

	if (f->wal.peeked)
		return 0;
	if (fstat(fd, &st) != 0 || st.st_size < WAL_PAGE_LEN || st.st_size > UINT32_MAX)
		return err_set(err, ERR_DAMAGED, "WAL segment has no sensible size");
	start = pgfile_wal_segno(&pf, (uint32_t)st.st_size) * (uint64_t)st.st_size;
	for (off_t at = 0; at < st.st_size; at += SCAN_LEN) {
		ssize_t n = raw_pread_full(fd, buf, SCAN_LEN, at);

		if (n < 0)
			return err_os(err, errno, "could not read WAL segment");
		for (ssize_t i = 0; i + WAL_PAGE_LEN <= n; i += WAL_PAGE_LEN) {
			wal_page_look(buf + i, WAL_PAGE_LEN, &h);
			if (h.magic != 0 && h.pageaddr == start + (uint64_t)(at + i))
				f->wal.peek_until = (uint32_t)(at + i) + WAL_PAGE_LEN;
		}
	}
	f->wal.peeked = true;
	return 0;
}

/* Is the page on disk the arriving one under another generation, epoch, or clear? Then its text goes to page.disk. */
static int
look_at_disk(int fd, off_t off, uint32_t generation, unsigned epoch7, struct err *err)
{
	static uint8_t disk[WAL_PAGE_LEN] __attribute__((aligned(4096)));
	struct err ignored;
	struct wal_header h;
	ssize_t n = raw_pread_full(fd, disk, WAL_PAGE_LEN, off);

	if (n < 0)
		return err_os(err, errno, "could not read the WAL page that is to be replaced");
	if (n != WAL_PAGE_LEN)
		return 0;
	wal_page_look(disk, WAL_PAGE_LEN, &h);
	if (h.magic != page.h.magic || h.tli != page.h.tli || h.pageaddr != page.h.pageaddr ||
	    (h.encrypted && h.generation == generation && h.epoch7 == epoch7))
		return 0;
	/* one that cannot be read is replaced all the same: it will differ */
	if (wal_page_decrypt(keys.wal, disk, page.disk, &ignored) != 0)
		memset(page.disk, 0, sizeof(page.disk));
	page.kept = true;
	return 0;
}

static int
page_begin(int fd, struct file *f, const uint8_t *data, size_t len, off_t off, uint32_t *generation, struct err *err)
{
	const struct keyset_epoch *epoch;
	unsigned epoch7;

	page.kept = false;
	if (len < WAL_HEADER_LEN)
		return err_set(err, ERR_DAMAGED, "%zu bytes of a WAL page's header arrived alone", len);
	page.kind = wal_page_look(data, len, &page.h);
	switch (page.kind) {
	case WAL_PAGE_INVALID:
		return err_set(err, ERR_DAMAGED, "what arrived is not a WAL page: it has no valid page header");
	case WAL_PAGE_ZERO:
		return 0;
	case WAL_PAGE_ENCRYPTED:
		*generation = page.h.generation;
		epoch7 = page.h.epoch7;
		break;
	default:
		if ((epoch = keyset_wal_write(keys.set, page.h.tli)) == NULL)
			return err_set(err, ERR_WRONG_KEY, "the keyset has no WAL key for timeline %u", page.h.tli);
		epoch7 = epoch->number % KEYSET_MAX_EPOCHS;
	}
	if (peek(fd, f, err) != 0)
		return -1;
	return off < (off_t)f->wal.peek_until ? look_at_disk(fd, off, *generation, epoch7, err) : 0;
}

/* Turn a piece into what is to stand on disk, in place. A whole page may show which of its granules are zero only at
 * its end (W2). */
static int
seal_piece(uint8_t *data, size_t len, size_t in_page, uint32_t generation, struct err *err)
{
	/* Behind a segment switch a primary that lost power may have half a page without its header, and sends it as it
	 * stands. No server reads what is there; as zeros it is neither clear nor a page of WAL. */
	if (page.kind == WAL_PAGE_ZERO) {
		memset(data, 0, len);
		return 0;
	}
	if (page.kind == WAL_PAGE_ENCRYPTED)
		return 0;
	if (in_page == 0 && len == WAL_PAGE_LEN)
		return wal_page_encrypt(keys.wal, generation, false, data, data, err);
	return wal_range_encrypt(keys.wal, &page.h, generation, true, in_page, data, data, len, err);
}

/* Does the kept page on disk say the same as this piece? */
static int
piece_is_on_disk(const uint8_t *data, size_t len, size_t in_page, struct err *err)
{
	uint8_t text[WAL_PAGE_LEN];
	struct err ignored;

	memcpy(text, data, len);
	if (page.kind == WAL_PAGE_ENCRYPTED && wal_range_decrypt(keys.wal, &page.h, in_page, text, len, &ignored) != 0)
		return 0; /* of an epoch that we do not have: stored as it came */
	(void)err;
	return memcmp(text, page.disk + in_page, len) == 0;
}

/* A piece for a page that was kept so far: 1 if it still is, 0 if it was replaced now. */
static int
keep_or_replace(int fd, const struct file *f, uint8_t *data, size_t len, size_t in_page, uint32_t generation, off_t off,
                struct err *err)
{
	int same = piece_is_on_disk(data, len, in_page, err), rc;

	if (in_page == 0)
		memset(page.image, 0, sizeof(page.image));
	if (seal_piece(data, len, in_page, generation, err) != 0)
		return -1;
	memcpy(page.image + in_page, data, len);
	if (same)
		return 1;
	run_lock();
	rc = walchange_page(fd, f, off - (off_t)in_page, page.image, err);
	run_unlock();
	page.kept = false;
	return rc;
}

/* Is this piece the continuation of the page that we know? */
static bool
continues(const struct file *f, off_t off)
{
	return page.known && page.next == off && page.tli == f->wal.tli && page.log == f->wal.log && page.seg == f->wal.seg;
}

/* Pieces in front of `done` that are to be written go out in one call. */
static int
flush(int fd, const uint8_t *data, size_t *from, size_t to, off_t off, struct err *err)
{
	if (*from < to && raw_pwrite_units(fd, data + *from, to - *from, off + (off_t)*from, to - *from) < 0)
		return err_os(err, errno, "could not write received WAL");
	*from = to;
	return 0;
}

static int
store(int fd, struct file *f, uint8_t *data, size_t len, off_t off, struct err *err)
{
	size_t written = 0, done = 0;
	uint32_t generation = 0;

	if (len % WAL_GRANULE != 0 || off % WAL_GRANULE != 0)
		return err_set(err, ERR_DAMAGED, "WAL arrived in %zu bytes at %lld: not in multiples of 8", len,
		               (long long)off);
	if (off % WAL_PAGE_LEN != 0 && !continues(f, off))
		return err_set(err, ERR_REFUSED, "WAL arrives from the middle of a page on");
	if (page.kind == WAL_PAGE_ENCRYPTED)
		generation = page.h.generation;
	else if (own_generation(f, &generation, err) != 0)
		return -1;
	page.known = false; /* until all is stored */
	while (done < len) {
		size_t in_page = (size_t)((off + (off_t)done) % WAL_PAGE_LEN), n = WAL_PAGE_LEN - in_page;
		int rc = 0;

		if (n > len - done)
			n = len - done;
		if (in_page == 0) {
			if (own_generation(f, &generation, err) != 0 ||
			    page_begin(fd, f, data + done, n, off + (off_t)done, &generation, err) != 0)
				return -1;
		}
		if (!page.kept)
			rc = seal_piece(data + done, n, in_page, generation, err);
		else if (flush(fd, data, &written, done, off, err) != 0 ||
		         (rc = keep_or_replace(fd, f, data + done, n, in_page, generation, off + (off_t)done, err)) < 0)
			return -1;
		else
			written = done + n; /* by the journal, or already there */
		if (rc < 0)
			return -1;
		done += n;
	}
	if (flush(fd, data, &written, done, off, err) != 0)
		return -1;
	page.known = true;
	page.tli = f->wal.tli;
	page.log = f->wal.log;
	page.seg = f->wal.seg;
	page.next = off + (off_t)len;
	return 0;
}

ssize_t
walrecv_write(int fd, struct file *f, uint8_t *data, size_t len, off_t off)
{
	struct err err;

	return store(fd, f, data, len, off, &err) == 0 ? (ssize_t)len : process_fail(&err, fd);
}
