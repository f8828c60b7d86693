/* Files under another key: written anew beside the old ones, read back, and only then put in their places. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/fileio.h"
#include "common/path.h"
#include "ctl/page_look.h"
#include "ctl/reencrypt.h"
#include "walcrypt/page.h"
#include "walcrypt/secmem.h"
#include "walcrypt/wal.h"

#define PAGES_AT_ONCE 128
#define BUFFER_LEN (PAGES_AT_ONCE * PAGE_LEN)
_Static_assert(PAGE_LEN == WAL_PAGE_LEN, "one buffer for both");

struct reencrypt_worker {
	struct page_cipher *page_from, *page_to; /* NULL: clear */
	struct wal_cipher *wal_from, *wal_to;
	uint8_t *in, *clear, *out; /* BUFFER_LEN each; clear holds plaintext and is wiped at the end */
};

/* One file's work. */
struct conversion {
	struct reencrypt *r;
	struct reencrypt_worker *w;
	const struct reencrypt_entry *e;
	char old[PATH_MAX], tmp[PATH_MAX], new[PATH_MAX];
	int in, out;
	uint64_t len; /* whole pages */
	uint32_t crc, generation;
	uint64_t nbad; /* pages that are no pages under the old key */
	uint32_t first_bad;
};

static int
ciphers_make(const struct keyset *ks, bool wal, struct page_cipher **page, struct wal_cipher **wal_cipher,
             struct err *err)
{
	if (ks == NULL)
		return 0;
	if ((*page = page_cipher_new(keyset_relation(ks), err)) == NULL)
		return -1;
	return !wal || (*wal_cipher = wal_cipher_new(ks, err)) != NULL ? 0 : -1;
}

struct reencrypt_worker *
reencrypt_worker_new(const struct reencrypt *r, struct err *err)
{
	struct reencrypt_worker *w = calloc(1, sizeof(*w));

	if (w == NULL || posix_memalign((void **)&w->in, 4096, BUFFER_LEN) != 0 ||
	    posix_memalign((void **)&w->clear, 4096, BUFFER_LEN) != 0 ||
	    posix_memalign((void **)&w->out, 4096, BUFFER_LEN) != 0) {
		err_nomem(err);
		goto fail;
	}
	if (ciphers_make(r->from, r->record.wal, &w->page_from, &w->wal_from, err) != 0 ||
	    ciphers_make(r->to, r->record.wal, &w->page_to, &w->wal_to, err) != 0)
		goto fail;
	return w;
fail:
	reencrypt_worker_free(w);
	return NULL;
}

void
reencrypt_worker_free(struct reencrypt_worker *w)
{
	if (w == NULL)
		return;
	page_cipher_free(w->page_from);
	page_cipher_free(w->page_to);
	wal_cipher_free(w->wal_from);
	wal_cipher_free(w->wal_to);
	if (w->clear != NULL)
		secmem_wipe(w->clear, BUFFER_LEN);
	free(w->in);
	free(w->clear);
	free(w->out);
	free(w);
}

bool
reencrypt_same_wal(const struct keyset *from, const struct keyset *to)
{
	if (from == NULL || to == NULL)
		return false;
	for (size_t i = 0; i < keyset_nepochs(from); i++) {
		const struct keyset_epoch *a = keyset_epoch_at(from, i);
		const struct keyset_epoch *b = keyset_wal_read(to, a->number % KEYSET_MAX_EPOCHS);

		if (b == NULL || b->number != a->number || b->key.len != a->key.len ||
		    !secmem_equal(a->key.bytes, b->key.bytes, sizeof(a->key.bytes)))
			return false;
	}
	return true;
}

/* Pages of w->in as the server sees them into w->clear, and under the new key into w->out. */
static int
relation_pages(struct conversion *c, uint32_t n, uint64_t offset, struct err *err)
{
	bool checksums = c->r->control.checksum_version != 0;
	struct reencrypt_worker *w = c->w;
	struct page_at at = c->e->is.at;

	at.block += (uint32_t)(offset / PAGE_LEN);
	if (w->page_from == NULL)
		memcpy(w->clear, w->in, (size_t)n * PAGE_LEN);
	else if (page_decrypt_many(w->page_from, &at, w->in, w->clear, n, err) != 0)
		return -1;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *page = w->clear + (size_t)i * PAGE_LEN;

		if (!page_is_zero(page) && page_look(page, at.block + i, checksums) != PAGE_LOOKS_GOOD && c->nbad++ == 0)
			c->first_bad = at.block + i;
	}
	if (w->page_to == NULL) {
		memcpy(w->out, w->clear, (size_t)n * PAGE_LEN);
		return 0;
	}
	if (page_encrypt_many(w->page_to, &at, w->clear, w->out, n, err) != 0)
		return -1;
	/* what was read is not needed any more: its buffer takes what the new key makes of the new pages */
	if (page_decrypt_many(w->page_to, &at, w->out, w->in, n, err) != 0)
		return -1;
	return memcmp(w->in, w->clear, (size_t)n * PAGE_LEN) == 0
	           ? 0
	           : err_set(err, ERR_FAILED, "pages of \"%s\" do not decrypt to what was encrypted", c->e->path);
}

