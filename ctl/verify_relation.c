#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fileio.h"
#include "common/path.h"
#include "ctl/page_look.h"
#include "ctl/verify.h"
#include "walcrypt/page.h"

#define TORN_TRIES 20 /* a page that a running server is writing is whole again some milliseconds later */

enum page_state { PAGE_GOOD, PAGE_EMPTY, PAGE_CLEAR, PAGE_BAD };

static int
page_judge(const struct verify *v, struct page_cipher *cipher, const struct page_at *at, const uint8_t *raw,
           enum page_state *state, struct err *err)
{
	bool checksums = v->control.checksum_version != 0;
	uint8_t clear[PAGE_LEN];

	if (page_is_zero(raw)) {
		*state = PAGE_EMPTY;
		return 0;
	}
	if (page_decrypt(cipher, at, raw, clear, err) != 0)
		return -1;
	*state = page_looks_right(clear, at->block, checksums) ? PAGE_GOOD
	         : page_looks_right(raw, at->block, checksums) ? PAGE_CLEAR
	                                                       : PAGE_BAD;
	return 0;
}

/* A page that did not fit on the first look: while a server runs it may have been caught half written. */
static int
page_again(struct verify *v, int fd, struct page_cipher *cipher, const struct page_at *at, uint64_t offset,
           enum page_state *state, struct err *err)
{
	uint8_t raw[PAGE_LEN];

	for (int try = 0; v->in_use && try < TORN_TRIES && (*state == PAGE_BAD || *state == PAGE_CLEAR); try++) {
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		/* truncated meanwhile: nothing to be found */
		if (pread(fd, raw, sizeof(raw), (off_t)offset) != (ssize_t)sizeof(raw))
			*state = PAGE_EMPTY;
		else if (page_judge(v, cipher, at, raw, state, err) != 0)
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

/* What was found in one file, told in one line per kind. */
struct found {
	uint64_t nbad, nclear;
	uint32_t first_bad, first_clear;
};

static void
found_tell(struct verify *v, const struct data_file *f, const struct found *found)
{
	const char *fork = fork_name(f->is.at.fork);

	if (found->nclear > 0)
		verify_finding(v, f->path, "%llu pages are not encrypted, the first is block %u of the %s fork",
		               (unsigned long long)found->nclear, found->first_clear, fork);
	if (found->nbad > 0)
		verify_finding(v, f->path, "%llu pages are damaged or under another key, the first is block %u of the %s fork",
		               (unsigned long long)found->nbad, found->first_bad, fork);
}

static int
pages_look(struct verify *v, const struct data_file *f, int fd, struct page_cipher *cipher, const uint8_t *buffer,
           size_t npages, uint64_t offset, struct found *found, struct err *err)
{
	for (size_t i = 0; i < npages; i++) {
		struct page_at at = f->is.at;
		enum page_state state;

		at.block += (uint32_t)(offset / PAGE_LEN + i);
		if (page_judge(v, cipher, &at, buffer + i * PAGE_LEN, &state, err) != 0 ||
		    page_again(v, fd, cipher, &at, offset + i * PAGE_LEN, &state, err) != 0)
			return -1;
		v->counts.empty_pages += state == PAGE_EMPTY;
		if (state == PAGE_BAD && found->nbad++ == 0)
			found->first_bad = at.block;
		if (state == PAGE_CLEAR && found->nclear++ == 0)
			found->first_clear = at.block;
	}
	v->counts.pages += npages;
	return 0;
}

int
verify_relation(struct verify *v, const struct data_file *f, struct page_cipher *cipher, uint8_t *buffer,
                struct err *err)
{
	char path[PATH_MAX];
	struct found found = {0};
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
		if (pages_look(v, f, fd, cipher, buffer, whole, offset, &found, err) != 0)
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
	found_tell(v, f, &found);
	result = 0;
done:
	close(fd);
	return result;
}
