#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/path.h"
#include "ctl/bad_pages.h"
#include "ctl/page_look.h"
#include "ctl/verify.h"
#include "walcrypt/page.h"

#define TORN_TRIES 20 /* a page that a running server is writing is whole again some milliseconds later */

enum page_state { PAGE_GOOD, PAGE_EMPTY, PAGE_CLEAR, PAGE_NONE, PAGE_DAMAGED };

/* sums: the checksum that a DAMAGED page has, and the one it must have. */
static int
page_judge(const struct verify *v, struct page_cipher *cipher, const struct page_at *at, const uint8_t *raw,
           enum page_state *state, uint16_t sums[static 2], struct err *err)
{
	bool checksums = v->control.checksum_version != 0;
	uint8_t clear[PAGE_LEN];
	enum page_looks looks;

	if (page_is_zero(raw)) {
		*state = PAGE_EMPTY;
		return 0;
	}
	if (page_decrypt(cipher, at, raw, clear, err) != 0)
		return -1;
	looks = page_look(clear, at->block, checksums);
	*state = looks == PAGE_LOOKS_GOOD                                  ? PAGE_GOOD
	         : page_look(raw, at->block, checksums) == PAGE_LOOKS_GOOD ? PAGE_CLEAR
	         : looks == PAGE_LOOKS_NO_PAGE                             ? PAGE_NONE
	                                                                   : PAGE_DAMAGED;
	sums[0] = page_stored_checksum(clear);
	sums[1] = page_checksum(clear, at->block);
	return 0;
}

/* A page that did not fit on the first look: while a server runs it may have been caught half written. */
static int
page_again(struct verify *v, int fd, struct page_cipher *cipher, const struct page_at *at, uint64_t offset,
           enum page_state *state, uint16_t sums[static 2], struct err *err)
{
	uint8_t raw[PAGE_LEN];

	for (int try = 0; v->in_use && try < TORN_TRIES && (*state != PAGE_GOOD && *state != PAGE_EMPTY); try++) {
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		/* truncated meanwhile: nothing to be found */
		if (pread(fd, raw, sizeof(raw), (off_t)offset) != (ssize_t)sizeof(raw))
			*state = PAGE_EMPTY;
		else if (page_judge(v, cipher, at, raw, state, sums, err) != 0)
			return -1;
	}
	return 0;
}

static const char *
fork_name(uint8_t fork)
{
	static const char *const names[] = {"main", "fsm", "vm", "init"};

	return fork < sizeof(names) / sizeof(names[0]) ? names[fork] : "unknown";
}

static void
fault_tell(struct bad_pages *bad, const struct data_file *f, uint32_t block, enum page_state state,
           const uint16_t sums[static 2])
{
	const char *fork = fork_name(f->is.at.fork);
	char one[256], many[256];

	switch (state) {
	case PAGE_GOOD:
	case PAGE_EMPTY:
		return;
	case PAGE_CLEAR:
		snprintf(one, sizeof(one), "of the %s fork is not encrypted", fork);
		snprintf(many, sizeof(many), "of the %s fork are not encrypted", fork);
		break;
	case PAGE_NONE:
		snprintf(one, sizeof(one), "of the %s fork is damaged or under another key: its header makes no sense", fork);
		snprintf(many, sizeof(many), "of the %s fork are damaged or under another key: their headers make no sense",
		         fork);
		break;
	case PAGE_DAMAGED:
		snprintf(one, sizeof(one), "of the %s fork is damaged: its checksum is %04x, but must be %04x", fork, sums[0],
		         sums[1]);
		snprintf(many, sizeof(many), "of the %s fork are damaged: their checksums do not fit", fork);
		break;
	}
	bad_pages_add(bad, block, (int)state, one, many);
}

static int
pages_look(struct verify *v, const struct data_file *f, int fd, struct page_cipher *cipher, const uint8_t *buffer,
           size_t npages, uint64_t offset, struct bad_pages *bad, struct err *err)
{
	for (size_t i = 0; i < npages; i++) {
		struct page_at at = f->is.at;
		enum page_state state;
		uint16_t sums[2];

		at.block += (uint32_t)(offset / PAGE_LEN + i);
		if (page_judge(v, cipher, &at, buffer + i * PAGE_LEN, &state, sums, err) != 0 ||
		    page_again(v, fd, cipher, &at, offset + i * PAGE_LEN, &state, sums, err) != 0)
			return -1;
		v->counts.empty_pages += state == PAGE_EMPTY;
		fault_tell(bad, f, at.block, state, sums);
	}
	v->counts.pages += npages;
	return 0;
}

int
verify_relation(struct verify *v, const struct data_file *f, struct page_cipher *cipher, uint8_t *buffer,
                struct err *err)
{
	char path[PATH_MAX];
	struct bad_pages bad = {.v = v, .path = f->path, .what = "block"};
	uint64_t offset = 0;
	ssize_t n;
	int fd, result = -1;

	if (path_format(path, err, "%s/%s", v->datadir, f->path) != 0)
		return -1;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return errno == ENOENT && v->in_use ? 0 : err_os(err, errno, "could not open file \"%s\"", path);
	for (;;) {
		size_t whole;

		if ((n = fileio_pread(fd, buffer, VERIFY_BUFFER_LEN, offset)) < 0) {
			err_os(err, errno, "could not read file \"%s\"", path);
			goto done;
		}
		whole = (size_t)n / PAGE_LEN;
		if (pages_look(v, f, fd, cipher, buffer, whole, offset, &bad, err) != 0)
			goto done;
		/* the server never reads such a rest, but the layer never writes one either: whose bytes are they? */
		for (size_t i = whole * PAGE_LEN; i < (size_t)n; i++)
			if (buffer[i] != 0 && !v->in_use) {
				verify_finding(v, f->path, "holds %zu bytes after its last whole page", (size_t)n - whole * PAGE_LEN);
				break;
			}
		offset += (uint64_t)n;
		progress_add(&v->progress, (uint64_t)n);
		if (n < VERIFY_BUFFER_LEN)
			break;
	}
	v->counts.relation_files++;
	v->counts.relation_bytes += offset;
	bad_pages_end(&bad);
	result = 0;
done:
	close(fd);
	return result;
}