/*
 * One WAL page. Each file has a generation of its own, because a page may be in two files with different contents (a
 * timeline that was left in the middle of a page). What a recycled file still holds from its earlier life is made zero:
 * no server reads it, and elsewhere it may be there with other contents. Zeros that were read from ciphertext stay raw
 * (W3).
 */
static int
wal_page(struct conversion *c, const uint8_t *in, uint8_t *clear, uint8_t *out, uint64_t expected, struct err *err)
{
	uint8_t again[WAL_PAGE_LEN];
	enum wal_page_kind kind;
	struct wal_header h;

	kind = wal_page_look(in, WAL_PAGE_LEN, &h);
	if ((kind != WAL_PAGE_CLEAR && kind != WAL_PAGE_ENCRYPTED) || h.pageaddr != expected || h.tli > c->e->is.tli) {
		memset(out, 0, WAL_PAGE_LEN);
		return 0;
	}
	if (kind == WAL_PAGE_CLEAR)
		memcpy(clear, in, WAL_PAGE_LEN);
	else if (c->w->wal_from == NULL)
		return err_set(err, ERR_REFUSED, "\"%s\" holds encrypted WAL, but the data directory has no keys", c->e->path);
	else if (wal_page_decrypt(c->w->wal_from, in, clear, err) != 0)
		return err_context(err, "\"%s\"", c->e->path);
	if (c->w->wal_to == NULL) {
		memcpy(out, clear, WAL_PAGE_LEN);
		return 0;
	}
	if (wal_page_encrypt(c->w->wal_to, c->generation, c->w->wal_from != NULL, clear, out, err) != 0 ||
	    wal_page_decrypt(c->w->wal_to, out, again, err) != 0)
		return err_context(err, "\"%s\"", c->e->path);
	return memcmp(again, clear, WAL_PAGE_LEN) == 0
	           ? 0
	           : err_set(err, ERR_FAILED, "pages of \"%s\" do not decrypt to what was encrypted", c->e->path);
}

static int
wal_pages(struct conversion *c, uint32_t n, uint64_t offset, struct err *err)
{
	uint32_t size = c->r->control.wal_segment_size;
	uint64_t start = pgfile_wal_segno(&c->e->is, size) * size + offset;

	for (size_t at = 0; at < (size_t)n * WAL_PAGE_LEN; at += WAL_PAGE_LEN)
		if (wal_page(c, c->w->in + at, c->w->clear + at, c->w->out + at, start + at, err) != 0)
			return -1;
	return 0;
}

