#include "storage/walsend.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/log.h"
#include "storage/process.h"
#include "storage/raw.h"
#include "storage/run.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

/*
 * The pages in which the last read began and ended: a read begins in one of them (the first when the server reads the
 * same range again, because the file was exchanged under it). They are this command's: another START_REPLICATION may
 * begin anywhere.
 */
static struct {
	uint64_t command;
	struct {
		bool set;
		struct wal_header h;
	} page[2];
} sent;

/* The header of the page that byte off lies in, zeroed when there is none. */
static int
header_at(int fd, off_t off, struct wal_header *h)
{
	uint8_t bytes[WAL_LONG_HEADER_LEN];
	ssize_t n = raw_pread_full(fd, bytes, sizeof(bytes), off - off % WAL_PAGE_LEN);

	if (n < 0)
		return -1;
	wal_page_look(bytes, (size_t)n, h);
	return 0;
}

static bool
same_key(const struct wal_header *a, const struct wal_header *b)
{
	return a->encrypted == b->encrypted && a->generation == b->generation && a->epoch7 == b->epoch7;
}

static bool
continues_another(const struct wal_header *h)
{
	for (int i = 0; i < 2; i++)
		if (sent.page[i].set && sent.page[i].h.pageaddr == h->pageaddr && !same_key(&sent.page[i].h, h))
			return true;
	return false;
}

static int
refuse(const struct wal_header *h)
{
	char lsn[LSN_TEXT_LEN];

	lsn_format(lsn, h->pageaddr);
	log_info("WAL page %s was written under a new generation while it was being sent; the client has to begin the "
	         "segment again",
	         lsn);
	errno = EAGAIN;
	return -1;
}

ssize_t
walsend_read(int fd, uint8_t *buf, size_t len, off_t off)
{
	uint64_t command = process_command();
	struct wal_header first, last;
	unsigned begun;
	ssize_t n;
	int rc;

	if (command != sent.command) {
		memset(&sent, 0, sizeof(sent));
		sent.command = command;
	}
	do {
		begun = run_read_begin();
		n = raw_pread(fd, buf, len, off);
		rc = n > 0 ? header_at(fd, off, &first) : 0;
		if (rc == 0 && n > 0)
			rc = header_at(fd, off + n - 1, &last);
	} while (!run_read_end(begun));
	if (n <= 0 || rc != 0)
		return n <= 0 ? n : -1;
	if (off % WAL_PAGE_LEN != 0 && continues_another(&first))
		return refuse(&first);
	sent.page[0].set = sent.page[1].set = true;
	sent.page[0].h = first;
	sent.page[1].h = last;
	return n;
}
