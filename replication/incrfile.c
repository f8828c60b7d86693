#include "replication/incrfile.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/load.h"

#define MAGIC 0xd3ae1f0du

static int
bad(struct err *err, const char *what)
{
	err_set(err, ERR_DAMAGED, "incremental file in the base backup %s", what);
	return err_sqlstate(err, "XX001");
}

bool
incrfile_parse(const char *path, bool in_tablespace, struct pgfile *file)
{
	const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
	char plain[512];
	size_t len = (size_t)(name - path);

	if (strncmp(name, INCRFILE_PREFIX, strlen(INCRFILE_PREFIX)) != 0 || strlen(path) >= sizeof(plain))
		return false;
	memcpy(plain, path, len);
	memcpy(plain + len, name + strlen(INCRFILE_PREFIX), strlen(name) - strlen(INCRFILE_PREFIX) + 1);
	pgfile_parse(plain, in_tablespace, file);
	return file->kind == PGFILE_RELATION;
}

void
incrfile_free(struct incrfile *f)
{
	free(f->blocks);
	f->blocks = NULL;
}

void
incrfile_begin(struct incrfile *f, const struct pgfile *file, uint64_t size)
{
	incrfile_free(f);
	memset(f, 0, sizeof(*f));
	f->at = file->at;
	f->size = size;
}

static uint64_t
header_len(uint32_t nblocks)
{
	uint64_t len = INCRFILE_HEADER_LEN + UINT64_C(4) * nblocks;

	return nblocks == 0 ? len : (len + PAGE_LEN - 1) / PAGE_LEN * PAGE_LEN;
}

/* The beginning, of at least 12 bytes. */
static int
take_header(struct incrfile *f, const uint8_t *data, struct err *err)
{
	if (load32(data) != MAGIC)
		return bad(err, "has another magic number");
	f->nblocks = load32(data + 4);
	if (f->nblocks > PAGE_BLOCKS_PER_SEGMENT || f->size != header_len(f->nblocks) + (uint64_t)f->nblocks * PAGE_LEN)
		return bad(err, "has another size than its header says");
	f->nheader = (uint32_t)(header_len(f->nblocks) / PAGE_LEN);
	if (f->nblocks > 0 && (f->blocks = malloc(f->nblocks * sizeof(*f->blocks))) == NULL)
		return err_nomem(err);
	return 0;
}

/* The block numbers that stand in page i of the header. */
static int
take_numbers(struct incrfile *f, uint32_t i, const uint8_t *page, struct err *err)
{
	size_t from = i == 0 ? INCRFILE_HEADER_LEN : 0;
	size_t at = i == 0 ? 0 : ((size_t)i * PAGE_LEN - INCRFILE_HEADER_LEN) / 4;

	for (; from < PAGE_LEN && at < f->nblocks; from += 4, at++)
		if ((f->blocks[at] = load32(page + from)) >= PAGE_BLOCKS_PER_SEGMENT)
			return bad(err, "names a block outside its segment");
	return 0;
}

int
incrfile_pages(struct incrfile *f, struct relrekey *r, uint8_t *pages, size_t n, struct err *err)
{
	for (; n > 0; n--, pages += PAGE_LEN, f->npages++) {
		struct page_at at = f->at;

		if (f->npages == 0 && take_header(f, pages, err) != 0)
			return -1;
		if (f->npages < f->nheader) {
			if (take_numbers(f, f->npages, pages, err) != 0)
				return -1;
			continue;
		}
		if (f->npages - f->nheader >= f->nblocks)
			return bad(err, "is longer than its header says");
		at.block += f->blocks[f->npages - f->nheader];
		if (relrekey_pages(r, &at, pages, pages, 1, err) != 0)
			return -1;
	}
	return 0;
}

int
incrfile_end(struct incrfile *f, const uint8_t *rest, size_t len, struct err *err)
{
	if (f->npages == 0)
		return len == INCRFILE_HEADER_LEN ? take_header(f, rest, err) : bad(err, "has no header");
	return len == 0 && f->npages == f->nheader + f->nblocks ? 0 : bad(err, "is cut off");
}