static bool
all_zero(const uint8_t *data, size_t len)
{
	return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

/* All pages of c->in into c->out. sparse: holes stay holes. */
static int
pages_convert(struct conversion *c, bool sparse, struct err *err)
{
	for (uint64_t offset = 0; offset < c->len; offset += BUFFER_LEN) {
		size_t len = c->len - offset < BUFFER_LEN ? (size_t)(c->len - offset) : BUFFER_LEN;
		uint32_t n = (uint32_t)(len / PAGE_LEN);
		ssize_t got;

		if (atomic_load(&c->r->stop))
			return err_set(err, ERR_MIDWAY, "stopped");
		if ((got = fileio_pread(c->in, c->w->in, len, offset)) != (ssize_t)len)
			return got < 0 ? err_os(err, errno, "could not read file \"%s\"", c->old)
			               : err_set(err, ERR_FAILED, "file \"%s\" became shorter", c->old);
		if ((c->e->is.kind == PGFILE_WAL ? wal_pages : relation_pages)(c, n, offset, err) != 0)
			return -1;
		c->crc = crc32_iscsi(c->w->out, (int)len, c->crc);
		if (!(sparse && all_zero(c->w->out, len)) && fileio_pwrite(c->out, c->w->out, len, offset) != 0)
			return err_os(err, errno, "could not write file \"%s\"", c->tmp);
		/* on its way to the disk while the next ones are worked on; the fsync later is what counts */
		sync_file_range(c->out, (off64_t)offset, (off64_t)len, SYNC_FILE_RANGE_WRITE);
		progress_add(&c->r->progress, len / 2);
	}
	return 0;
}

/* What the disk gives back, past the cache if the system lets us, is what was written. */
static int
read_back(struct conversion *c, struct err *err)
{
	uint32_t crc = 0;

	posix_fadvise(c->out, 0, 0, POSIX_FADV_DONTNEED);
	for (uint64_t offset = 0; offset < c->len; offset += BUFFER_LEN) {
		size_t len = c->len - offset < BUFFER_LEN ? (size_t)(c->len - offset) : BUFFER_LEN;

		if (fileio_pread(c->out, c->w->out, len, offset) != (ssize_t)len)
			return err_os(err, errno, "could not read file \"%s\" back", c->tmp);
		crc = crc32_iscsi(c->w->out, (int)len, crc);
		/* the other half, now that it is on the disk */
		progress_add(&c->r->progress, len - len / 2);
	}
	return crc == c->crc ? 0 : err_set(err, ERR_FAILED, "file \"%s\" does not read back as it was written", c->tmp);
}

static int
tmp_make(struct conversion *c, struct err *err)
{
	struct stat st;
	bool sparse;

	if ((c->in = open(c->old, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) < 0)
		return err_os(err, errno, "could not open file \"%s\"", c->old);
	if (fstat(c->in, &st) != 0)
		return err_os(err, errno, "could not stat file \"%s\"", c->old);
	if (unlink(c->tmp) != 0 && errno != ENOENT)
		return err_os(err, errno, "could not remove file \"%s\"", c->tmp);
	if ((c->out = open(c->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
		return err_os(err, errno, "could not create file \"%s\"", c->tmp);
	/* a rest behind the last whole page is nothing to any server, and can not be encrypted */
	c->len = (uint64_t)st.st_size - (uint64_t)st.st_size % PAGE_LEN;
	sparse = (uint64_t)st.st_blocks * 512 < c->len;
	if (fchmod(c->out, st.st_mode & 0777) != 0 || ftruncate(c->out, (off_t)c->len) != 0)
		return err_os(err, errno, "could not prepare file \"%s\"", c->tmp);
	if (c->e->is.kind == PGFILE_WAL && wal_random_generation(&c->generation, err) != 0)
		return -1;
	return pages_convert(c, sparse, err);
}

static void
damage_tell(struct conversion *c)
{
	struct reencrypt *r = c->r;

	if (c->nbad == 0)
		return;
	r->damaged += c->nbad;
	pthread_mutex_lock(&r->lock);
	progress_clear(&r->progress);
	printf("%s: %" PRIu64 " pages were damaged before, the first is block %u; carried over as they are\n", c->e->path,
	       c->nbad, c->first_bad);
	fflush(stdout);
	pthread_mutex_unlock(&r->lock);
}

static int
conversion_begin(struct conversion *c, struct reencrypt *r, struct reencrypt_worker *w, const struct reencrypt_entry *e,
                 struct err *err)
{
	int result;

	*c = (struct conversion){.r = r, .w = w, .e = e, .in = -1, .out = -1};
	if (path_format(c->old, err, "%s/%s", r->datadir, e->path) != 0 ||
	    path_format(c->tmp, err, "%s" REENCRYPT_TMP, c->old) != 0 ||
	    path_format(c->new, err, "%s" REENCRYPT_NEW, c->old) != 0)
		return -1;
	if (e->has_new)
		return 0;
	result = tmp_make(c, err);
	if (c->in >= 0)
		close(c->in);
	return result;
}

/* On the disk, and there as it was written. */
static int
conversion_settle(struct conversion *c, struct err *err)
{
	if (c->e->has_new)
		return 0;
	if (fsync(c->out) != 0)
		return err_os(err, errno, "could not fsync file \"%s\"", c->tmp);
	return read_back(c, err);
}

/* Their new names, made durable; one folder after another, of which there are few. */
static int
names_put(struct conversion *all, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (!all[i].e->has_new && rename(all[i].tmp, all[i].new) != 0)
			return err_os(err, errno, "could not rename file \"%s\"", all[i].tmp);
	for (size_t i = 0; i < n; i++) {
		size_t len = (size_t)(strrchr(all[i].new, '/') - all[i].new), j = 0;
		char folder[PATH_MAX];

		if (all[i].e->has_new)
			continue;
		while (j < i && (all[j].e->has_new || strncmp(all[j].new, all[i].new, len + 1) != 0 ||
		                 strchr(all[j].new + len + 1, '/') != NULL))
			j++;
		if (j < i)
			continue;
		memcpy(folder, all[i].new, len);
		folder[len] = '\0';
		if (durable_fsync_dir(folder, err) != 0)
			return -1;
	}
	return 0;
}

/* Room for who has to go on elsewhere. */
static void
conversions_drop(struct conversion *all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!all[i].e->has_new)
			unlink(all[i].tmp);
}

int
reencrypt_files(struct reencrypt *r, struct reencrypt_worker *w, const struct reencrypt_entry *e, size_t n,
                struct err *err)
{
	struct conversion *all = calloc(n, sizeof(*all));
	size_t begun = 0;
	int result = 0;

	if (all == NULL)
		return err_nomem(err);
	while (result == 0 && begun < n) {
		result = conversion_begin(&all[begun], r, w, &e[begun], err);
		begun++;
	}
	for (size_t i = 0; result == 0 && i < n; i++)
		result = conversion_settle(&all[i], err);
	for (size_t i = 0; i < begun; i++)
		if (all[i].out >= 0)
			close(all[i].out);
	if (result == 0)
		result = names_put(all, n, err);
	if (result != 0)
		conversions_drop(all, begun);
	for (size_t i = 0; result == 0 && i < n; i++) {
		if (!e[i].has_new) {
			r->files++;
			r->bytes += all[i].len;
			damage_tell(&all[i]);
		}
		if (e[i].has_old && unlink(all[i].old) != 0 && errno != ENOENT)
			result = err_os(err, errno, "could not remove file \"%s\"", all[i].old);
	}
	free(all);
	return result;
}
